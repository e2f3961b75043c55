"""What the routes work with, built once when the process starts."""

from dataclasses import dataclass

from duly.audit.chain import AuditChain
from duly.cache.cache import Cache
from duly.db.unit import Database
from duly.files.scanning import Clamd
from duly.files.store import FileStore
from duly.identity.context import Identity
from duly.identity.post import Postman
from duly.identity.revocations import Revocations
from duly.kit.paging import Cursors
from duly.operations.health import HealthChecks
from duly.settings import Settings
from duly.web.guard import Guard
from duly.web.limits import RequestLimits
from duly.web.metrics import Metrics
from duly.web.streams import Streams


@dataclass(frozen=True, slots=True)
class Services:
    """One process's tools; `app.state.services` holds them from start to stop."""

    settings: Settings
    database: Database
    guard: Guard
    identity: Identity
    chain: AuditChain
    postman: Postman
    limits: RequestLimits
    revocations: Revocations
    cursors: Cursors
    cache: Cache
    files: FileStore | None
    scanner: Clamd | None
    metrics: Metrics
    health: HealthChecks
    streams: Streams | None
