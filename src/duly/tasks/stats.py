"""How many tasks a user has, by state, by due date and by priority."""

from collections.abc import Sequence
from typing import Any

from duly.cache.cache import Cache, Remembered
from duly.db.unit import Reader
from duly.identity.principals import Principal
from duly.kit.clock import now
from duly.kit.zones import day_around
from duly.tasks import queries, stats_queries
from duly.tasks.tables import PRIORITIES

DEFAULT_ZONE = "UTC"
# From here on counting takes longer than asking Redis (docs/performance.md, Cache).
SHARED_FROM = 5_000


async def read_stats(reader: Reader, cache: Cache, actor: Principal, *, zone: str = DEFAULT_ZONE) -> dict[str, Any]:
    """`total, pending, completed, overdue, due_today, by_priority`, all of one moment, and without the trash.

    `overdue` and `due_today` are about pending tasks; one whose time has come today counts in both. `by_priority` is
    about all. `zone`, one of `zone_names()`, decides when today begins and ends.
    """
    row = await reader.first(queries.FIND_COUNTS, user_id=actor.user_id)
    pending, completed, position = row if row is not None else (0, 0, 0)

    async def count() -> Remembered:
        return await _count(reader, actor.user_id, zone)

    is_large = pending + completed >= SHARED_FROM
    found: dict[str, Any] = await cache.remember(actor.user_id, position, f"stats:{zone}", count, shared=is_large)
    return found


async def _count(reader: Reader, user_id: str, zone: str) -> Remembered:
    moment = now()
    starts, ends = day_around(moment, zone)
    row = await reader.first(
        stats_queries.COUNT_STATS, user_id=user_id, now=moment, day_starts=starts, day_ends=ends
    )  # fmt: skip
    position, pending, completed, overdue, due_today, next_due, *priorities = _whole(row)
    counted = dict(zip(stats_queries.COUNTED_PRIORITIES, priorities, strict=True))
    counted[stats_queries.REST] = pending + completed - sum(priorities)
    value = {
        "total": pending + completed,
        "pending": pending,
        "completed": completed,
        "overdue": overdue,
        "due_today": due_today,
        "by_priority": {name: counted[name] for name in PRIORITIES},
    }
    # A task is overdue after its moment, so at that moment itself it is counted anew.
    return Remembered(value, (next_due or ends).timestamp(), position)


def _whole(row: Sequence[Any] | None) -> Sequence[Any]:
    """An account that was removed meanwhile has no counters."""
    found = list(row or ())
    return [number or 0 for number in found[:3]] + found[3:]


async def latest_users(reader: Reader, *, rows: int) -> list[str]:
    """Who created one of the latest tasks, newest first, and then who signed in lately; looks at `rows` of each."""
    found: dict[str, None] = {}
    for statement in (stats_queries.LATEST_WRITERS, stats_queries.LATEST_SESSIONS):
        found |= dict.fromkeys(row[0] for row in await reader.fetch(statement, limit=rows))
    return list(found)
