"""Removing sessions that are over, with their refresh tokens, and entries of the blacklist that nobody needs."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from duly.db.unit import Database
from duly.identity import sweep_queries as queries
from duly.kit.clock import now

# A live session keeps every refresh token it ever had, so that the reuse of any of them ends it. Once it is over
# there is nothing left to end: what comes back is refused either way, and an operator may want to look for a month.
SESSION_MARGIN = timedelta(days=30)
# For as long the newest session of a device tells that the device is known, and no mail warns of it.
DEVICE_MEMORY = timedelta(days=365)
# No access token of the session is alive; a day more, in case a clock is wrong.
BLACKLIST_MARGIN = timedelta(days=1)
SESSIONS_AT_ONCE = 50
AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Swept:
    """How many rows went."""

    sessions: int
    refresh_tokens: int
    blacklisted: int


async def sweep_sessions(database: Database, *, moment: datetime | None = None) -> Swept:
    """Any number of processes may do it at once. Each transaction is small, so that nobody waits for it."""
    moment = moment or now()
    cutoff, device_cutoff = moment - SESSION_MARGIN, moment - DEVICE_MEMORY
    sessions = tokens = blacklisted = 0
    after = ""
    while rows := await database.fetch(queries.OVER_AFTER, after=after, cutoff=cutoff, limit=SESSIONS_AT_ONCE):
        ids = [row[0] for row in rows]
        after = ids[-1]
        while count := await _delete_tokens(database, ids):
            tokens += count
        async with database.unit() as unit:
            gone = await unit.fetch(
                queries.DELETE_SESSIONS, session_ids=ids, cutoff=cutoff, device_cutoff=device_cutoff
            )
        sessions += len(gone)
    while count := await _delete_blacklisted(database, moment - BLACKLIST_MARGIN):
        blacklisted += count
    return Swept(sessions, tokens, blacklisted)


async def _delete_tokens(database: Database, session_ids: list[str]) -> int:
    async with database.unit() as unit:
        return len(await unit.fetch(queries.DELETE_TOKENS, session_ids=session_ids, limit=AT_ONCE))


async def _delete_blacklisted(database: Database, cutoff: datetime) -> int:
    async with database.unit() as unit:
        return len(await unit.fetch(queries.DELETE_BLACKLISTED, cutoff=cutoff, limit=AT_ONCE))
