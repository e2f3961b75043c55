"""What a search looks into and what two orders of lists walk along, and how far each user's tasks are indexed."""

from datetime import datetime

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Text
from sqlmodel import Field

from duly.db.search import word_list
from duly.db.tables import Base
from duly.db.types import Instant, ordered_text
from duly.identity.tables import ID, USER_ID, user_reference
from duly.tasks.tables import TITLE_LENGTH


class TaskWords(Base, table=True):
    """One task's folded text and its words, as they were at the position that `SearchPlace` names.

    Full-text indexes lie on it: on PostgreSQL on the column, on SQLite in a table of their own that triggers fill.
    The sort keys are here because an index on the tasks would have to be kept by every write.
    """

    __tablename__ = "task_words"
    __table_args__ = (
        Index("ix_task_words_user_id_updated_at", "user_id", "updated_at", "task_id"),
        Index("ix_task_words_user_id_title_key", "user_id", "title_key", "task_id"),
    )

    number: int | None = Field(
        default=None,
        sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    )
    task_id: str = Field(
        sa_column=Column(
            ordered_text(ID), ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False, index=True, unique=True
        )
    )
    user_id: str = Field(sa_column=Column(ordered_text(USER_ID), nullable=False))
    folded: str = Field(sa_column=Column(Text, nullable=False))
    words: str = Field(sa_column=Column(word_list(), nullable=False))
    updated_at: datetime | None = Field(default=None, sa_column=Column(Instant))
    title_key: str | None = Field(default=None, sa_column=Column(ordered_text(TITLE_LENGTH)))


class SearchPlace(Base, table=True):
    """The position in a user's change feed up to which the words are indexed."""

    __tablename__ = "search_places"

    user_id: str = Field(sa_column=user_reference(primary_key=True))
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
