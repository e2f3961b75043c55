"""PostgreSQL servers of a test's own, which it may stop, kill, hang and fill up: real ones, with fsync on."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg

from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import free_port

PATIENCE = 30.0  # seconds, for what takes one or two


def binaries() -> Path:
    """The folder with initdb and postgres; without one the test is skipped, and fails in CI."""
    found = [Path(place).parent for name in ("initdb",) if (place := shutil.which(name))]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    for folder in found:
        if (folder / "postgres").exists() and (folder / "pg_ctl").exists():
            return folder
    skip_or_fail("PostgreSQL's own programs are needed: apt-get install postgresql")
    raise AssertionError


class Cluster:
    """One PostgreSQL server on a free port of loopback, in a folder of its own; it trusts everybody there."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self._bin = binaries()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the files. They belong to somebody else when root runs the tests: PostgreSQL refuses root."""
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self.folder.chmod(0o755)
        words = ("-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
        subprocess.run([*_as_owner(), str(self._bin / "initdb"), *words], check=True, capture_output=True, cwd="/")

    def url(self, database: str = "postgres") -> str:
        """The address of a database on it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> float:
        """Start and wait until it answers a query; the moment (monotonic) of that answer."""
        options = {
            "port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder),
            "fsync": "on", "shared_buffers": "32MB", "max_connections": "60", **self._options,
        }  # fmt: skip
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_owner(), str(self._bin / "postgres"), "-D", str(self.data), *words], stdout=log, stderr=log,
                cwd="/", start_new_session=True,
            )  # fmt: skip
        return self.wait_until_up()

    def wait_until_up(self) -> float:
        """Until a query is answered; when that was."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.run("SELECT 1")
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                assert time.monotonic() < deadline, self.log()[-3000:]
                time.sleep(0.01)
            else:
                return time.monotonic()

    def run(self, sql: str, database: str = "postgres") -> list[Any]:
        """One statement as an operator, and its rows."""
        return asyncio.run(self._run(sql, database))

    async def _run(self, sql: str, database: str) -> list[Any]:
        # Without TLS: refused while the server starts, a connection would wait for a word that does not come, and stay.
        connection = await asyncpg.connect(self.url(database), timeout=2, ssl=False)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    def log(self) -> str:
        """What it has printed so far."""
        return (self.folder / "log").read_text(errors="replace")

    def stop(self, mode: str) -> None:
        """`fast` or `immediate`, as `pg_ctl stop -m` has them, until it is gone."""
        os.kill(self._postmaster(), {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
        self._wait_until_gone()

    def kill(self) -> None:
        """SIGKILL to the server and all that it had started, as when memory runs out or the machine dies."""
        for pid in self._family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait_until_gone()

    def hang(self) -> None:
        """SIGSTOP to all of it: connections stay, and nothing is answered."""
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `hang`."""
        for pid in self._family():
            os.kill(pid, signal.SIGCONT)

    def end(self) -> None:
        """Whatever its state is, it is gone afterwards."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(FileNotFoundError):  # it was about to end by itself
                self.kill()
            self._wait_until_gone()

    def _postmaster(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def _family(self) -> list[int]:
        postmaster = self._postmaster()
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return [postmaster, *map(int, children)]

    def _wait_until_gone(self) -> None:
        assert self._process is not None
        self._process.wait(PATIENCE)


def _as_owner() -> list[str]:
    """What a command of PostgreSQL's begins with; `setpriv` becomes the program, so its process is the server's."""
    if os.geteuid():
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


@contextlib.contextmanager
def running_cluster(folder: Path | None = None, **options: str) -> Iterator[Cluster]:
    """A server that runs; it and its files are gone afterwards. In a folder that is given, the folder stays."""
    place = folder or Path(tempfile.mkdtemp(prefix="duly-postgres-"))
    cluster = Cluster(place, **options)
    try:
        cluster.create()
        cluster.start()
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(place if folder is None else cluster.data, ignore_errors=True)
