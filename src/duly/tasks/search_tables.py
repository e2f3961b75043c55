"""What a search looks into: each task's words, and how far each user's are indexed."""

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, Text
from sqlmodel import Field

from duly.db.search import word_list
from duly.db.tables import Base
from duly.db.types import ordered_text
from duly.identity.tables import ID, USER_ID, user_reference


class TaskWords(Base, table=True):
    """One task's folded text and its words, as they were at the position that `SearchPlace` names.

    Full-text indexes lie on it: on PostgreSQL on the column, on SQLite in a table of their own that triggers fill.
    """

    __tablename__ = "task_words"

    number: int | None = Field(
        default=None,
        sa_column=Column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    )
    task_id: str = Field(
        sa_column=Column(
            ordered_text(ID), ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False, index=True, unique=True
        )
    )
    # Without an index, lest a plan go through all of a user's words instead of those that were found.
    user_id: str = Field(sa_column=Column(ordered_text(USER_ID), nullable=False))
    folded: str = Field(sa_column=Column(Text, nullable=False))
    words: str = Field(sa_column=Column(word_list(), nullable=False))


class SearchPlace(Base, table=True):
    """The position in a user's change feed up to which the words are indexed."""

    __tablename__ = "search_places"

    user_id: str = Field(sa_column=user_reference(primary_key=True))
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
