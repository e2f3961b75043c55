"""Keeps a turn of the event loop short: of many requests that come at once some begin in the next one."""

import asyncio
from time import monotonic
from typing import Final

LONGEST: Final = 0.010
"""Seconds from the first request of a turn in which others may begin. Those behind them begin in the next one: timers,
signals and what else has arrived come in between.
"""
_FORGOTTEN = 1.0  # a loop that was closed in the middle of a turn ends none
_MOST_TURNS = 4  # else a flood that fills every turn could keep somebody waiting


class Turns:
    """Of one event loop."""

    __slots__ = ("_began",)

    def __init__(self) -> None:
        self._began: float | None = None

    def is_over(self, now: float, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a request had better begin in another turn than this one; `now` is of `monotonic`."""
        if self._began is None or now - self._began > _FORGOTTEN:
            self._began = now
            loop.call_soon(self._end)
            return False
        return now - self._began > LONGEST

    def _end(self) -> None:
        self._began = None

    async def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until a turn that has room, or for a few of them."""
        for _ in range(_MOST_TURNS):
            await asyncio.sleep(0)
            if not self.is_over(monotonic(), loop):
                return
