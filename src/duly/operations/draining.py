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


class Notice:
    """Whether this process has been told to end. Signals are the process's, so there is one for all its connections."""

    __slots__ = ("given",)

    def __init__(self) -> None:
        self.given = False


NOTICE = Notice()


@contextlib.contextmanager
def announce_end(health: HealthChecks, seconds: float) -> Iterator[None]:
    """Between SIGTERM or SIGINT and the server's own handler, set `draining` and wait so many seconds.

    Readiness says 503 meanwhile, so that a balancer looks away before connections are refused; requests are still
    served, each as the last of its connection (`cli/connections.py`). A second signal does not wait.
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
        health.draining = NOTICE.given = True
        log.info("Told to end: finishing what runs")
        loop.call_soon_threadsafe(loop.call_later, seconds, handler, number, frame)

    for number in previous:
        signal.signal(number, receive)
    try:
        yield
    finally:
        NOTICE.given = False
        for number, handler in previous.items():
            signal.signal(number, handler)
