"""Server processes: each in a process group of its own, waited for, and ended with all its children."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.client import Client
from bench.failure import BenchError

READY_SECONDS = 60.0
STOP_SECONDS = 15.0
POLL_SECONDS = 0.05
LOG_LINES_SHOWN = 15


def find_free_port() -> int:
    """A loopback TCP port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Just what a program needs to run, and `settings`: the caller's own settings must not reach a measured server."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL", "TZ") if name in os.environ}
    return kept | dict(settings)


class ServerProcess:
    """A started program, its port and its log file."""

    def __init__(self, command: Sequence[str], *, port: int, log: Path, cwd: Path, env: Mapping[str, str]) -> None:
        self.port = port
        self.log = log
        with log.open("ab") as output:
            # A session of its own: the group can be ended whole, and Ctrl-C reaches the harness first.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                cwd=cwd, env=clean_environment(env), start_new_session=True,
            )  # fmt: skip

    @property
    def group(self) -> int:
        """The process group that the program and all it starts belong to."""
        return self._process.pid

    def wait_ready(self, path: str, seconds: float = READY_SECONDS) -> None:
        """Return when GET `path` answers 2xx; BenchError with the end of the log if it dies or takes longer."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.require_alive()
            try:
                with Client(self.port) as client:
                    status, _ = client.send("GET", path)
                if 200 <= status < 300:
                    return
            except OSError:
                pass
            time.sleep(POLL_SECONDS)
        raise BenchError(f"not ready after {seconds:.0f} s (GET {path})\n{self._log_end()}")

    def require_alive(self) -> None:
        """BenchError with the end of the log if the program has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"ended with exit code {self._process.returncode}\n{self._log_end()}")

    def stop(self) -> None:
        """SIGTERM to the program, SIGKILL to whatever of its group is left; may be called twice."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return "\n".join(f"    {line}" for line in lines) or "    (its log is empty)"
