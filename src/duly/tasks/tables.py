"""Tasks, each user's counters, and the change feed, as the database keeps them."""

from datetime import datetime
from typing import Any, Optional

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, case, literal_column
from sqlalchemy.orm import backref, relationship
from sqlmodel import Field, Relationship

from duly.db.tables import Base, Record
from duly.db.types import Instant, document, ordered_text, snapshot
from duly.identity.tables import ID, User, user_reference

TITLE_LENGTH = 200
DESCRIPTION_LENGTH = 2000
PRIORITIES = ("low", "medium", "high", "urgent")


class Task(Record, table=True):
    """One task. `version` rises with each change; `deleted_at` is set while it lies in the trash.

    `title_key` and `due_key` are what lists sort by: the folded title, and a due date where none is the last of all.
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
    )

    id: str = Field(sa_column=Column(ordered_text(ID), primary_key=True))
    user_id: str = Field(sa_column=user_reference())
    title: str = Field(sa_column=Column(ordered_text(TITLE_LENGTH), nullable=False))
    title_key: str = Field(sa_column=Column(ordered_text(TITLE_LENGTH), nullable=False))
    description: str | None = Field(default=None, sa_column=Column(ordered_text(DESCRIPTION_LENGTH)))
    completed: bool = False
    completed_at: datetime | None = Field(default=None, sa_column=Column(Instant))
    priority: str = Field(sa_column=Column(ordered_text(6), nullable=False))
    due_date: datetime | None = Field(default=None, sa_column=Column(Instant))
    due_key: datetime = Field(sa_column=Column(Instant, nullable=False))
    tags: list[str] = Field(sa_column=Column(document(), nullable=False))
    version: int = Field(sa_column=Column(Integer, nullable=False))
    deleted_at: datetime | None = Field(default=None, sa_column=Column(Instant))
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


def priority_rank(column: Any) -> Any:
    """low, medium, high, urgent as 1 to 4, which is the order that people mean."""
    return case({name: literal_column(str(rank)) for rank, name in enumerate(PRIORITIES, 1)}, value=column)
