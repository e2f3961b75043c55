"""What a process does beside answering: delivers mail, links the audit log, and removes what is over."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta

from duly.audit.chain import AuditChain
from duly.db.unit import Database
from duly.errors import DulyError
from duly.identity import recovery_queries
from duly.identity.lockout import LOCK
from duly.kit.clock import now
from duly.kit.steps import run_whole
from duly.outbox.relay import Relay, forget_delivered

log = logging.getLogger(__name__)

SEAL_SECONDS = 1.0
SWEEP_SECONDS = 3600.0


class Upkeep:
    """Runs until cancelled. Several processes may do it at once: each step is safe to do twice."""

    def __init__(self, database: Database, relay: Relay, chain: AuditChain, *, audit_days: float) -> None:
        self._database = database
        self._relay = relay
        self._chain = chain
        self._audit_days = audit_days

    async def run(self) -> None:
        """Relay, link and sweep, each at its own pace."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relay.run(), name="relay-outbox")
            group.create_task(_repeat(SEAL_SECONDS, self._seal), name="seal-audit-log")
            group.create_task(_repeat(SWEEP_SECONDS, self._sweep), name="sweep")

    async def _seal(self) -> None:
        await self._chain.seal(self._database)

    async def _sweep(self) -> None:
        begun = time.monotonic()
        async with self._database.unit() as unit:
            await unit.fetch(recovery_queries.DELETE_EXPIRED_TOKENS, now=now() - timedelta(days=1))
            await unit.fetch(recovery_queries.DELETE_OLD_FAILURES, cutoff=now() - 2 * LOCK)
        await forget_delivered(self._database)
        if self._audit_days:
            await self._chain.prune(self._database, now() - timedelta(days=self._audit_days))
        head = await self._chain.head(self._database)
        # Wherever the log is kept, this is kept too: a chain that was written anew does not hold it.
        fields = {"event": "audit.anchor", "entries": head.position, "head": head.hash}
        log.info("The audit log ends at entry %s with %s", head.position, head.hash, extra={"fields": fields})
        log.debug("Swept in %.3f s", time.monotonic() - begun)


async def _repeat(seconds: float, work: Callable[[], Coroutine[None, None, None]]) -> None:
    while True:
        try:
            await run_whole(work())
        except DulyError:
            pass  # the database is down; the requests report it
        except Exception:
            log.exception("%s failed, and is tried again", getattr(work, "__qualname__", "upkeep"))
        await asyncio.sleep(seconds)
