"""Fills the cache for the people who are most likely to come next."""

import logging
import time
from dataclasses import dataclass

from duly.cache.cache import Cache
from duly.db.unit import Database
from duly.errors import DulyError
from duly.identity.principals import Principal
from duly.tasks.stats import latest_users, read_stats

log = logging.getLogger(__name__)

MOST_USERS = 200
MOST_SECONDS = 2.0
ROWS = 5_000


@dataclass(frozen=True, slots=True)
class Warmed:
    """For how many users something was counted or found, and how long it took."""

    users: int
    milliseconds: float

    def __str__(self) -> str:
        return f"{self.users} {'user' if self.users == 1 else 'users'} in {self.milliseconds:.0f} ms"


async def warm(database: Database, cache: Cache, *, users: int = MOST_USERS, seconds: float = MOST_SECONDS) -> Warmed:
    """Count what the most recently active users will ask for, one after the other, until there are enough or time is
    up. Raises `Unavailable`.
    """  # noqa: D205 - one sentence
    begun = time.monotonic()
    if cache.redis is not None:
        await cache.redis.is_up()  # it connects, which would take the first request too long
    warmed = 0
    for user_id in (await latest_users(database, rows=ROWS))[:users]:
        if time.monotonic() - begun >= seconds:
            break
        await read_stats(database, cache, Principal(user_id, None, None, 0.0))
        warmed += 1
    return Warmed(warmed, (time.monotonic() - begun) * 1000)


async def warm_at_start(database: Database, cache: Cache) -> None:
    """The same beside the first requests; says in the log what came of it, and never raises."""
    try:
        log.info("Cache warmed: %s", await warm(database, cache))
    except DulyError as error:
        log.warning("Cache not warmed: %s", error.message)
