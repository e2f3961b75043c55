"""Users, sessions, tokens and failed logins, as the database keeps them."""

from datetime import datetime
from typing import Optional

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Text, UniqueConstraint, false, true
from sqlmodel import Field, Relationship

from duly.db.tables import Base, Record
from duly.db.types import Instant, ordered_text

ID = 36
USER_ID = 255


def user_reference(*, primary_key: bool = False, index: bool = False) -> Column[str]:
    """The owning user: rows go when the user's row goes."""
    key = ForeignKey("users.id", ondelete="CASCADE")
    return Column(ordered_text(USER_ID), key, nullable=False, primary_key=primary_key, index=index)


class User(Record, table=True):
    """A person or program, with an account here or known by an outside issuer's subject.

    `email` is lower case and NULL once the account is deleted, which frees it; `username_key` is the folded name.
    """

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("email"),
        UniqueConstraint("username_key"),
        UniqueConstraint("issuer", "subject"),
        CheckConstraint("role IN ('user', 'admin')", name="role"),
        CheckConstraint("length(id) > 0", name="id"),
        Index(None, "created_at", "id"),
    )

    id: str = Field(sa_column=Column(ordered_text(USER_ID), primary_key=True))
    email: str | None = Field(default=None, sa_column=Column(ordered_text(254)))
    username: str | None = Field(default=None, sa_column=Column(ordered_text(64)))
    username_key: str | None = Field(default=None, sa_column=Column(ordered_text(192)))
    name: str | None = Field(default=None, sa_column=Column(ordered_text(200)))
    role: str = Field(default="user", sa_column=Column(ordered_text(16), nullable=False, server_default="user"))
    is_active: bool = Field(default=True, sa_column_kwargs={"server_default": true()})
    email_verified: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    hashed_password: str | None = Field(default=None, sa_column=Column(Text))
    issuer: str | None = Field(default=None, sa_column=Column(ordered_text(255)))
    subject: str | None = Field(default=None, sa_column=Column(ordered_text(255)))
    version: int = Field(default=1)
    deleted_at: datetime | None = Field(default=None, sa_column=Column(Instant))

    sessions: list["Session"] = Relationship(back_populates="user", sa_relationship_kwargs={"lazy": "raise"})


class Session(Record, table=True):
    """One login on one device. It lives until it is ended, or `expires_at`, or its refresh token runs out.

    `origin` is the client's address and agent, encrypted.
    """

    __tablename__ = "sessions"
    __table_args__ = (Index(None, "user_id", "ended_at"),)

    id: str = Field(sa_column=Column(ordered_text(ID), primary_key=True))
    user_id: str = Field(sa_column=user_reference())
    last_used_at: datetime = Field(sa_column=Column(Instant, nullable=False))
    expires_at: datetime = Field(sa_column=Column(Instant, nullable=False))
    ended_at: datetime | None = Field(default=None, sa_column=Column(Instant))
    end_reason: str | None = Field(default=None, sa_column=Column(ordered_text(32)))
    origin: str | None = Field(default=None, sa_column=Column(Text))
    device: str | None = Field(default=None, sa_column=Column(ordered_text(64)))

    user: Optional["User"] = Relationship(back_populates="sessions", sa_relationship_kwargs={"lazy": "raise"})


class RefreshToken(Record, table=True):
    """One refresh token of a session, as a keyed hash. The child that replaced it is derived from it, not stored."""

    __tablename__ = "refresh_tokens"

    hash: str = Field(sa_column=Column(ordered_text(43), primary_key=True))
    session_id: str = Field(
        sa_column=Column(ordered_text(ID), ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False, index=True)
    )
    expires_at: datetime = Field(sa_column=Column(Instant, nullable=False))
    replaced_at: datetime | None = Field(default=None, sa_column=Column(Instant))


class BlacklistedToken(Record, table=True):
    """A session whose access tokens are refused before they expire, until none of them can be alive."""

    __tablename__ = "blacklisted_tokens"
    __table_args__ = (Index(None, "created_at"),)

    session_id: str = Field(sa_column=Column(ordered_text(ID), primary_key=True))
    user_id: str = Field(sa_column=user_reference(index=True))
    expires_at: datetime = Field(sa_column=Column(Instant, nullable=False, index=True))


class OneTimeToken(Record, table=True):
    """A token that was mailed, as a keyed hash: good once, for one purpose, until `expires_at`."""

    __tablename__ = "one_time_tokens"
    __table_args__ = (Index(None, "user_id", "purpose"),)

    hash: str = Field(sa_column=Column(ordered_text(43), primary_key=True))
    purpose: str = Field(sa_column=Column(ordered_text(24), nullable=False))
    user_id: str = Field(sa_column=user_reference())
    email: str | None = Field(default=None, sa_column=Column(ordered_text(254)))
    expires_at: datetime = Field(sa_column=Column(Instant, nullable=False, index=True))
    used_at: datetime | None = Field(default=None, sa_column=Column(Instant))


class LoginFailure(Base, table=True):
    """Failed logins of one name, from one network or (`network_key` empty) from anywhere, within a window of time.

    Both keys are keyed hashes: names that nobody has are counted like those that somebody has.
    """

    __tablename__ = "login_failures"

    name_key: str = Field(sa_column=Column(ordered_text(43), primary_key=True))
    network_key: str = Field(sa_column=Column(ordered_text(43), primary_key=True))
    failures: int = Field()
    window_started_at: datetime = Field(sa_column=Column(Instant, nullable=False, index=True))
    locked_until: datetime | None = Field(default=None, sa_column=Column(Instant))


class FieldKey(Base, table=True):
    """A key under which fields of this database are encrypted, by its id alone."""

    __tablename__ = "field_keys"

    id: str = Field(sa_column=Column(ordered_text(16), primary_key=True))
    created_at: datetime = Field(sa_column=Column(Instant, nullable=False))
