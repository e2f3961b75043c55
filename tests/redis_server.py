"""A Redis server of a test's own, which it may kill, hang, empty and turn read-only."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import free_port

PATIENCE = 20.0


class RedisServer:
    """One process on a free port of loopback, which keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start and wait until it answers."""
        words = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder))
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(["redis-server", *words], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.run("PING")
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            else:
                return

    def run(self, *words: str) -> Any:
        """One command, as an operator gives it."""
        with contextlib.closing(redis.Redis(port=self.port, socket_timeout=5)) as client:
            return client.execute_command(*words)

    def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(PATIENCE)

    def hang(self) -> None:
        """Connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `hang`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def end(self) -> None:
        """Gone, whatever its state is."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


@contextlib.contextmanager
def running_redis(folder: Path) -> Iterator[RedisServer]:
    """A server that runs; it is gone afterwards."""
    if shutil.which("redis-server") is None:
        skip_or_fail("Redis's own server is needed: apt-get install redis-server")
    server = RedisServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.end()
