"""How long `duly copy` takes, and how much memory: `python -m bench.copying --tasks 1000000`, there and back again.

A SQLite file is filled with accounts and tasks by SQL, whose triggers write the change rows; it is copied to a new
PostgreSQL database, and that one to a new SQLite file. Each copy is the command as an operator runs it, with its own
comparison of every row. The PostgreSQL server is that of TEST_POSTGRES_URL; the database is removed at the end.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import apsw
import asyncpg

from bench.failure import BenchError

POSTGRES_URL = os.environ.get("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
_USERS = """WITH RECURSIVE n(u) AS (SELECT 0 UNION ALL SELECT u + 1 FROM n WHERE u + 1 < ?)
INSERT INTO users (id, email, hashed_password, version, created_at, updated_at)
SELECT printf('%08x-0000-7000-8000-%012x', u, u), printf('bench%d@example.com', u), 'none', 1,
 '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z' FROM n"""
# One task of each user after another, as a service sees them: a user's rows lie far apart.
_TASKS = """WITH RECURSIVE n(t) AS (SELECT ? UNION ALL SELECT t + 1 FROM n WHERE t + 1 < ?)
INSERT INTO tasks (id, user_id, title, title_key, description, completed, completed_at, priority, due_date, due_key,
 tags, version, created_at, updated_at)
SELECT printf('%08x-0000-7000-8000-%012x', t, u.rowid), u.id, printf('Täsk %d', t),
 printf('täsk %d', t), printf('Something to be done before the end of the month, number %d of many like it.', t),
 t % 3 = 0, CASE WHEN t % 3 = 0 THEN '2026-02-01T00:00:00.000000Z' END,
 CASE t % 4 WHEN 0 THEN 'low' WHEN 1 THEN 'medium' WHEN 2 THEN 'high' ELSE 'urgent' END,
 CASE WHEN t % 2 = 0 THEN '2027-01-01T12:00:00.000000Z' END,
 CASE WHEN t % 2 = 0 THEN '2027-01-01T12:00:00.000000Z' ELSE '9999-12-31T23:59:59.999999Z' END,
 '["home", "errands"]', 1, '2026-01-02T00:00:00.000000Z', '2026-01-02T00:00:00.000000Z'
FROM n CROSS JOIN users u"""


@dataclass(frozen=True)
class Run:
    """One command: how long it took, how much memory it held at most, and what it said."""

    seconds: float
    peak_mib: float
    output: str


def run_duly(folder: Path, database_url: str, *words: str) -> Run:
    """Run `duly` on a database. Raises `BenchError` with its words when it fails."""
    environ = {"PATH": os.environ["PATH"], "DATA_DIR": str(folder), "DATABASE_URL": database_url}
    begun = time.monotonic()
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen([sys.executable, "-m", "duly", *words], stdout=output, stderr=output, env=environ)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begun
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        raise BenchError(f"duly {' '.join(words)} failed:\n{text}")
    return Run(seconds, used.ru_maxrss / 1024, text)


def fill(path: Path, users: int, tasks: int) -> None:
    """Accounts with tasks each, and what the triggers write with them. 100 tasks of everybody are a transaction."""
    connection = apsw.Connection(str(path))
    try:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute(_USERS, (users,))
        each = tasks // users
        for start in range(0, each, 100):
            connection.execute(_TASKS, (start, min(start + 100, each)))
    finally:
        connection.close()


async def on_server(sql: str) -> None:
    """One statement on the PostgreSQL server."""
    connection = await asyncpg.connect(POSTGRES_URL, timeout=5)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def measure(users: int, tasks: int, folder: Path) -> None:
    """Fill, copy there, copy back, and print a line for each copy."""
    source, back = (f"sqlite:///{folder / name}" for name in ("source.db", "back.db"))
    run_duly(folder, source, "migrate", "upgrade")
    begun = time.monotonic()
    fill(folder / "source.db", users, tasks)
    size = (folder / "source.db").stat().st_size / 2**20
    print(f"{users} accounts with {tasks // users} tasks each: {size:.0f} MiB, in {time.monotonic() - begun:.0f} s")
    name = f"duly_bench_{uuid.uuid4().hex[:12]}"
    there = urlunsplit(urlsplit(POSTGRES_URL)._replace(path=f"/{name}"))
    asyncio.run(on_server(f'CREATE DATABASE "{name}"'))
    try:
        for label, one, other in (("SQLite -> PostgreSQL", source, there), ("PostgreSQL -> SQLite", there, back)):
            run = run_duly(folder, one, "copy", "--to", other)
            digests = [line.split()[3] for line in run.output.splitlines() if line.startswith(("tasks ", "changes "))]
            print(f"{label}: {run.seconds:.0f} s with the comparison, {run.peak_mib:.0f} MiB at most, "
                  f"equal; digests {' '.join(digests)}, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    finally:
        asyncio.run(on_server(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="duly-copying-") as folder:
        measure(options.users, options.tasks, Path(folder))


if __name__ == "__main__":
    main()
