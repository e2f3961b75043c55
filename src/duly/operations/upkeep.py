"""What a process does beside answering: delivers mail, links the audit log, removes what is over and frees memory."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta

from duly.audit.chain import AuditChain
from duly.db.unit import Database
from duly.errors import DulyError
from duly.files.store import FileStore
from duly.identity import recovery_queries
from duly.identity.lockout import LOCK
from duly.identity.sweeps import sweep_sessions
from duly.kit.clock import now
from duly.kit.memory import TRIM_SECONDS, give_memory_back
from duly.kit.steps import run_whole
from duly.operations.replays import forget_answers
from duly.operations.schedule import BackupSchedule
from duly.outbox.relay import Relay, forget_delivered
from duly.tasks import attachments
from duly.tasks.search import catch_up_all
from duly.tasks.trash import purge_trash

log = logging.getLogger(__name__)

SEAL_SECONDS = 1.0
SWEEP_SECONDS = 3600.0


class Upkeep:
    """Runs until cancelled. Several processes may do it at once: each step is safe to do twice."""

    def __init__(
        self,
        database: Database,
        relay: Relay,
        chain: AuditChain,
        files: FileStore | None,
        *,
        audit_days: float,
        backups: BackupSchedule | None = None,
    ) -> None:
        self._database = database
        self._relay = relay
        self._chain = chain
        self._files = files
        self._audit_days = audit_days
        self._backups = backups

    async def run(self) -> None:
        """Relay, link, sweep, back up and give memory back, each at its own pace."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._relay.run(), name="relay-outbox")
            group.create_task(_repeat(SEAL_SECONDS, self._seal), name="seal-audit-log")
            group.create_task(_repeat(SWEEP_SECONDS, self._sweep_and_anchor), name="sweep")
            group.create_task(_repeat(TRIM_SECONDS, give_memory_back), name="give-memory-back")
            if self._backups is not None:
                group.create_task(_back_up(self._backups), name="back-up")

    async def _seal(self) -> None:
        await self._chain.seal(self._database)

    async def sweep(self) -> dict[str, int]:
        """Remove what is over; how many of each kind, in words for an operator."""
        async with self._database.unit() as unit:
            tokens = await unit.fetch(recovery_queries.DELETE_EXPIRED_TOKENS, now=now() - timedelta(days=1))
            failures = await unit.fetch(recovery_queries.DELETE_OLD_FAILURES, cutoff=now() - 2 * LOCK)
        removed = {"one-time tokens": len(tokens), "counts of failed logins": len(failures)}
        swept = await sweep_sessions(self._database)
        removed |= {"sessions": swept.sessions, "refresh tokens": swept.refresh_tokens}
        removed["entries of the blacklist"] = swept.blacklisted
        removed["delivered mails"] = await forget_delivered(self._database)
        removed["answers kept for retries"] = await forget_answers(self._database)
        removed["tasks in the trash"] = await purge_trash(self._database)
        if self._audit_days:
            cutoff = now() - timedelta(days=self._audit_days)
            removed["audit entries"] = await self._chain.prune(self._database, cutoff)
        removed["files without a task"] = await self._sweep_files()
        return removed

    async def _sweep_files(self) -> int:
        if self._files is None:
            return 0
        try:
            return await attachments.sweep(self._database, self._files)
        except DulyError as error:
            # The rest of the upkeep does not need the store; what is left waits for the next time.
            log.warning("Files that no task has were not all removed: %s", error.code)
            return 0

    async def _sweep_and_anchor(self) -> None:
        begun = time.monotonic()
        removed = await self.sweep()
        head = await self._chain.head(self._database)
        # Wherever the log is kept, this is kept too: a chain that was written anew does not hold it.
        fields = {"event": "audit.anchor", "entries": head.position, "head": head.hash}
        log.info("The audit log ends at entry %s with %s", head.position, head.hash, extra={"fields": fields})
        found = ", ".join(f"{count} {kind}" for kind, count in removed.items() if count) or "nothing"
        await catch_up_all(self._database)
        log.debug("Swept %s in %.3f s", found, time.monotonic() - begun)


async def _back_up(schedule: BackupSchedule) -> None:
    # Not as a whole step: a backup takes its time, and the next process makes another one.
    while True:
        try:
            await schedule.run_when_due()
        except Exception:
            log.exception("The scheduled backup failed, and is tried again")
        await asyncio.sleep(schedule.pause)


async def _repeat(seconds: float, work: Callable[[], Coroutine[None, None, None]]) -> None:
    while True:
        try:
            await run_whole(work())
        except DulyError:
            pass  # the database is down; the requests report it
        except Exception:
            log.exception("%s failed, and is tried again", getattr(work, "__qualname__", "upkeep"))
        await asyncio.sleep(seconds)
