"""The owner contract on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from duly.contracts.v1.fields import JSON_INTEGER, Description, Flag, Moment, Tags, Title
from duly.contracts.v1.models import Identifier, Input, Output, QueryNumber
from duly.kit.unset import UNSET
from duly.tasks.drafts import TaskDraft, TaskPatch
from duly.tasks.lists import TaskFilter

Urgency = Literal["low", "medium", "high", "urgent"]
ReadOver = Annotated[str | None, Field(description="Set by the server alone; what is sent is read over.")]

_ASKED: dict[str, Any] = {
    "title": "Call the plumber",
    "description": "The tap in the kitchen.",
    "priority": "urgent",
    "due_date": "2026-12-01T17:00:00Z",
    "tags": ["house"],
}
_TASK: dict[str, Any] = {
    **_ASKED,
    "id": "019aa0c4-5a3e-7c31-9d5e-0f1b6f0c2a11",
    "user_id": "019aa0c4-1b11-7b02-8c4e-6a7b1d2e3f40",
    "due_date": "2026-12-01T17:00:00.000000Z",
    "completed": False,
    "completed_at": None,
    "version": 1,
    "created_at": "2026-11-21T15:33:00.000000Z",
    "updated_at": "2026-11-21T15:33:00.000000Z",
}
_PAGINATION: dict[str, Any] = {"total": 1, "limit": 50, "offset": 0, "has_more": False}
_REQUEST: dict[str, Any] = {"request_id": "9b2f6f5e-3a0c-4f5e-8d38-5f0c4f6f4f10"}
_REFUSAL: dict[str, Any] = {
    "code": "USER_MISMATCH",
    "message": "The address names a user who is not the token's. Put your own id there.",
    "details": _REQUEST,
}
_FAULT: dict[str, Any] = {"field": "title", "message": "Field required.", "type": "missing"}


def _example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


class OwnerTaskCreate(Input):
    """A new task; only the title is required."""

    model_config = _example(_ASKED)

    title: Title
    description: Description | None = None
    completed: Flag = False
    priority: Urgency = "medium"
    due_date: Moment | None = None
    tags: Tags | None = Field(default=[])
    user_id: ReadOver = None

    def to_draft(self) -> TaskDraft:
        """The feature's own type."""
        return TaskDraft(self.title, self.description, self.completed, self.priority, self.due_date, self.tags or ())


def _describe_merge(schema: dict[str, Any]) -> None:
    # An absent field stays as it is: a default in the document would say something else.
    for field in schema["properties"].values():
        field.pop("default", None)
    schema["examples"] = [{"title": "Call another plumber", "completed": True}]


class OwnerTaskUpdate(Input):
    """A merge: a field that is absent stays, `null` clears it.

    A task as it was read may be sent back whole: fields that only the server sets are read over, and `version` acts
    like `If-Match`.
    """

    model_config = ConfigDict(json_schema_extra=_describe_merge)

    title: Title = ""
    description: Description | None = None
    completed: Flag = False
    priority: Urgency = "medium"
    due_date: Moment | None = None
    tags: Tags | None = None
    version: Annotated[int, Field(ge=1, le=2**31 - 1), JSON_INTEGER] | None = None
    id: ReadOver = None
    user_id: ReadOver = None
    completed_at: ReadOver = None
    created_at: ReadOver = None
    updated_at: ReadOver = None

    def to_patch(self) -> TaskPatch:
        """The feature's own type: what was not sent is UNSET."""
        sent = {name: getattr(self, name) for name in TaskPatch.__slots__ if name in self.model_fields_set}
        if sent.get("tags", UNSET) is None:
            sent["tags"] = ()
        return TaskPatch(**sent)


class OwnerCompletion(Input):
    """Whether the task is done; it has to be said."""

    model_config = _example({"completed": True})

    completed: Flag


class OwnerTaskQuery(Input):
    """Which of the owner's tasks, and which part of that list."""

    status: Literal["all", "pending", "completed"] = "all"
    limit: Annotated[int, Field(ge=1, le=100), QueryNumber] = 50
    offset: Annotated[int, Field(ge=0, le=1_000_000), QueryNumber] = 0

    def to_filter(self) -> TaskFilter:
        """The feature's own type."""
        completed = None if self.status == "all" else self.status == "completed"
        return TaskFilter(completed=completed, limit=self.limit, offset=self.offset)


class OwnerTask(Output):
    """A task."""

    model_config = _example(_TASK)

    id: Identifier
    user_id: Identifier
    title: str
    description: str | None
    completed: bool
    completed_at: datetime | None
    priority: Urgency
    due_date: datetime | None
    tags: list[str]
    version: int
    created_at: datetime
    updated_at: datetime


class OwnerPagination(Output):
    """Which part of how many: `has_more` is true while a page with a higher offset has tasks."""

    model_config = _example(_PAGINATION)

    total: int
    limit: int
    offset: int
    has_more: bool


class OwnerTaskPage(Output):
    """A page of the owner's tasks, newest first."""

    model_config = _example({"tasks": [_TASK], "pagination": _PAGINATION})

    tasks: list[OwnerTask]
    pagination: OwnerPagination


class OwnerSuccess(Output):
    """What was done, for people."""

    model_config = _example({"success": True, "message": "The task was moved to the trash."})

    success: Literal[True]
    message: str


class OwnerFault(Output):
    """One wrong field."""

    model_config = _example(_FAULT)

    field: str
    message: str
    type: str


class OwnerErrorDetails(Output):
    """`request_id` finds the request in the log."""

    request_id: str


class OwnerValidationDetails(OwnerErrorDetails):
    """One entry for each wrong field."""

    errors: list[OwnerFault]


class OwnerErrorBody(Output):
    """`code` is stable, `message` is for people."""

    code: Annotated[str, Field(pattern="^[A-Z]+(_[A-Z]+)*$")]
    message: str
    details: OwnerErrorDetails


class OwnerValidationBody(OwnerErrorBody):
    """The same with the fields that are wrong."""

    details: OwnerValidationDetails


class OwnerError(Output):
    """A refusal."""

    model_config = _example({"success": False, "error": _REFUSAL})

    success: Literal[False]
    error: OwnerErrorBody


class OwnerValidationError(OwnerError):
    """A refusal with one entry for each wrong field."""

    model_config = _example(
        {"success": False, "error": {
            "code": "VALIDATION_ERROR", "message": "The request has a field that is not valid.",
            "details": {**_REQUEST, "errors": [_FAULT]},
        }}
    )  # fmt: skip

    error: OwnerValidationBody
