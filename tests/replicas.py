"""Two servers of Duly on one database, started and restarted by a command, as a service manager would."""

import contextlib
import itertools
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.edges import Edge, run_script
from tests.fixtures.application import PASSWORD
from tests.fixtures.database import migrated_database
from tests.fixtures.server import environment, free_port

PATIENCE = 60.0
SECRET = "8Zr1vQ0nC3xT6mKp9Lw2Yb5Hd7Jf4GsA"
# What a service manager does, for the restart command of the script: end, wait, start.
SUPERVISOR = """
import os, signal, subprocess, sys, time
folder, command = sys.argv[1], sys.argv[2:]
path = os.path.join(folder, "pid")
if os.path.exists(path):
    pid = int(open(path).read())
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    try:
        while open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.02)
    except (FileNotFoundError, ProcessLookupError):
        pass
with open(os.path.join(folder, "log"), "ab") as log:
    process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
open(path, "w").write(str(process.pid))
"""


@dataclass
class Pair:
    """Each has a folder with its pid and its log. `command` is for the scripts of deploy/scripts."""

    folder: Path
    settings: dict[str, Any]
    ports: list[int] = field(default_factory=lambda: [free_port(), free_port()])

    def place(self, port: int) -> Path:
        return self.folder / f"duly-{port}"

    def pid(self, port: int) -> int:
        return int((self.place(port) / "pid").read_text())

    def command(self) -> str:
        """For `--restart-command`."""
        environ = environment(self.folder, **self.settings)
        words = ["env", "-i", *(f"{name}={value}" for name, value in environ.items())]
        supervisor = [sys.executable, str(self.folder / "supervisor.py")]
        line = shlex.join([*words, *supervisor])
        return f"{line} {self.folder}/duly-{{}} {sys.executable} -m duly serve --port {{}}"

    def start(self) -> None:
        (self.folder / "supervisor.py").write_text(SUPERVISOR)
        for port in self.ports:
            self.place(port).mkdir()
            self.run(port)
        for port in self.ports:
            self.wait(port)

    def run(self, port: int) -> None:
        """Start it, or end it and start it again."""
        subprocess.run(["bash", "-c", self.command().replace("{}", str(port))], check=True, timeout=PATIENCE)

    def wait(self, port: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).status_code == 200:
                    return
            assert time.monotonic() < deadline, (self.place(port) / "log").read_text()
            time.sleep(0.1)

    def roll(self) -> None:
        """The script that operators run."""
        instances = [word for port in self.ports for word in ("--instance", str(port))]
        rolled = run_script("rolling-restart", *instances, "--restart-command", self.command(), "--pause", "0")
        assert rolled.returncode == 0, rolled.stderr + rolled.stdout

    def kill(self, port: int) -> None:
        os.killpg(self.pid(port), signal.SIGKILL)


@contextlib.contextmanager
def open_pair(request: pytest.FixtureRequest, folder: Path, **settings: Any) -> Iterator[Pair]:
    """Two servers that are ready, on a PostgreSQL database of their own."""
    with migrated_database("postgresql", request, folder) as database_url:
        given = {"database_url": database_url, "trusted_proxies": "127.0.0.1", "secret_key": SECRET, **settings}
        servers = Pair(folder, given)
        try:
            servers.start()
            yield servers
        finally:
            for port in servers.ports:
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                    servers.kill(port)


_people = itertools.count(1)


def sign_up(edge: Edge) -> dict[str, str]:
    """What signs the requests of a new person."""
    with edge.client() as client:
        body = {"email": f"writer{next(_people)}@example.com", "password": PASSWORD}
        answer = client.post("/api/v1/auth/register", json=body)
        assert answer.status_code == 201, answer.text
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}
