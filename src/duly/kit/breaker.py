"""A circuit breaker for a service that Duly can do without: asked in bounded time, and left alone while it fails."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

# The service is left alone shortly, for it may only have been slow once, and twice as long each time it fails again.
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0
LAST_TURNS = 32  # of the event loop; an idle one takes less than a millisecond for them


class Breaker:
    """Lets questions through to the service, or says that it is to be left alone.

    `seconds` is what an answer may cost the one who asks. `log` is told `falls`, with the kind of fault for its `%s`,
    when the service begins to fail, and `returns` when it answers again.
    """

    def __init__(
        self, *, seconds: float, faults: tuple[type[Exception], ...], log: logging.Logger, falls: str, returns: str
    ) -> None:
        self._seconds = seconds
        self._faults: tuple[type[Exception], ...] = (*faults, TimeoutError)
        self._log = log
        self._falls = falls
        self._returns = returns
        self._asking: set[asyncio.Task[Any]] = set()
        self._is_down = False
        self._pause = FIRST_PAUSE_SECONDS
        self._asks_from = 0.0

    @property
    def is_down(self) -> bool:
        """Whether the service failed when it was last asked."""
        return self._is_down

    @property
    def admits(self) -> bool:
        """Whether the service may be asked now."""
        return time.monotonic() >= self._asks_from

    async def ask(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """The service's answer, where it `admits`. Raises one of `faults`, or TimeoutError, having taken note of it."""
        is_trial = self._is_down
        if is_trial:
            self._asks_from = time.monotonic() + LONGEST_PAUSE_SECONDS  # this request tries, the others go on
        try:
            result = await self._in_time(work())
        except self._faults as error:
            self._leave(error, is_trial=is_trial)
            raise
        self._return()
        return result

    async def close(self) -> None:
        """Break off what is still being asked."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _in_time(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Its result, or TimeoutError.

        A process that was not given the processor for that long, or had more to do than it could, has not waited for
        the service: it looks again, and for some turns of the loop at what has come in meanwhile. Work that is late
        goes on behind the request until the service's own time is up: a connection that takes long to set up, over
        TLS for one, is there for the next trial, where one that is broken off would never be.
        """
        task = asyncio.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asked)
        for _ in range(2):
            begun = time.monotonic()
            await asyncio.wait({task}, timeout=self._seconds)
            if task.done():
                return task.result()
            if time.monotonic() - begun < self._seconds * 1.5:
                break
        for _ in range(LAST_TURNS):
            await asyncio.sleep(0)
            if task.done():
                return task.result()
        raise TimeoutError

    def _asked(self, task: asyncio.Task[Any]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()  # what nobody waits for any more is not to be reported as forgotten

    def _leave(self, error: Exception, *, is_trial: bool) -> None:
        if is_trial:
            self._pause = min(LONGEST_PAUSE_SECONDS, self._pause * 2)
        self._asks_from = time.monotonic() + self._pause
        if not self._is_down:
            self._is_down = True
            self._log.warning(self._falls, type(error.__cause__ or error).__name__)

    def _return(self) -> None:
        if self._is_down:
            self._is_down, self._asks_from, self._pause = False, 0.0, FIRST_PAUSE_SECONDS
            self._log.warning(self._returns)
