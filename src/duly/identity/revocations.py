"""Which sessions have ended, known in every process without a query per request."""

import asyncio
import logging
import time
from datetime import datetime, timedelta

from duly.db.conflicts import database_down
from duly.db.unit import Reader
from duly.errors import DulyError
from duly.identity import queries
from duly.kit.clock import now

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
MAX_AGE_SECONDS = 1.0
TIDY_SECONDS = 60.0
# A row may be stamped this long before its transaction commits, or by a clock that is behind: each poll looks back.
OVERLAP = timedelta(seconds=60)


class Revocations:
    """The ended sessions whose access tokens could still be alive.

    A poll reads what was added since the last one, on every worker. When the newest poll is older than one second, the
    next request reads first: a yes is never older than that, and a database that is down makes it a 503, not a yes.
    """

    def __init__(self) -> None:
        self._ended: dict[str, float] = {}
        self._confirmed = float("-inf")
        self._polling: asyncio.Task[bool] | None = None
        self._polled_at: datetime | None = None
        self._tidied = 0.0

    def is_ended(self, session_id: str) -> bool:
        """Whether the session's tokens are refused; ask `is_fresh` first."""
        return session_id in self._ended

    def is_fresh(self) -> bool:
        """Whether the answer is at most one second old."""
        return self._confirmed >= time.monotonic() - MAX_AGE_SECONDS

    def add(self, session_id: str, expires_at: float) -> None:
        """Take effect in this process at once, when the transaction that ended the session is durable."""
        self._ended[session_id] = expires_at

    async def confirm(self, reader: Reader, *, since: float | None = None) -> None:
        """Know what was true at most a second before this call, or at `since` (`time.monotonic`) or later.

        Raises `Unavailable`. Callers share one poll: with a database that hangs they all fail together, not one after
        the other.
        """
        asked = time.monotonic()
        wanted = asked - MAX_AGE_SECONDS if since is None else since
        was_under_way = self._polling is not None and not self._polling.done()
        while self._confirmed < wanted:
            if await self._share_poll(reader):
                continue
            # A poll that began before this call may have failed for what is over by now; one more is asked, once.
            if not was_under_way or time.monotonic() - asked > MAX_AGE_SECONDS:
                raise database_down()
            was_under_way = False

    async def follow(self, reader: Reader) -> None:
        """Poll until cancelled; a database that is down is for the requests to report."""
        try:
            while True:
                served = await self._share_poll(reader)
                await asyncio.sleep(POLL_SECONDS if served else MAX_AGE_SECONDS)
        finally:
            if self._polling is not None and not self._polling.done():
                self._polling.cancel()
                await asyncio.wait({self._polling})

    async def _share_poll(self, reader: Reader) -> bool:
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll(reader), name="poll-revocations")
        polling = self._polling
        # `wait` leaves the poll alone when this caller is cancelled: others wait for the same one.
        await asyncio.wait({polling})
        return not polling.cancelled() and polling.result()

    async def _poll(self, reader: Reader) -> bool:
        asked = time.monotonic()
        moment = now()
        try:
            if self._polled_at is None:
                rows = await reader.fetch(queries.LIVE_BLACKLIST, now=moment)
            else:
                rows = await reader.fetch(queries.RECENT_BLACKLIST, since=self._polled_at - OVERLAP)
        except DulyError:
            return False
        except Exception:  # whatever it is, nobody may pass, and the next poll must come
            log.exception("The ended sessions cannot be read")
            return False
        for session_id, expires_at in rows:
            self._ended[session_id] = expires_at.timestamp()
        self._polled_at = moment
        self._confirmed = asked
        if asked - self._tidied > TIDY_SECONDS:
            self._tidied = asked
            self._forget_expired(moment.timestamp())
        return True

    def _forget_expired(self, moment: float) -> None:
        for session_id in [key for key, expires_at in self._ended.items() if expires_at < moment]:
            del self._ended[session_id]
