"""The audit log and the head of its chain, as the database keeps them."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, Text, UniqueConstraint
from sqlalchemy.engine import Dialect
from sqlmodel import Field

from duly.db.tables import Base
from duly.db.types import Instant, ordered_text
from duly.kit.clock import parse_rfc3339, rfc3339

NO_MOMENT = datetime.min.replace(tzinfo=UTC)


class StrictInstant(Instant):
    """What SQLite holds in place of a moment, or in another spelling than Duly's, reads as `NO_MOMENT`."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None] | None:
        """PostgreSQL keeps nothing but moments."""
        return None if dialect.name == "postgresql" else _read_moment


def _read_moment(value: Any) -> datetime:
    try:
        moment = parse_rfc3339(value)
    except (ValueError, TypeError, OverflowError):
        return NO_MOMENT
    return moment if rfc3339(moment) == value else NO_MOMENT


class AuditEntry(Base, table=True):
    """One event. `position`, `hash` and `previous_hash` are empty until it is put into the chain, moments later.

    `origin` is encrypted; `details` is a JSON object of plain values. There is no foreign key: an entry outlives what
    it speaks of.
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        UniqueConstraint("position"),
        Index(None, "at", "id"),
        Index(None, "actor_id", "id"),
        Index(None, "target_id", "id"),
        Index(None, "event", "id"),
    )

    id: str = Field(sa_column=Column(ordered_text(36), primary_key=True))
    position: int | None = Field(default=None, sa_column=Column(BigInteger))
    at: datetime = Field(sa_column=Column(Instant, nullable=False))
    event: str = Field(sa_column=Column(ordered_text(40), nullable=False))
    outcome: str = Field(sa_column=Column(ordered_text(8), nullable=False))
    actor_id: str | None = Field(default=None, sa_column=Column(ordered_text(255)))
    actor_name: str | None = Field(default=None, sa_column=Column(ordered_text(254)))
    target_type: str | None = Field(default=None, sa_column=Column(ordered_text(16)))
    target_id: str | None = Field(default=None, sa_column=Column(ordered_text(255)))
    origin: str | None = Field(default=None, sa_column=Column(Text))
    request_id: str | None = Field(default=None, sa_column=Column(ordered_text(36)))
    details: str = Field(sa_column=Column(Text, nullable=False))
    mac: str = Field(sa_column=Column(ordered_text(43), nullable=False))
    hash: str | None = Field(default=None, sa_column=Column(ordered_text(64)))
    previous_hash: str | None = Field(default=None, sa_column=Column(ordered_text(64)))


class AuditHead(Base, table=True):
    """Where the chain begins and ends, under a keyed hash that the database alone cannot make. One row."""

    __tablename__ = "audit_head"

    id: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
    hash: str = Field(sa_column=Column(ordered_text(64), nullable=False))
    start_position: int = Field(sa_column=Column(BigInteger, nullable=False))
    start_hash: str = Field(sa_column=Column(ordered_text(64), nullable=False))
    mac: str = Field(sa_column=Column(ordered_text(43), nullable=False))
