"""The orderly end: say that the process will go, finish what runs, then let the server stop."""

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from duly.operations.health import HealthChecks

log = logging.getLogger(__name__)

# Readiness says 503 for this long before connections are refused, so that a balancer looks away first.
NOTICE_SECONDS = 0.5


@contextlib.contextmanager
def announce_end(health: HealthChecks) -> Iterator[None]:
    """Between SIGTERM or SIGINT and the server's own handler, set `draining` and wait a moment.

    A second signal does not wait.
    Works under any server that has set its handlers by the time the application starts; where none has, as in a
    test, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if not callable(previous[signal.SIGTERM]):
        yield
        return

    def receive(number: int, frame: FrameType | None) -> None:
        handler = previous[signal.Signals(number)]
        assert callable(handler)  # noqa: S101 - looked at above; a server sets both or none
        if health.draining:
            handler(number, frame)
            return
        health.draining = True
        log.info("Told to end: finishing what runs")
        loop.call_soon_threadsafe(loop.call_later, NOTICE_SECONDS, handler, number, frame)

    for number in previous:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
