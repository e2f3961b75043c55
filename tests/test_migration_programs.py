"""Migrations as an operator runs them: `duly migrate`, `alembic` in a checkout, two at once, and killed in between."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic import command
from alembic.config import Config

from duly.db import migrate
from duly.db.sqlite import open_connection
from tests.fixtures.server import ROOT, environment
from tests.schemas import address_of, read_schema, run_sql

HEAD = migrate.head()
NEXT = f"{int(HEAD) + 1:04}"
WAIT_SECONDS = 30
on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)

PEOPLE = """
INSERT INTO users (id, email, version, created_at, updated_at)
 VALUES ('u1', 'ann@example.com', 1, '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z');
INSERT INTO sessions (id, user_id, created_at, updated_at, last_used_at, expires_at)
 VALUES ('s1', 'u1', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z',
 '2027-01-01T00:00:00.000000Z');
INSERT INTO tasks (id, user_id, title, title_key, completed, priority, due_key, tags, version, created_at, updated_at)
 VALUES ('t1', 'u1', 'Milk', 'milk', false, 'low', '9999-12-31T23:59:59.999999Z', '[]', 1,
 '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z');
"""

# A revision of the next release: it changes tables, then does what the test asks for in the environment.
REVISION = '''"""Labels, longer names."""

import os
import time
from pathlib import Path

import sqlalchemy as sa
from alembic import op

from duly.db.migrations import feed_0001

revision = "{next}"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    op.create_table("labels", sa.Column("id", sa.Integer(), primary_key=True))
    feed_0001.drop(dialect)
    with op.batch_alter_table("users") as batch:
        batch.alter_column("name", type_=sa.String(300))
    op.execute("UPDATE users SET name = 'changed'")
    fault, _, place = os.environ.get("REVISION_FAULT", "").partition(" ")
    if fault == "raise":
        raise ValueError("this revision does not fit")
    if fault == "orphans":
        op.execute("UPDATE tasks SET user_id = 'nobody'")
    if fault == "stall":
        Path(place).touch()
        time.sleep(120)
    feed_0001.create(dialect)


def downgrade() -> None:
    op.drop_table("labels")
'''

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def program(*words: str) -> list[str]:
    """A module of this interpreter's environment as a program."""
    return [sys.executable, "-m", *words]


def start(words: list[str], settings: dict[str, str], folder: Path) -> "subprocess.Popen[str]":
    """A program that goes on beside the test."""
    pipe = subprocess.PIPE
    return subprocess.Popen(words, env=settings, cwd=folder, text=True, stdout=pipe, stderr=pipe)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a program to its end with the given settings, in an empty folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()

    def run_to_its_end(*words: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            program(*words), cwd=folder, env=environment(tmp_path, **settings), capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    return run_to_its_end


@pytest.fixture
def checkout(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    """What `alembic` reads in a copy of the checkout, to which revisions can be added, and the settings for it."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    shutil.copytree(
        ROOT / "src/duly/db/migrations",
        tmp_path / "src/duly/db/migrations",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return Config(str(tmp_path / "alembic.ini"))


def versions_of(checkout: Config) -> Path:
    return Path(str(checkout.config_file_name)).parent / "src/duly/db/migrations/versions"


@pytest.fixture
def next_release(checkout: Config) -> Config:
    """The same, with one more revision."""
    (versions_of(checkout) / f"r{NEXT}_labels.py").write_text(REVISION.format(next=NEXT, head=HEAD))
    return checkout


@pytest.fixture
def processes() -> Iterator[list["subprocess.Popen[str]"]]:
    """Whatever is in here is ended with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


async def until(condition: Callable[[], Any], *, alive: "list[subprocess.Popen[str]]") -> None:
    """Wait until the condition holds; fails when a process ends before or time is up."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        ended = [process.communicate() for process in alive if process.poll() is not None]
        assert not ended, ended
        assert time.monotonic() < deadline, "time is up"
        await asyncio.sleep(0.05)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


@pytest.mark.covers("A027", "A028", "C037")
async def test_the_commands_upgrade_check_and_downgrade(run: Run, empty_database_url: str) -> None:
    url = {"database_url": empty_database_url}
    early = run("duly", "migrate", "check", **url)
    assert (early.returncode, early.stdout) == (1, "")
    assert early.stderr == f"duly: The schema is at nothing, not {HEAD}; run 'duly migrate upgrade'.\n"
    upgraded = run("duly", "migrate", "upgrade", **url)
    assert (upgraded.returncode, upgraded.stdout, upgraded.stderr) == (0, f"Schema is at {HEAD}, was empty.\n", "")
    checked = run("duly", "migrate", "check", **url)
    assert (checked.returncode, checked.stdout) == (0, f"Schema is at {HEAD} and equals this version's tables.\n")
    downgraded = run("duly", "migrate", "downgrade", "base", **url)
    assert (downgraded.returncode, downgraded.stdout) == (0, f"Schema is at nothing, was {HEAD}.\n")
    assert not any((await read_schema(empty_database_url)).values())


@on_sqlite
def test_current_prints_the_revision_alone(run: Run, database_url: str) -> None:
    assert run("duly", "migrate", "current", database_url=database_url).stdout == f"{HEAD}\n"


@on_sqlite
async def test_check_names_what_differs_and_fails(run: Run, database_url: str) -> None:
    await run_sql(database_url, "DROP INDEX ix_changes_task_id")
    done = run("duly", "migrate", "check", database_url=database_url)
    assert (done.returncode, done.stdout) == (1, "")
    first, *others = lines(done.stderr)
    assert first == "duly: The schema differs from this version's tables:"
    assert len(others) == 1
    assert "ix_changes_task_id" in others[0]


def test_sql_is_printed_without_a_database(run: Run) -> None:
    done = run("duly", "migrate", "sql", "--dialect", "sqlite", database_url="postgresql://127.0.0.1:1/nowhere")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == migrate.upgrade_sql("sqlite")


@pytest.mark.parametrize(
    ("words", "url", "said"),
    [
        (("upgrade", "9999"), "sqlite:///duly.db", "Can't locate revision identified by '9999'"),
        (
            ("upgrade",),
            "postgresql://ann:hidden@127.0.0.1:1/tasks",
            "postgresql://ann@127.0.0.1:1/tasks?sslmode=prefer",
        ),
        (("current",), "mysql://ann:hidden@127.0.0.1/tasks", "DATABASE_URL: mysql:// is not understood"),
        (("upgrade",), "sqlite:///broken.db", "file is not a database"),
        (("sql", "--dialect", "oracle"), "sqlite:///duly.db", "--dialect is postgresql or sqlite"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(
    run: Run, tmp_path: Path, words: tuple[str, ...], url: str, said: str
) -> None:
    (tmp_path / "elsewhere/broken.db").write_bytes(b"no database at all" * 100)
    done = run("duly", "migrate", *words, database_url=url)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = lines(done.stderr)
    assert line.startswith("duly: ")
    assert said in line
    assert "hidden" not in line


@pytest.mark.covers("A024", "A150", "C038")
async def test_alembic_upgrades_and_compares_from_a_checkout(run: Run, empty_database_url: str) -> None:
    def alembic(*words: str) -> "subprocess.CompletedProcess[str]":
        return run("alembic", "-c", str(ROOT / "alembic.ini"), *words, database_url=empty_database_url)

    assert alembic("upgrade", "head").returncode == 0
    assert await migrate.differences(address_of(empty_database_url)) == []
    assert alembic("current").stdout == f"{HEAD} (head)\n"
    checked = alembic("check")
    assert (checked.returncode, checked.stdout) == (0, "No new upgrade operations detected.\n")


def test_alembic_prints_the_sql_of_the_configured_dialect(
    checkout: Config, dialect: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command.upgrade(checkout, "head", sql=True)
    assert capsys.readouterr().out == migrate.upgrade_sql(dialect)


@pytest.mark.covers("A150")
async def test_alembic_writes_an_empty_revision_for_a_schema_that_is_up_to_date(checkout: Config) -> None:
    await asyncio.to_thread(command.revision, checkout, "nothing new", autogenerate=True)
    written = (versions_of(checkout) / f"r{NEXT}_nothing_new.py").read_text()
    assert "op." not in written.replace("from alembic import op", "")
    assert written.count("    # ### end Alembic commands ###") == 2
    assert f"revision = '{NEXT}'" in written
    assert f"down_revision = '{HEAD}'" in written


@pytest.mark.covers("A150")
async def test_alembic_writes_a_revision_that_makes_what_is_missing(checkout: Config, database_url: str) -> None:
    complete = await read_schema(database_url)
    await run_sql(database_url, "DROP TABLE changes")
    await asyncio.to_thread(command.revision, checkout, "changes again", autogenerate=True)
    await asyncio.to_thread(command.upgrade, checkout, "head")
    assert await migrate.current(address_of(database_url)) == NEXT
    assert await migrate.differences(address_of(database_url)) == []
    assert await read_schema(database_url) == complete
    text = (versions_of(checkout) / f"r{NEXT}_changes_again.py").read_text()
    assert "duly" not in text.replace("from duly.db.migrations", "")


async def test_a_revision_that_replaces_a_table_keeps_every_row_that_refers_to_it(
    next_release: Config, database_url: str
) -> None:
    await run_sql(database_url, PEOPLE)
    await asyncio.to_thread(command.upgrade, next_release, "head")
    assert await migrate.current(address_of(database_url)) == NEXT
    assert await run_sql(database_url, "SELECT id, email, name FROM users") == [("u1", "ann@example.com", "changed")]
    assert await run_sql(database_url, "SELECT s.id, t.id FROM sessions s, tasks t") == [("s1", "t1")]
    assert await run_sql(database_url, "SELECT position, pending FROM task_counters") == [(1, 1)]
    await run_sql(database_url, "UPDATE tasks SET completed = true")
    assert await run_sql(database_url, "SELECT position, pending FROM task_counters") == [(2, 0)]
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        await run_sql(database_url, "UPDATE sessions SET user_id = 'nobody'")


@pytest.mark.parametrize(
    ("fault", "said"), [("raise", "this revision does not fit"), ("orphans", "(?i)foreign key|does not exist")]
)
async def test_a_revision_that_fails_leaves_the_schema_and_the_rows_as_they_were(
    next_release: Config, database_url: str, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    await run_sql(database_url, PEOPLE)
    before = await read_schema(database_url)
    monkeypatch.setenv("REVISION_FAULT", fault)
    with pytest.raises(Exception, match=said):
        await asyncio.to_thread(command.upgrade, next_release, "head")
    assert await read_schema(database_url) == before
    assert await migrate.current(address_of(database_url)) == HEAD
    assert await run_sql(database_url, "SELECT u.name, t.id FROM users u, tasks t") == [(None, "t1")]


async def test_an_upgrade_killed_in_the_middle_leaves_the_schema_as_it_was_and_can_be_run_again(
    next_release: Config, tmp_path: Path, database_url: str, processes: "list[subprocess.Popen[str]]"
) -> None:
    await run_sql(database_url, PEOPLE)
    before = await read_schema(database_url)
    reached = tmp_path / "reached"
    words = program("alembic", "-c", str(next_release.config_file_name), "upgrade", "head")
    settings = environment(tmp_path, database_url=database_url, revision_fault=f"stall {reached}")
    processes.append(start(words, settings, tmp_path))
    await until(reached.exists, alive=processes)
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].wait(10)
    # The server notices by itself that its client is gone; this waits for the lock until then.
    assert await migrate.upgrade(address_of(database_url)) == (HEAD, HEAD)
    assert await read_schema(database_url) == before
    assert await run_sql(database_url, "SELECT name FROM users") == [(None,)]
    await asyncio.to_thread(command.upgrade, next_release, "head")
    assert await migrate.current(address_of(database_url)) == NEXT


@contextlib.asynccontextmanager
async def turn_taken(url: str) -> AsyncIterator[None]:
    """While this is open, whoever wants to change the schema has to wait."""
    path = address_of(url).path
    if path is not None:
        file = open_connection(path)
        file.execute("BEGIN IMMEDIATE").fetchall()
        yield
        file.close()
        return
    server = await asyncpg.connect(url)
    await server.execute(f"SELECT pg_advisory_lock({migrate.LOCK_ID})")
    yield
    await server.close()


async def test_of_processes_that_upgrade_at_once_one_does_and_all_succeed(
    tmp_path: Path, empty_database_url: str, processes: "list[subprocess.Popen[str]]"
) -> None:
    words, settings = program("duly", "migrate", "upgrade"), environment(tmp_path, database_url=empty_database_url)
    async with turn_taken(empty_database_url):
        processes.extend(start(words, settings, tmp_path) for _ in range(2))
        await until(lambda: all_wait(empty_database_url, processes), alive=processes)
    said = sorted(process.communicate(timeout=WAIT_SECONDS) for process in processes)
    assert said == [(f"Schema is at {HEAD}, was empty.\n", ""), (f"Schema is at {HEAD}.\n", "")]
    assert [process.returncode for process in processes] == [0, 0]
    assert await migrate.differences(address_of(empty_database_url)) == []


async def all_wait(url: str, processes: "list[subprocess.Popen[str]]") -> bool:
    path = address_of(url).path
    if path is None:
        rows = await run_sql(url, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return bool(rows[0][0] == len(processes))
    return all(has_open(process.pid, path) for process in processes)


def has_open(pid: int, path: Path) -> bool:
    folder = Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").exists():
        return True  # a system that does not show this: they still start at once
    return any(os.path.realpath(entry) == str(path) for entry in folder.iterdir())
