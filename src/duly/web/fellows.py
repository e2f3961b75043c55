"""The workers of one server tell each other their figures, so that whichever is asked answers for all.

A scrape reaches one worker, and which one is chance. The supervisor makes a folder that only its user may enter; each
worker takes the lowest number there that is free and listens on a Unix socket of that name. The one that is asked asks
the others at that moment: between two scrapes nothing is written and nothing costs. Every series has a label `worker`,
the number. A worker that died is replaced by one with its number, whose counters begin at zero: to Prometheus a counter
that was reset, which `rate()` knows; summing here instead would look like a reset of the whole each time.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

ASK_SECONDS = 0.5
MOST_BYTES = 16 * 1024 * 1024
_MOST_WORKERS = 256

Blocks = dict[str, tuple[str, str]]
"""Each family's name, its two comment lines, and its samples."""


class Fellows:
    """This worker's place among the others."""

    def __init__(self, folder: Path) -> None:
        """Take a number. Raises OSError when the folder cannot be used."""
        self._folder = folder
        self._lock, self.number = _take_number(folder)
        self._tell: Callable[[], Blocks] = dict
        self._server: asyncio.Server | None = None

    async def open(self, tell: Callable[[], Blocks]) -> None:
        """Answer the others with what `tell` gives. Raises OSError."""
        self._tell = tell
        path = self._path(self.number)
        path.unlink(missing_ok=True)  # of the one that had this number before
        self._server = await asyncio.start_unix_server(self._answer, path)

    async def close(self) -> None:
        """Leave, so that nobody waits for this one."""
        if self._server is not None:
            self._server.close()
            self._path(self.number).unlink(missing_ok=True)
        os.close(self._lock)

    async def ask(self) -> Mapping[int, Blocks | None]:
        """What the other workers tell; None of one that does not answer within half a second."""
        numbers = sorted(int(path.stem) for path in self._folder.glob("*.sock") if path.stem != str(self.number))
        found = await asyncio.gather(*(self._ask(number) for number in numbers))
        return dict(zip(numbers, found, strict=True))

    async def _ask(self, number: int) -> Blocks | None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._path(number))
                try:
                    told = await reader.read(-1)
                finally:
                    writer.close()
            return {name: (head, body) for name, (head, body) in json.loads(told).items()}
        except (OSError, ValueError):  # TimeoutError is an OSError
            return None

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            try:
                writer.write(json.dumps(self._tell()).encode())
                await writer.drain()
            finally:
                writer.close()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.sock"


def join(folder: Path | None) -> Fellows | None:
    """This worker's place in the folder; None without one, or where it cannot be used, for it may not stop a start."""
    if folder is None:
        return None
    try:
        return Fellows(folder)
    except OSError as error:
        log.warning("This worker's figures are shown only when it is the one that is asked: %s", error)
        return None


def _take_number(folder: Path) -> tuple[int, int]:
    """An open lock, which ends with the process whatever ends it, and its number."""
    import fcntl  # noqa: PLC0415 - only where there are several workers, which needs a system that has it

    for number in range(1, _MOST_WORKERS + 1):
        lock = os.open(folder / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return lock, number
    raise OSError("there are more workers than numbers")
