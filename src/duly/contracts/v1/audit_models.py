"""The audit log of v1 on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from duly.audit.events import Event
from duly.audit.log import EntryFilter
from duly.contracts.v1.fields import Moment
from duly.contracts.v1.models import Cursor, Identifier, Input, Output, PageQuery


class OwnEntryQuery(PageQuery):
    """Which part of the caller's own events."""

    cursor: Cursor = None

    @model_validator(mode="after")
    def _one_way(self) -> "OwnEntryQuery":
        if self.cursor is not None and self.offset:
            raise PydanticCustomError("cursor_and_offset", "send cursor or offset, not both")
        return self


class EntryQuery(OwnEntryQuery):
    """Which entries; `since` is inclusive, `until` exclusive."""

    event: Event | None = None
    actor_id: Identifier | None = None
    target_id: Identifier | None = None
    outcome: Literal["success", "failure"] | None = None
    since: Moment | None = None
    until: Moment | None = None

    def to_filter(self) -> EntryFilter:
        """The feature's own type."""
        values = self.model_dump()
        return EntryFilter(**{**values, "event": self.event.value if self.event else None})


class VerifyQuery(Input):
    """A hash that was noted outside, if there is one."""

    anchor: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$", description="It must still be in the chain.")] = None


class AuditEntryResponse(Output):
    """One event; `hash` covers everything else and the entry before."""

    id: str
    at: datetime
    event: str
    actor_id: str | None
    actor_name: str | None
    target_type: str | None
    target_id: str | None
    ip_address: str | None
    user_agent: str | None
    request_id: str | None
    outcome: str
    details: dict[str, Any]
    hash: str | None
    previous_hash: str | None


class AuditListResponse(Output):
    """A page of entries, newest first."""

    items: list[AuditEntryResponse]
    total: int
    limit: int
    offset: int
    next_cursor: str | None


class VerificationResponse(Output):
    """What the verification found; `first_bad` is the first entry that is not in order, and `fault` says why."""

    valid: bool
    entries: int
    first_bad: str | None
    head: str
    fault: str | None
