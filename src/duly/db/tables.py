"""What every table shares: the metadata, its naming convention, and the two times."""

from datetime import datetime

from sqlmodel import Field, SQLModel

from duly.db.types import Instant

# Names that are the same on both dialects, so that migrations and conflicts can speak of them.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(SQLModel):
    """What every table inherits: importing it is what gives constraints and indexes their names."""


class Record(Base):
    """A row that people can see: it knows when it was made and when it last changed."""

    created_at: datetime = Field(sa_type=Instant, nullable=False)
    updated_at: datetime = Field(sa_type=Instant, nullable=False)
