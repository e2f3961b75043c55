"""Attachments of tasks, as the database keeps them; their bytes lie in the file store."""

from datetime import datetime
from typing import Optional

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index
from sqlalchemy.orm import backref, relationship
from sqlmodel import Field, Relationship

from duly.db.tables import Base
from duly.db.types import Instant, ordered_text
from duly.identity.tables import ID, user_reference
from duly.tasks.tables import Task

NAME_LENGTH = 255
TYPE_LENGTH = 100
SHA256_LENGTH = 64
KEY_LENGTH = 38


class Attachment(Base, table=True):
    """One file of a task. It never changes: a new version of a file is another attachment.

    `user_id` is the task's: the quota is counted by it. `key` is where the bytes lie in the file store.
    """

    __tablename__ = "attachments"
    __table_args__ = (
        CheckConstraint("size > 0", name="size"),
        Index("ix_attachments_task_id_id", "task_id", "id"),
        # Holds all that the quota adds up, so that it is read from the index alone.
        Index("ix_attachments_user_id_size", "user_id", "size"),
    )

    id: str = Field(sa_column=Column(ordered_text(ID), primary_key=True))
    task_id: str = Field(sa_column=Column(ordered_text(ID), ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False))
    user_id: str = Field(sa_column=user_reference())
    name: str = Field(sa_column=Column(ordered_text(NAME_LENGTH), nullable=False))
    content_type: str = Field(sa_column=Column(ordered_text(TYPE_LENGTH), nullable=False))
    size: int = Field(sa_column=Column(BigInteger, nullable=False))
    sha256: str = Field(sa_column=Column(ordered_text(SHA256_LENGTH), nullable=False))
    key: str = Field(sa_column=Column(ordered_text(KEY_LENGTH), nullable=False, unique=True))
    created_at: datetime = Field(sa_column=Column(Instant, nullable=False))

    task: Optional["Task"] = Relationship(
        sa_relationship=relationship("Task", lazy="raise", backref=backref("attachments", lazy="raise"))
    )
