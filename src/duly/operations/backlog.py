"""What waits in the database, looked at once a second at most, however many ask."""

import asyncio
import time
from dataclasses import dataclass

from sqlalchemy import select

from duly.audit.queries import UNSEALED_COUNT
from duly.db.statements import Statement
from duly.db.unit import Database
from duly.errors import DulyError
from duly.kit.clock import now
from duly.outbox.queries import DEAD_COUNT, OLDEST_WAITING, WAITING_COUNT

LOOK_SECONDS = 0.5
FRESH_SECONDS = 1.0

LOOK = Statement(select(WAITING_COUNT, DEAD_COUNT, OLDEST_WAITING, UNSEALED_COUNT))


@dataclass(frozen=True, slots=True)
class Backlog:
    """Messages and audit entries whose turn has not come. A count ends at `MOST_COUNTED`."""

    outbox_waiting: int
    outbox_dead: int
    outbox_oldest_seconds: float
    audit_unsealed: int


class BacklogLook:
    """Asks the database. Who asks while it is being asked, or just was, shares the answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looking: asyncio.Task[Backlog | None] | None = None
        self._seen: Backlog | None = None
        self._seen_at = float("-inf")

    async def take(self) -> Backlog | None:
        """The backlog, at most a second old; None when the database does not answer within half a second."""
        if time.monotonic() - self._seen_at < FRESH_SECONDS:
            return self._seen
        if self._looking is None or self._looking.done():
            # A look that is late goes on: broken off, each scrape would cost a hung server a connection more.
            self._looking = asyncio.create_task(self._look(), name="look-at-backlog")
        await asyncio.wait({self._looking}, timeout=LOOK_SECONDS)
        return self._looking.result() if self._looking.done() else None

    async def close(self) -> None:
        """Break off what is under way."""
        if self._looking is not None and not self._looking.done():
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look(self) -> Backlog | None:
        try:
            row = await self._database.first(LOOK)
        except DulyError:
            self._seen = None
        else:
            assert row is not None  # noqa: S101 - a select without FROM has one row
            waiting, dead, oldest, unsealed = row
            age = max(0.0, (now() - oldest).total_seconds()) if oldest is not None else 0.0
            self._seen = Backlog(waiting, dead, age, unsealed)
        self._seen_at = time.monotonic()
        return self._seen
