"""A backup of a server that is being written to: `python -m bench.live_backup --writes 500`, on SQLite and PostgreSQL.

Writers create tasks at a steady rate and a reader asks for lists, first alone and then beside `duly backup`. The backup
is restored on a clean host, and every task that was acknowledged before it began has to be in it. The server is that of
an operator, with the settings of `bench`; the restored database is asked by `duly doctor`, too.
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import apsw
import asyncpg

from bench.client import Client
from bench.copying import POSTGRES_URL, fill, on_server, run_duly
from bench.duly import API
from bench.failure import BenchError
from bench.processes import ServerProcess, find_free_port

WRITERS = 8
READS_PER_SECOND = 50
SECONDS_ALONE = 10


@dataclass
class Traffic:
    """What was acknowledged, when, and how long each list took."""

    stop: threading.Event = field(default_factory=threading.Event)
    created: list[tuple[float, str]] = field(default_factory=list)
    reads: list[tuple[float, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def between(self, begun: float, ended: float) -> str:
        """Rate of the writes and the spread of the reads in one stretch of time."""
        writes = sum(begun <= at < ended for at, _ in self.created)
        times = sorted(taken * 1000 for at, taken in self.reads if begun <= at < ended)
        middle, late = times[len(times) // 2], times[int(len(times) * 0.99)]
        return f"{writes / (ended - begun):.0f} writes/s, GET /tasks p50 {middle:.1f} ms, p99 {late:.1f} ms"


def pace(traffic: Traffic, port: int, token: str, per_second: float, *, writes: bool) -> None:
    """One client that sends a request at each tick and leaves out those that it is too late for."""
    due = time.monotonic()
    with Client(port) as client:
        while not traffic.stop.is_set():
            due = max(due + 1 / per_second, time.monotonic() - 1)
            time.sleep(max(0, due - time.monotonic()))
            begun = time.monotonic()
            try:
                if writes:
                    answer = client.expect("POST", f"{API}/tasks", token=token, body={"title": "Written meanwhile"})
                    traffic.created.append((time.monotonic(), answer["id"]))
                else:
                    client.expect("GET", f"{API}/tasks?limit=20", token=token)
                    traffic.reads.append((begun, time.monotonic() - begun))
            except BenchError as error:
                traffic.faults.append(str(error))


@contextlib.contextmanager
def served(folder: Path, url: str) -> Iterator[int]:
    """`duly serve` on this database."""
    port = find_free_port()
    command = [sys.executable, "-m", "duly", "serve", "--port", str(port)]
    settings = {
        "DATA_DIR": str(folder), "DATABASE_URL": url, "RATE_LIMIT_ENABLED": "false",
        "LOG_LEVEL": "warning", "ACCESS_TOKEN_MINUTES": "240",
    }  # fmt: skip
    process = ServerProcess(command, port=port, log=folder / "server.log", cwd=folder, env=settings)
    try:
        process.wait_ready("/health/ready")
        yield port
    finally:
        process.stop()


@contextlib.contextmanager
def busy(port: int, writes: float) -> Iterator[Traffic]:
    """Writers and a reader for as long as the block runs."""
    with Client(port) as client:
        body = {"email": f"{uuid.uuid4().hex}@example.com", "password": secrets.token_urlsafe(18)}
        token = client.expect("POST", f"{API}/auth/register", body=body)["access_token"]
    traffic = Traffic()
    threads = [
        threading.Thread(target=pace, args=(traffic, port, token, writes / WRITERS), kwargs={"writes": True})
        for _ in range(WRITERS)
    ]
    threads.append(
        threading.Thread(target=pace, args=(traffic, port, token, READS_PER_SECOND), kwargs={"writes": False})
    )
    for thread in threads:
        thread.start()
    try:
        yield traffic
    finally:
        traffic.stop.set()
        for thread in threads:
            thread.join()


async def ids_in(url: str) -> set[str]:
    """Every task of the restored database."""
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return {row[0] for row in await connection.fetch("SELECT id FROM tasks")}
    finally:
        await connection.close()


def read_ids(url: str) -> set[str]:
    """The same of either kind of database."""
    if not url.startswith("sqlite:"):
        return asyncio.run(ids_in(url))
    connection = apsw.Connection(url.removeprefix("sqlite:///"))
    try:
        return {str(row[0]) for row in connection.execute("SELECT id FROM tasks")}
    finally:
        connection.close()


def measure(label: str, folder: Path, live: str, clean: str, writes: float) -> None:
    """Write, back up meanwhile, restore, compare."""
    house, other = folder / "house", folder / "clean"
    archive = folder / "x.tar"
    with served(house, live) as port, busy(port, writes) as traffic:
        time.sleep(2)
        started = time.monotonic()
        time.sleep(SECONDS_ALONE)
        begun = time.monotonic()
        run = run_duly(house, live, "backup", str(archive), "--quiet")
        ended = time.monotonic()
    print(f"{label}, alone:         {traffic.between(started, begun)}")
    print(f"{label}, beside backup: {traffic.between(begun, ended)}; {run.seconds:.1f} s, {run.peak_mib:.0f} MiB")
    if traffic.faults:
        raise BenchError(f"{len(traffic.faults)} requests failed, such as: {traffic.faults[0]}")
    restored = run_duly(other, clean, "restore", str(archive), "--quiet", "--yes")
    run_duly(other, clean, "doctor", "--deep")
    held = read_ids(clean)
    before = {one for at, one in traffic.created if at < begun}
    lost = before - held
    print(f"{label}, restored in {restored.seconds:.1f} s: {len(before)} acknowledged before it began, "
          f"{len(lost)} missing; {len({one for _, one in traffic.created} & held) - len(before)} of those after; "
          "report empty")  # fmt: skip
    if lost:
        raise BenchError(f"{len(lost)} acknowledged tasks are not in the backup")


def prepared(folder: Path, tasks: int) -> str:
    """A filled SQLite file and a clean folder beside it."""
    for name in ("house", "clean"):
        (folder / name).mkdir()
    url = f"sqlite:///{folder / 'house' / 'duly.db'}"
    run_duly(folder / "house", url, "migrate", "upgrade")
    fill(folder / "house" / "duly.db", 100, tasks)
    run_duly(folder / "house", url, "sweep")
    # The key that signs is in no backup: it goes its own way.
    shutil.copy(folder / "house" / "secret_key", folder / "clean" / "secret_key")
    return url


def main() -> None:
    """Read the options and measure on both databases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--writes", type=float, default=500, help="Tasks created per second.")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="duly-live-backup-") as name:
        folder = Path(name)
        source = prepared(folder, options.tasks)
        databases = [f"duly_bench_{uuid.uuid4().hex[:12]}" for _ in range(2)]
        there, clean = (urlunsplit(urlsplit(POSTGRES_URL)._replace(path=f"/{one}")) for one in databases)
        try:
            for one in databases:
                asyncio.run(on_server(f'CREATE DATABASE "{one}"'))
            run_duly(folder / "house", source, "copy", "--to", there)
            measure("SQLite", folder, source, f"sqlite:///{folder / 'clean' / 'duly.db'}", options.writes)
            (folder / "x.tar").unlink()
            measure("PostgreSQL", folder, there, clean, options.writes)
        finally:
            for one in databases:
                asyncio.run(on_server(f'DROP DATABASE IF EXISTS "{one}" WITH (FORCE)'))


if __name__ == "__main__":
    main()
