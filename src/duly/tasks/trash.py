"""Emptying the trash: what has lain there for thirty days goes for good."""

from datetime import datetime, timedelta

from duly.db.unit import Database
from duly.kit.clock import now
from duly.tasks import history_queries

TRASH_DAYS = 30
# Few enough that nobody waits for the writer, or for a row, longer than for any other request.
AT_ONCE = 100


async def purge_trash(database: Database) -> int:
    """How many tasks were deleted. Any number of processes may do it at once; the feed gets no further change.

    What the feed and the history knew of a deleted task is emptied in the same transaction: its changes keep their
    places, without the task.
    """
    cutoff = now() - timedelta(days=TRASH_DAYS)
    purged = 0
    while count := await _purge_some(database, cutoff):
        purged += count
    return purged


async def _purge_some(database: Database, cutoff: datetime) -> int:
    async with database.unit() as unit:
        rows = await unit.fetch(history_queries.PURGE_TRASH, cutoff=cutoff, limit=AT_ONCE)
        for task_id, user_id in rows:
            await unit.fetch(history_queries.EMPTY_CHANGES, task_id=task_id, user_id=user_id)
    return len(rows)
