"""Messages that wait to be delivered, and what became of them."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Column, Index, Text
from sqlmodel import Field

from duly.db.tables import Base
from duly.db.types import Instant, ordered_text


class OutboxMessage(Base, table=True):
    """One message. `payload` is encrypted, and removed once the message is delivered.

    `waiting` becomes `sent`, `dropped` (there was nobody to send it to) or `dead` (given up, and kept to be seen).
    """

    __tablename__ = "outbox"
    __table_args__ = (
        Index(None, "state", "due_at"),
        Index(None, "recipient_key", "kind", "created_at"),
        CheckConstraint("state IN ('waiting', 'sent', 'dropped', 'dead')", name="state"),
    )

    id: str = Field(sa_column=Column(ordered_text(36), primary_key=True))
    kind: str = Field(sa_column=Column(ordered_text(32), nullable=False))
    recipient_key: str = Field(sa_column=Column(ordered_text(43), nullable=False))
    payload: str | None = Field(default=None, sa_column=Column(Text))
    state: str = Field(sa_column=Column(ordered_text(8), nullable=False))
    attempts: int = Field(default=0)
    created_at: datetime = Field(sa_column=Column(Instant, nullable=False))
    due_at: datetime = Field(sa_column=Column(Instant, nullable=False))
    finished_at: datetime | None = Field(default=None, sa_column=Column(Instant))
    last_error: str | None = Field(default=None, sa_column=Column(ordered_text(300)))
