"""Tasks, their lists and the change feed of v1 on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from duly.contracts.v1.fields import JSON_INTEGER, Description, Flag, Moment, Search, Tag, Tags, Title
from duly.contracts.v1.models import Cursor, Identifier, Input, Output, PageQuery, QueryNumber
from duly.kit.unset import UNSET
from duly.tasks.drafts import TaskDraft, TaskPatch
from duly.tasks.lists import TaskFilter

Priority = Literal["low", "medium", "high", "urgent"]
Sort = Literal[
    "created_at", "-created_at", "updated_at", "-updated_at", "due_date", "-due_date", "priority", "-priority",
    "title", "-title",
]  # fmt: skip


ReadOver = Annotated[str | None, Field(description="Set by the server alone; what is sent is read over.")]
_TASK_EXAMPLE: dict[str, Any] = {
    "title": "Water the plants",
    "description": "Kitchen and balcony.",
    "priority": "high",
    "due_date": "2026-12-31T09:00:00Z",
    "tags": ["home"],
}
_STORED_EXAMPLE: dict[str, Any] = {
    "id": "019aa0c4-5a3e-7c31-9d5e-0f1b6f0c2a11",
    "user_id": "019aa0c4-1b11-7b02-8c4e-6a7b1d2e3f40",
    **_TASK_EXAMPLE,
    "due_date": "2026-12-31T09:00:00.000000Z",
    "completed": False,
    "completed_at": None,
    "version": 1,
    "created_at": "2026-11-21T15:33:00.000000Z",
    "updated_at": "2026-11-21T15:33:00.000000Z",
}
_PAGE_EXAMPLE: dict[str, Any] = {"items": [_STORED_EXAMPLE], "total": 1, "limit": 50, "offset": 0, "next_cursor": None}


class TaskCreate(Input):
    """A new task; only the title is required."""

    model_config = ConfigDict(json_schema_extra={"examples": [_TASK_EXAMPLE]})

    title: Title
    description: Description | None = None
    completed: Flag = False
    priority: Priority = "medium"
    due_date: Moment | None = None
    tags: Tags | None = Field(default=[])

    def to_draft(self) -> TaskDraft:
        """The feature's own type."""
        return TaskDraft(self.title, self.description, self.completed, self.priority, self.due_date, self.tags or ())


def _describe_merge(schema: dict[str, Any]) -> None:
    # An absent field stays as it is: a default in the document would say something else.
    for field in schema["properties"].values():
        field.pop("default", None)
    schema["examples"] = [{"title": "Water all plants", "due_date": None}]


class TaskUpdate(Input):
    """A merge: a field that is absent stays, `null` clears it.

    A task as it was read may be sent back whole: fields that only the server sets are read over, and `version` acts
    like `If-Match`.
    """

    model_config = ConfigDict(json_schema_extra=_describe_merge)

    title: Title = ""
    description: Description | None = None
    completed: Flag = False
    priority: Priority = "medium"
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


class CompletionUpdate(Input):
    """Whether the task is done; without a body the request turns it over."""

    completed: Flag


class TaskResponse(Output):
    """A task."""

    model_config = ConfigDict(json_schema_extra={"examples": [_STORED_EXAMPLE]})

    id: Identifier
    user_id: Identifier
    title: str
    description: str | None
    completed: bool
    completed_at: datetime | None
    priority: Priority
    due_date: datetime | None
    tags: list[str]
    version: int
    created_at: datetime
    updated_at: datetime


class TaskListResponse(Output):
    """A page of tasks."""

    model_config = ConfigDict(json_schema_extra={"examples": [_PAGE_EXAMPLE]})

    items: list[TaskResponse]
    total: int
    limit: int
    offset: int
    next_cursor: str | None


class ChangeResponse(Output):
    """One change; `task` is the task right after it, null when it went to the trash."""

    cursor: str
    type: Literal["task.created", "task.updated", "task.completed", "task.reopened", "task.deleted", "task.restored"]
    task_id: Identifier
    at: datetime
    task: TaskResponse | None


class ChangeListResponse(Output):
    """A page of the change feed; ask again with `since=next_cursor`."""

    items: list[ChangeResponse]
    next_cursor: str
    has_more: bool


def _word(value: object) -> object:
    # A query has no other spelling of a flag.
    if value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value == "true"


class TaskQuery(PageQuery):
    """Filters, order and page of a task list."""

    status: Literal["all", "pending", "completed"] = "all"
    priority: Priority | None = None
    tag: Tag | None = None
    due_before: Moment | None = None
    due_after: Moment | None = None
    overdue: Annotated[bool | None, BeforeValidator(_word), WithJsonSchema({"type": "boolean"})] = None
    search: Search | None = Field(
        None,
        description="Words in any order. Each begins a word of the title, the description or a tag; case and accents "
        "do not count, and `%` or `_` are themselves.",
    )
    sort: Sort = "-created_at"
    cursor: Cursor = None

    @model_validator(mode="after")
    def _one_place(self) -> "TaskQuery":
        if self.cursor is not None and self.offset:
            raise PydanticCustomError("cursor_and_offset", "send cursor or offset, not both")
        return self

    def to_filter(self, *, trashed: bool = False) -> TaskFilter:
        """The feature's own type."""
        return TaskFilter(
            completed=None if self.status == "all" else self.status == "completed",
            priority=self.priority,
            tag=self.tag,
            due_before=self.due_before,
            due_after=self.due_after,
            overdue=self.overdue,
            search=self.search,
            trashed=trashed,
            sort=self.sort,
            limit=self.limit,
            offset=self.offset,
            cursor=self.cursor,
        )


class ChangeQuery(Input):
    """Where to go on in the change feed."""

    since: Cursor = None
    limit: Annotated[int, Field(ge=1, le=100), QueryNumber] = 50
