"""Tasks, each user's counters, and the change feed, as the database keeps them."""

from datetime import datetime
from typing import Any, Optional

from sqlalchemy import BigInteger, CheckConstraint, Column, Computed, Index, Integer, SmallInteger, Text, text
from sqlalchemy.orm import backref, relationship
from sqlmodel import Field, Relationship

from duly.db.functions import by_dialect
from duly.db.migrations import documents
from duly.db.tables import Base, Record
from duly.db.types import Instant, document, ordered_text, snapshot
from duly.identity.tables import ID, User, user_reference

TITLE_LENGTH = 200
DESCRIPTION_LENGTH = 2000
PRIORITIES = ("low", "medium", "high", "urgent")
# low, medium, high, urgent as 1 to 4, which is the order that people mean.
PRIORITY_KEY = "CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END"

# Which rows an index holds.
# PostgreSQL takes one without the trash for tiny until the table was analysed, and would read all of it for one id.
_kept: dict[str, Any] = {"sqlite_where": text("deleted_at IS NULL")}
_trashed: dict[str, Any] = {f"{name}_where": text("deleted_at IS NOT NULL") for name in ("sqlite", "postgresql")}


class Task(Record, table=True):
    """One task. `version` rises with each change; `deleted_at` is set while it lies in the trash.

    `title_key`, `due_key` and `priority_key` are what lists sort by: the folded title, a due date where none is the
    last of all, and the rank of the priority, which the database computes. So it does `document`, the task as JSON.
    Each index here is paid by every write; orders that are asked for seldom are kept with the words (`search_tables`).
    Counters and change rows are written by the database's own triggers, so no statement can forget them.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint(f"length(title) BETWEEN 1 AND {TITLE_LENGTH}", name="title"),
        CheckConstraint(f"length(description) <= {DESCRIPTION_LENGTH}", name="description"),
        CheckConstraint(f"priority IN {PRIORITIES}", name="priority"),
        CheckConstraint("length(id) > 0", name="id"),
        Index("ix_tasks_user_id_created_at", "user_id", "created_at", "id"),
        Index("ix_tasks_user_id_completed", "user_id", "completed", "created_at", "id"),
        Index("ix_tasks_user_id_due_key", "user_id", "due_key", "id"),
        Index("ix_tasks_user_id_priority_key", "user_id", "priority_key", "id", **_kept),
        Index("ix_tasks_user_id_deleted_at", "user_id", "deleted_at", **_trashed),
        Index("ix_tasks_deleted_at", "deleted_at", **_trashed),
    )

    id: str = Field(sa_column=Column(ordered_text(ID), primary_key=True))
    user_id: str = Field(sa_column=user_reference())
    title: str = Field(sa_column=Column(ordered_text(TITLE_LENGTH), nullable=False))
    title_key: str = Field(sa_column=Column(ordered_text(TITLE_LENGTH), nullable=False))
    description: str | None = Field(default=None, sa_column=Column(ordered_text(DESCRIPTION_LENGTH)))
    completed: bool = False
    completed_at: datetime | None = Field(default=None, sa_column=Column(Instant))
    priority: str = Field(sa_column=Column(ordered_text(6), nullable=False))
    priority_key: int | None = Field(
        default=None, sa_column=Column(SmallInteger, Computed(PRIORITY_KEY, persisted=True))
    )
    due_date: datetime | None = Field(default=None, sa_column=Column(Instant))
    due_key: datetime = Field(sa_column=Column(Instant, nullable=False))
    tags: list[str] = Field(sa_column=Column(document(), nullable=False))
    version: int = Field(sa_column=Column(Integer, nullable=False))
    deleted_at: datetime | None = Field(default=None, sa_column=Column(Instant))
    document: str | None = Field(
        default=None, sa_column=Column(Text, Computed(by_dialect(documents.COLUMN), persisted=True))
    )
    changed_by: str | None = Field(default=None, sa_column=Column(ordered_text(ID)))

    # `User.tasks` is its other side, made from here: identity knows nothing of tasks.
    user: Optional["User"] = Relationship(
        sa_relationship=relationship("User", lazy="raise", backref=backref("tasks", lazy="raise"))
    )


class TaskCounter(Base, table=True):
    """Of one user: the position of the last change, and how many tasks are open and done outside the trash."""

    __tablename__ = "task_counters"

    user_id: str = Field(sa_column=user_reference(primary_key=True))
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
    pending: int = Field(sa_column=Column(Integer, nullable=False))
    completed: int = Field(sa_column=Column(Integer, nullable=False))


class Change(Base, table=True):
    """One change of one task. Positions of a user have no gap, and none is seen before its transaction commits."""

    __tablename__ = "changes"

    user_id: str = Field(sa_column=user_reference(primary_key=True))
    position: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    type: str = Field(sa_column=Column(ordered_text(16), nullable=False))
    task_id: str = Field(sa_column=Column(ordered_text(ID), nullable=False, index=True))
    at: datetime = Field(sa_column=Column(Instant, nullable=False))
    session_id: str | None = Field(default=None, sa_column=Column(ordered_text(ID)))
    task: str = Field(sa_column=Column(snapshot(), nullable=False))
