"""On the path of a measured server: watches its event loop, or takes a trick away, as the environment says.

`PROBE_FILE`: asks the loop for a wake-up every 5 ms and writes how late each comes, a line each: the time of
`time.monotonic`, which all processes of a machine share, the lateness in ms, and for how many ms since the last wake-up
the thread could have run and others had the cores (proc(5), schedstat). `BENCH_WITHOUT`: see `without.py`.
"""

import asyncio
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

EVERY = 0.005
_run = asyncio.Runner.run


def _watch(loop: asyncio.AbstractEventLoop) -> None:
    out = Path(f"{os.environ['PROBE_FILE']}.{os.getpid()}").open("w", buffering=1)  # noqa: SIM115 - to the end
    times = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def waited() -> int:
        """Nanoseconds for which this thread was ready and had no core, since it began."""
        return int(os.pread(times, 64, 0).split()[1])

    def tick(due: float, before: int) -> None:
        now, after = time.monotonic(), waited()
        if now - due > EVERY / 5:
            out.write(f"{now:.4f} {(now - due) * 1000:.2f} {(after - before) / 1e6:.2f}\n")
        loop.call_later(EVERY, tick, now + EVERY, after)

    loop.call_later(EVERY, tick, time.monotonic() + EVERY, waited())


def _run_watched(self: asyncio.Runner, coro: Coroutine[Any, Any, Any], **options: Any) -> Any:
    if "PROBE_FILE" in os.environ:
        _watch(self.get_loop())
    if "BENCH_WITHOUT" in os.environ:
        import without  # here, where the interpreter has started and Duly can be imported

        without.take_away(os.environ["BENCH_WITHOUT"])
    return _run(self, coro, **options)


asyncio.Runner.run = _run_watched
