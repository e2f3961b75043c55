"""A task's history on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from duly.contracts.v1.models import Cursor, Identifier, Output, PageQuery

ChangeType = Literal[
    "task.created", "task.updated", "task.completed", "task.reopened", "task.deleted", "task.restored"
]  # fmt: skip
FieldName = Literal["title", "description", "completed", "completed_at", "priority", "due_date", "tags"]
_EXAMPLE: dict[str, Any] = {
    "type": "task.updated",
    "at": "2026-11-21T15:40:00.000000Z",
    "version": 2,
    "session_id": "019aa0c4-3c11-7d20-8a44-2f6b9c0d1e57",
    "changes": {"priority": {"from": "medium", "to": "high"}, "tags": {"from": [], "to": ["home"]}},
}


class HistoryQuery(PageQuery):
    """Which part of a history."""

    cursor: Cursor = None

    @model_validator(mode="after")
    def _one_place(self) -> "HistoryQuery":
        if self.cursor is not None and self.offset:
            raise PydanticCustomError("cursor_and_offset", "send cursor or offset, not both")
        return self


class FieldChangeResponse(Output):
    """One field before and after a change, as the task has it on the wire."""

    before: Annotated[str | bool | list[str] | None, Field(alias="from")]
    after: Annotated[str | bool | list[str] | None, Field(alias="to")]


class HistoryEntryResponse(Output):
    """One change.

    `changes` has what differs; all fields, from null, when the task was created, and none when it went to the trash or
    came back. `session_id` is the session that did it, null when an outside issuer's user did.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    type: ChangeType
    at: datetime
    version: int
    session_id: Identifier | None
    changes: dict[FieldName, FieldChangeResponse]


class HistoryResponse(Output):
    """A page of a task's history, newest first."""

    items: list[HistoryEntryResponse]
    total: int
    limit: int
    offset: int
    next_cursor: str | None
