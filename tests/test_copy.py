"""`duly copy`: everything arrives in the other database as it was, or nothing does."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from duly.db import migrate
from duly.db.shapes import CARRIED, CarryFault
from duly.operations.copying import Copy, copy_database
from tests.commands import answer, refusal, run_duly
from tests.filling import FILE, KEY, Filled, Silent, fill_everything
from tests.fixtures.application import Api, Person, StartApp
from tests.fixtures.server import environment
from tests.schemas import address_of, read_schema, run_sql
from tests.second_connection import SecondConnection, second_connection

USER = """INSERT INTO users (id, version, created_at, updated_at)
 VALUES ('u', 1, '2026-01-01T00:00:00.123456Z', '2026-01-01T00:00:00.000001Z')"""
OTHER = {"sqlite": "postgresql", "postgresql": "sqlite"}


async def copy(source: str, target: str) -> Copy:
    return await copy_database(address_of(source), address_of(target), Silent())


class Writing(Silent):
    """Everybody adds and completes tasks for as long as the block runs; `marks` says how much was done at each step."""

    def __init__(self, people: Sequence[Person]) -> None:
        self._people = people
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []
        self.done = 0
        self.marks: dict[str, int] = {}

    def begin(self, step: str, table: str, total: int) -> None:
        self.marks.setdefault(step, self.done)

    async def _write(self, person: Person) -> None:
        while not self._stopped:
            task = await person.add_task("Meanwhile")
            await person.patch(f"/tasks/{task['id']}", json={"completed": True})
            self.done += 2

    async def __aenter__(self) -> "Writing":
        self._tasks = [asyncio.create_task(self._write(person)) for person in self._people]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)


# Of each user: the counters, and what they count.
SUMS = """SELECT c.position, c.pending + c.completed, (SELECT count(*) FROM changes WHERE user_id = c.user_id),
 (SELECT max(position) FROM changes WHERE user_id = c.user_id), (SELECT count(*) FROM tasks WHERE user_id = c.user_id)
 FROM task_counters c"""


async def holdings(url: str) -> dict[str, list[list[Any]]]:
    """Every row of every table, read without the code under test, and written so that both databases compare."""
    async with second_connection(url) as other:
        return {table: await _rows(other, table, is_sqlite=url.startswith("sqlite")) for table in CARRIED}


async def _rows(other: SecondConnection, table: str, *, is_sqlite: bool) -> list[list[Any]]:
    catalogue = f"SELECT name FROM pragma_table_xinfo('{table}')" if is_sqlite else (
        f"SELECT column_name::text FROM information_schema.columns WHERE table_name = '{table}'"
    )  # fmt: skip
    columns = sorted(name for [name] in await other.run(catalogue))
    assert len(columns) > 1
    rows = await other.run(f"SELECT {', '.join(columns)} FROM {table}")
    return sorted((_plain(row, columns) for row in rows), key=repr)


def _plain(row: Sequence[Any], columns: Sequence[str]) -> list[Any]:
    values: list[Any] = []
    for name, value in zip(columns, row, strict=True):
        if isinstance(value, datetime):
            values.append(value.replace(tzinfo=UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"))
        else:
            values.append(
                json.loads(value) if name in {"tags", "document"} else int(value) if isinstance(value, bool) else value
            )
    return values


@pytest.fixture
def target(dialect: str, targets: dict[str, str]) -> str:
    """An empty database of the other kind."""
    return targets[OTHER[dialect]]


@pytest.fixture
async def filled(targets: dict[str, str], api: Api) -> Filled:  # a database goes after those who use it
    return await fill_everything(api)


@pytest.mark.covers("A026")
async def test_the_command_brings_every_row_of_every_table_and_proves_it(
    filled: Filled, database_url: str, target: str, tmp_path: Path
) -> None:
    before = await holdings(database_url)
    assert all(before[table] for table in CARRIED)
    said = answer(await run_duly(tmp_path, "copy", "--to", target, database_url=database_url))
    assert await holdings(target) == before
    proof = [line.split() for line in said.splitlines() if line.split()[0] in CARRIED]
    assert {line[0]: (int(line[1]), int(line[2]), line[5]) for line in proof} == {
        table: (len(rows), len(rows), "yes") for table, rows in before.items()
    }
    assert all(line[3] == line[4] for line in proof)
    for promised in ("stop Duly", "FIELD_ENCRYPTION_KEY", str(tmp_path / "secret_key"), str(tmp_path / "files")):
        assert promised in said
    assert await migrate.differences(address_of(target)) == []
    # A second copy is refused, and so is one onto itself; nothing of what is there changes.
    with pytest.raises(CarryFault, match="is not empty and was left as it is; give a new database"):
        await copy(database_url, target)
    with pytest.raises(CarryFault, match=r"is the database that .* names; give another one"):
        await copy(target, target.replace("127.0.0.1", "localhost").replace("/target/", "/target/../target/"))
    assert await holdings(target) == before


async def test_life_goes_on_in_the_copy_where_it_stood(
    filled: Filled, database_url: str, target: str, start_app: StartApp
) -> None:
    assert (await copy(database_url, target)).is_equal
    there = await start_app(database_url=target)
    ann = there.person({"user": {"id": filled.ann.user_id}, **_tokens(filled)}, filled.ann.email)
    # The access token, the refresh token and the password of before are good.
    assert (await ann.get("/auth/me")).status_code == 200
    renewed = await there.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})
    assert renewed.status_code == 200, renewed.text
    await there.log_in(ann.email)
    # The feed goes on behind the old cursor, with the next position, and counts are kept.
    assert (await ann.get("/changes", params={"since": filled.cursor})).json()["items"] == []
    new = await ann.add_task("Written in the copy")
    [change] = (await ann.get("/changes", params={"since": filled.cursor})).json()["items"]
    assert (change["type"], change["task_id"]) == ("task.created", new["id"])
    stats = (await ann.get("/tasks/stats")).json()
    assert (stats["total"], stats["completed"]) == (len(filled.tasks) + 2, 1)
    async with second_connection(target) as other:
        [[position, pending]] = await other.run(
            f"SELECT position, pending FROM task_counters WHERE user_id = '{ann.user_id}'"
        )
    assert (position, pending) == (filled.positions + 1, len(filled.tasks) + 1)
    # A search finds what came and what is new; the trash, the file and a kept answer are there.
    for words, found in (("tache 2", filled.tasks[2]["id"]), ("written copy", new["id"])):
        assert [task["id"] for task in (await ann.get("/tasks", params={"search": words})).json()["items"]] == [found]
    assert (await ann.post(f"/tasks/{filled.trashed['id']}/restore")).status_code == 200
    path = f"/tasks/{filled.tasks[1]['id']}/attachments/{filled.attachment['id']}"
    assert (await ann.get(path)).content == FILE
    again = await ann.post("/tasks", json={"title": "Asked twice"}, headers=KEY)
    assert (again.headers["idempotency-replayed"], again.json()) == ("true", filled.answer)


def _tokens(filled: Filled) -> dict[str, str]:
    return {"access_token": filled.ann.access_token, "refresh_token": filled.ann.refresh_token}


async def test_there_and_back_again_and_into_its_own_kind_all_digests_are_equal(
    filled: Filled, database_url: str, target: str, targets: dict[str, str], dialect: str
) -> None:
    there = await copy(database_url, target)
    back = await copy(target, targets[dialect])
    assert there.is_equal
    assert back.is_equal
    assert {proof.table: proof.digest for proof in there.proofs} == {
        proof.table: proof.digest_there for proof in back.proofs
    }
    assert await read_schema(targets[dialect]) == await read_schema(database_url)
    await run_sql(targets[dialect], "DELETE FROM users")
    assert (await run_sql(targets[dialect], "SELECT count(*) FROM tasks")) == [(0,)]


async def test_a_copy_of_its_own_kind_is_equal(database_url: str, dialect: str, targets: dict[str, str]) -> None:
    await run_sql(database_url, USER)
    made = await copy(database_url, targets[dialect])
    assert made.is_equal
    assert [proof.table for proof in made.proofs if proof.rows] == ["users", "task_counters"]


async def test_while_others_write_it_is_the_state_of_one_moment(api: Api, database_url: str, target: str) -> None:
    people = [await api.register() for _ in range(4)]
    for person in people:
        await asyncio.gather(*(person.add_task(f"Before {number}") for number in range(20)))
    writing = Writing(people)
    async with writing:
        acknowledged = 80 + writing.done
        made = await copy_database(address_of(database_url), address_of(target), writing)
    assert made.is_equal
    assert writing.marks["check"] > writing.marks["copy"], "nobody wrote while the rows were read"
    rows = await run_sql(target, SUMS)
    assert len(rows) == len(people)
    for position, counted, changes, last, tasks in rows:
        assert position == changes == last
        assert counted == tasks
    assert acknowledged <= sum(row[0] for row in rows) < 80 + writing.done


# Copies, and is killed when the first tasks are in the other database's transaction.
KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from duly.cli import migrating  # knows every table
from duly.db.url import parse_database_url
from duly.operations.copying import copy_database

class Killed:
    def begin(self, step, table, total):
        self.table = table

    def advance(self, rows):
        if self.table == "tasks":
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(copy_database(*(parse_database_url(url, Path()) for url in sys.argv[1:]), Killed()))
"""


async def test_killed_in_the_middle_it_leaves_the_target_empty_and_can_be_run_again(
    api: Api, database_url: str, target: str, tmp_path: Path
) -> None:
    ann = await api.register()
    await asyncio.gather(*(ann.add_task(f"Task {number}", description="d" * 2000) for number in range(600)))
    command = [sys.executable, "-c", KILLED, database_url, target]
    killed = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not any((await holdings(target)).values())
    assert await migrate.differences(address_of(target)) == []
    assert (await copy(database_url, target)).is_equal


@pytest.mark.parametrize("rows", ["none", "some"])
async def test_a_target_of_an_older_version_is_upgraded_only_when_it_is_empty(
    database_url: str, target: str, rows: str
) -> None:
    await migrate.upgrade(address_of(target), "0001")
    if rows == "none":
        assert (await copy(database_url, target)).is_equal
        return
    await run_sql(target, USER)
    with pytest.raises(CarryFault, match="is not empty and was left as it is; give a new database"):
        await copy(database_url, target)
    assert await migrate.current(address_of(target)) == "0001"


async def test_what_cannot_be_copied_or_reached_is_refused_in_a_line_and_nothing_is_made(
    database_url: str, targets: dict[str, str], dialect: str, tmp_path: Path
) -> None:
    nowhere = "postgresql://postgres@127.0.0.1:1/nothing"
    with pytest.raises(CarryFault, match=r"cannot be used .*; start it or correct the address"):
        await copy(database_url, nowhere)
    with pytest.raises(CarryFault, match=r"sqlite.* does not exist; correct the address"):
        await copy(f"sqlite:///{tmp_path / 'missing.db'}", targets["sqlite"])
    await migrate.downgrade(address_of(database_url), "0003")
    with pytest.raises(CarryFault, match=r"is at 0003, not [0-9]+; run 'duly migrate upgrade'"):
        await copy(database_url, targets["sqlite"])
    assert not Path(targets["sqlite"].removeprefix("sqlite:///")).parent.exists()


async def test_tables_of_somebody_else_are_left_alone(database_url: str, targets: dict[str, str]) -> None:
    there = targets["postgresql"]
    await run_sql(there, "CREATE TABLE tasks (id integer PRIMARY KEY, what text)")
    with pytest.raises(CarryFault, match=r"could not be given the schema .*; give a new database"):
        await copy(database_url, there)
    assert await run_sql(there, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(1,)]


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_a_copy_that_differs_is_found_and_named(
    database_url: str, targets: dict[str, str], tmp_path: Path
) -> None:
    await run_sql(database_url, USER)
    # A column that keeps less than the source has: the server rounds, and says nothing.
    await migrate.upgrade(address_of(targets["postgresql"]))
    await run_sql(targets["postgresql"], "ALTER TABLE users ALTER COLUMN created_at TYPE timestamptz(0)")
    done = await run_duly(tmp_path, "copy", "--to", targets["postgresql"], database_url=database_url)
    assert "the copy differs from the source (users); do not use" in refusal(done)
    assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" NO")] == ["users"]


def test_the_address_can_come_by_standard_input_and_a_terminal_sees_a_bar(
    sqlite_template: Path, tmp_path: Path
) -> None:
    controller, terminal = os.openpty()
    environ = environment(tmp_path, database_url=f"sqlite:///{sqlite_template}") | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        [sys.executable, "-m", "duly", "copy", "--to", "-"], cwd=tmp_path, env=environ, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=terminal,
    ) as process:  # fmt: skip
        os.close(terminal)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"sqlite:///{tmp_path / 'new.db'}\n".encode())
        process.stdin.close()
        seen = b""
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
            while piece := os.read(controller, 65536):
                seen += piece
        said = process.stdout.read()
    os.close(controller)
    assert process.returncode == 0, said
    assert b"Copying audit_head" in seen or b"Checking" in seen
    assert b"every table is equal" in said
    assert b"Copying" not in said


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_an_address_that_is_none_is_refused(tmp_path: Path, database_url: str) -> None:
    line = refusal(await run_duly(tmp_path, "copy", "--to", "mysql://somewhere/x", database_url=database_url))
    assert line.startswith("--to: mysql:// is not understood")
