"""The closed set of events, and who and where they come from."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

DetailValue = str | int | bool | None


class Event(StrEnum):
    """Everything that is ever audited; the names are part of the contract."""

    USER_REGISTERED = "user.registered"
    USER_LOGGED_IN = "user.logged_in"
    USER_LOGIN_FAILED = "user.login_failed"
    USER_LOCKED = "user.locked"
    USER_UNLOCKED = "user.unlocked"
    USER_LOGGED_OUT = "user.logged_out"
    USER_LOGGED_OUT_EVERYWHERE = "user.logged_out_everywhere"
    USER_UPDATED = "user.updated"
    USER_ROLE_CHANGED = "user.role_changed"
    USER_DEACTIVATED = "user.deactivated"
    USER_ACTIVATED = "user.activated"
    USER_DELETED = "user.deleted"
    USERS_LISTED = "users.listed"
    USERS_BULK_CHANGED = "users.bulk_changed"
    SESSION_REFRESHED = "session.refreshed"
    SESSION_REVOKED = "session.revoked"
    TOKEN_REUSED = "token.reused"  # noqa: S105 - the name of an event
    PASSWORD_CHANGED = "password.changed"  # noqa: S105 - the name of an event
    PASSWORD_RESET_REQUESTED = "password.reset_requested"  # noqa: S105 - the name of an event
    PASSWORD_RESET = "password.reset"  # noqa: S105 - the name of an event
    PASSWORD_REHASHED = "password.rehashed"  # noqa: S105 - the name of an event
    EMAIL_VERIFIED = "email.verified"
    EMAIL_CHANGE_REQUESTED = "email.change_requested"
    EMAIL_CHANGED = "email.changed"
    ADMIN_REGISTERED = "admin.registered"
    ACCESS_DENIED = "access.denied"
    RATE_LIMITED = "rate.limited"
    DATA_EXPORTED = "data.exported"
    DATA_IMPORTED = "data.imported"
    FILE_INFECTED = "file.infected"
    KEY_ROTATED = "key.rotated"
    OUTSIDE_USER_FIRST_SEEN = "outside_user.first_seen"
    AUDIT_READ = "audit.read"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from, as it shows itself; each part is bounded by whoever reads the request."""

    ip_address: str | None = None
    user_agent: str | None = None
    device: str | None = None
    request_id: str | None = None


NOWHERE = Origin()
"""The command line, and work that no request asked for."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it; the name is kept as it was then."""

    id: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as it is read. `hash` covers all of it and `previous_hash`, which is the entry before."""

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
    details: dict[str, DetailValue]
    hash: str | None
    previous_hash: str | None
