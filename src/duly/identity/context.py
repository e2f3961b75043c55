"""What the rules of identity work with, put together once when the process starts."""

from dataclasses import dataclass
from typing import Literal

from duly.audit.log import AuditLog
from duly.identity.lockout import Lockout
from duly.identity.one_time import OneTimeTokens
from duly.identity.sessions import SessionKeeper
from duly.kit.passwords import PasswordHasher
from duly.outbox.outbox import Outbox


@dataclass(frozen=True, slots=True)
class Identity:
    """The tools of one process. `password_minimum` is in characters."""

    hasher: PasswordHasher
    sessions: SessionKeeper
    audit: AuditLog
    outbox: Outbox
    tokens: OneTimeTokens
    lockout: Lockout
    password_minimum: int
    registration: Literal["open", "verified", "closed"]
