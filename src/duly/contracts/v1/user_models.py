"""Users of v1 on the wire."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from duly.contracts.v1.auth_models import UserResponse
from duly.contracts.v1.fields import JSON_INTEGER, Email, Flag, Password, PersonName, Search, Username
from duly.contracts.v1.models import Cursor, FieldProblem, Identifier, Input, Output, PageQuery
from duly.contracts.v1.task_models import ReadOver
from duly.identity.users import UserFilter, UserPatch
from duly.kit.unset import UNSET

Role = Literal["user", "admin"]
UserSort = Literal[
    "created_at", "-created_at", "updated_at", "-updated_at", "email", "-email", "username", "-username",
    "name", "-name",
]  # fmt: skip


class UserQuery(PageQuery):
    """Which users, and in what order. A cursor goes on where a page ended; then there is no offset."""

    search: Search | None = Field(None, description="A part of the address, the username or the name.")
    is_active: Annotated[Literal["true", "false"] | None, Field(description="Only these.")] = None
    role: Role | None = None
    sort: UserSort = "-created_at"
    cursor: Cursor = None

    @model_validator(mode="after")
    def _one_way(self) -> "UserQuery":
        if self.cursor is not None and self.offset:
            raise PydanticCustomError("cursor_and_offset", "send cursor or offset, not both")
        return self

    def to_filter(self) -> UserFilter:
        """The feature's own type."""
        return UserFilter(
            search=self.search,
            is_active=None if self.is_active is None else self.is_active == "true",
            role=self.role,
            sort=self.sort,
            limit=self.limit,
            offset=self.offset,
            cursor=self.cursor,
        )


def _describe_merge(schema: dict[str, Any]) -> None:
    # An absent field stays as it is: a default in the document would say something else.
    for field in schema["properties"].values():
        field.pop("default", None)
    schema["examples"] = [{"name": "Ann Example"}]


class UserUpdate(Input):
    """A merge: a field that is absent stays, `null` clears it.

    A user as it was read may be sent back whole. `is_active` and `role` are for administrators; a new `email` goes
    through /users/me/change-email.
    """

    model_config = ConfigDict(json_schema_extra=_describe_merge)

    name: PersonName | None = None
    username: Username | None = None
    is_active: Flag = True
    role: Role = "user"
    email: Email | None = None
    version: Annotated[int, Field(ge=1, le=2**31 - 1), JSON_INTEGER] | None = None
    id: ReadOver = None
    email_verified: Annotated[bool | None, Field(description="Read over.")] = None
    created_at: ReadOver = None
    updated_at: ReadOver = None

    def to_patch(self) -> UserPatch:
        """The feature's own type."""
        sent = self.model_fields_set
        return UserPatch(
            name=self.name if "name" in sent else UNSET,
            username=self.username if "username" in sent else UNSET,
            is_active=self.is_active if "is_active" in sent else UNSET,
            role=self.role if "role" in sent else UNSET,
        )


class DeleteUserRequest(Input):
    """What deleting one's own account needs."""

    current_password: Password


class UserListResponse(Output):
    """A page of users."""

    items: list[UserResponse]
    total: int
    limit: int
    offset: int
    next_cursor: str | None


class UserBulkRequest(Input):
    """One change for up to 100 users."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"action": "set_role", "ids": ["019aa0c4-1b11-7b02-8c4e-6a7b1d2e3f40"], "role": "admin"}]
        }
    )

    action: Literal["activate", "deactivate", "delete", "set_role"]
    ids: Annotated[list[Identifier], Field(min_length=1, max_length=100)]
    role: Role | None = None

    @model_validator(mode="after")
    def _role_when_set(self) -> "UserBulkRequest":
        if (self.action == "set_role") != (self.role is not None):
            raise PydanticCustomError("role_and_action", "send role with set_role, and only with it")
        return self


class ItemProblem(Output):
    """Why one item was refused."""

    code: str
    message: str
    errors: list[FieldProblem] | None


class UserBulkResult(Output):
    """What became of one user; `status` is the code that the single call would have had."""

    index: int
    id: str
    status: int
    user: UserResponse | None
    error: ItemProblem | None


class UserBulkResponse(Output):
    """A result for each user, in order."""

    results: list[UserBulkResult]
    succeeded: int
    failed: int
