"""Carries "there is something new" between processes; a signal that is lost costs a second, never a change."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable

from duly.kit.ids import new_id
from duly.live.links import FAULTS, Link

log = logging.getLogger(__name__)

# What was announced meanwhile goes together: a busy process sends fifty signals a second, not one for each write.
GATHER_SECONDS = 0.02
PROBE_SECONDS = 10.0
# A link that takes what is sent and brings nothing back, such as PgBouncer's in transaction mode, is none.
ECHO_SECONDS = 3.0
OPEN_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
# PostgreSQL takes less than 8,000 bytes; a name has twelve, and a blank.
MOST_NAMES = 500


class Signals:
    """Sends names to every process and hears theirs, over one link that is opened again when it breaks.

    Each message begins with the sender, who hears it too: so a link is known to work, not only to be open.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._sender = new_id().replace("-", "")[-12:]
        self._pending: set[str] = set()
        self._due = asyncio.Event()
        self._is_open = False
        self._is_lost = False
        self._is_heard = False
        self._was_reported = False
        self._unheard_since: float | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._tell: Callable[[Iterable[str]], None] = lambda _: None

    @property
    def connected(self) -> bool:
        """Whether signals pass: what this process sent came back over the link that is open."""
        return self._is_heard and not self._is_lost

    def send(self, name: str) -> None:
        """Tell the others soon. While the link is broken nothing is kept: they look for themselves."""
        if self._is_open:
            self._pending.add(name)
            self._due.set()

    async def run(self, heard: Callable[[Iterable[str]], None]) -> None:
        """Carry until cancelled; `heard` is called with the names that another process sent."""
        self._tell = heard
        while True:
            try:
                async with asyncio.timeout(OPEN_SECONDS):
                    await self._link.open(self._heard, self._lost)
                await self._carry()
            except FAULTS as error:
                self._report(error)
            finally:
                self._is_open = self._is_lost = self._is_heard = False
                self._unheard_since = None
                self._pending.clear()
                with contextlib.suppress(*FAULTS):
                    await self._link.close()
            await asyncio.sleep(self._pause)
            self._pause = min(LONGEST_PAUSE_SECONDS, self._pause * 2)

    async def _carry(self) -> None:
        self._is_open = True
        await self._post([])
        while True:
            was_answered = self._unheard_since is None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_SECONDS if was_answered else ECHO_SECONDS):
                    await self._due.wait()
            self._due.clear()
            if self._is_lost:
                raise ConnectionError("the connection was closed")
            if self._unheard_since is not None and time.monotonic() - self._unheard_since >= ECHO_SECONDS:
                raise TimeoutError("what is sent does not come back")
            names = list(self._pending)
            self._pending.clear()
            for first in range(0, len(names), MOST_NAMES):
                await self._post(names[first : first + MOST_NAMES])
            if not names and was_answered:
                await self._post([])
            await asyncio.sleep(GATHER_SECONDS)

    async def _post(self, names: Iterable[str]) -> None:
        if self._unheard_since is None:
            self._unheard_since = time.monotonic()
        await self._link.send(" ".join([self._sender, *names]))

    def _heard(self, text: str) -> None:
        sender, *names = text.split(" ")
        if sender != self._sender:
            self._tell(names)
            return
        self._unheard_since = None
        self._is_heard = True
        self._pause = FIRST_PAUSE_SECONDS
        if self._was_reported:
            self._was_reported = False
            log.warning("Signals pass between the processes again")

    def _lost(self) -> None:
        self._is_lost = True
        self._due.set()

    def _report(self, error: Exception) -> None:
        if not self._was_reported:
            self._was_reported = True
            log.warning(
                "No signals pass between the processes (%s: %s); what another process changes is seen within a second",
                type(error).__name__, error,
            )  # fmt: skip
