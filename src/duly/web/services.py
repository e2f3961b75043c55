"""What the routes work with, built once when the process starts."""

from dataclasses import dataclass

from duly.db.unit import Database
from duly.identity.revocations import Revocations
from duly.identity.sessions import SessionKeeper
from duly.kit.paging import Cursors
from duly.kit.passwords import PasswordHasher
from duly.operations.health import HealthChecks
from duly.settings import Settings
from duly.web.guard import Guard


@dataclass(frozen=True, slots=True)
class Services:
    """One process's tools; `app.state.services` holds them from start to stop."""

    settings: Settings
    database: Database
    guard: Guard
    hasher: PasswordHasher
    sessions: SessionKeeper
    revocations: Revocations
    cursors: Cursors
    health: HealthChecks
