"""The transaction, on both dialects: what is committed, what is undone, and what others see of it."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from duly.db.conflicts import ForeignKeyViolation, UniqueViolation
from duly.db.statements import Statement
from duly.db.unit import Database, Unit
from duly.errors import Conflict, DulyError
from tests.people import ADD_KEY, COUNT_UP, FIND_IDS, FIND_IDS_SLOWLY, MOMENT, RENAME, add, ids, stored
from tests.schemas import run_sql

MAKERS: list[Callable[[Database], Unit]] = [lambda database: database.unit(), lambda database: database.single()]
both_kinds = pytest.mark.parametrize("make", MAKERS, ids=["unit", "single"])


class Refused(Exception):
    """Something that goes wrong in the middle of a unit."""


async def fail(database: Database, error: Exception, *names: str, afterwards: Callable[[], None] | None = None) -> None:
    """A unit that writes and then raises."""
    async with database.unit() as unit:
        await add(unit, *names)
        if afterwards is not None:
            unit.after_commit(afterwards)
        raise error


@both_kinds
@pytest.mark.covers("A085", "A140", "B017", "C028", "C102", "D076", "E011")
async def test_what_a_unit_wrote_is_committed_when_its_block_is_left(
    database: Database, database_url: str, make: Callable[[Database], Unit]
) -> None:
    async with make(database) as unit:
        await add(unit, "ann")
    assert await stored(database_url) == ["ann"]


@pytest.mark.covers("A140")
async def test_until_then_nobody_else_sees_it(database: Database, database_url: str) -> None:
    async with database.unit() as unit:
        await add(unit, "ann")
        assert await ids(unit) == ["ann"]
        assert await ids(database) == []
        assert await stored(database_url) == []
        async with database.unit() as other:
            assert await ids(other) == []


@pytest.mark.covers("A140", "C028", "C106", "D076", "E054")
async def test_an_error_undoes_everything_and_goes_on(database: Database, database_url: str) -> None:
    with pytest.raises(Refused):
        await fail(database, Refused(), "ann", "ben")
    assert await stored(database_url) == []
    async with database.unit() as unit:
        await add(unit, "ann")
    assert await stored(database_url) == ["ann"]


async def test_a_refusal_undoes_what_was_written_unless_it_keeps_it(database: Database, database_url: str) -> None:
    with pytest.raises(DulyError, match="undone"):
        await fail(database, Conflict("undone"), "ann")
    assert await stored(database_url) == []
    with pytest.raises(DulyError, match="kept"):
        await fail(database, Conflict("kept", keeps_writes=True), "ann")
    assert await stored(database_url) == ["ann"]


async def test_release_commits_and_holds_nothing_while_something_slow_goes_on(
    database: Database, database_url: str
) -> None:
    async def rename(which: str) -> None:
        async with asyncio.timeout(10), database.unit() as other:
            await other.fetch(RENAME, which=which, new_name="Anna")

    async def release_and_fail() -> None:
        async with database.unit() as unit:
            await add(unit, "ann")
            await unit.release()
            assert await stored(database_url) == ["ann"]
            await rename("ann")
            await add(unit, "ben")
            raise Refused

    with pytest.raises(Refused):
        await release_and_fail()
    assert await stored(database_url) == ["ann"]
    assert await run_sql(database_url, "SELECT name FROM users") == [("Anna",)]


async def test_after_commit_runs_once_and_only_after_a_commit(database: Database) -> None:
    ran: list[str] = []
    async with database.unit() as unit:
        await add(unit, "ann")
        unit.after_commit(lambda: ran.append("left"))
        assert ran == []
    with pytest.raises(Refused):
        await fail(database, Refused(), "ben", afterwards=lambda: ran.append("undone"))
    with pytest.raises(Conflict):
        await fail(database, Conflict("kept", keeps_writes=True), "zoe", afterwards=lambda: ran.append("kept"))
    async with database.unit() as unit:
        unit.after_commit(lambda: ran.append("released"))
        await unit.release()
        assert ran[-1] == "released"
    assert ran == ["left", "kept", "released"]


async def test_reads_before_the_first_write_see_what_was_committed_meanwhile(database: Database) -> None:
    async with database.unit() as unit:
        assert await ids(unit) == []
        async with database.unit() as other:
            await add(other, "ben")
        assert await ids(unit) == ["ben"]
        assert [row[0] for row in await unit.fetch(FIND_IDS_SLOWLY)] == ["ben"]
        await add(unit, "ann")
        assert await ids(unit) == ["ann", "ben"]
        assert await unit.first(FIND_IDS) is not None


async def test_begin_may_be_said_twice_and_a_unit_without_writes_commits_nothing(
    database: Database, database_url: str
) -> None:
    async with database.unit() as unit:
        await unit.begin()
        await unit.begin()
        assert await ids(unit) == []
    assert await stored(database_url) == []
    async with database.unit():
        pass


@both_kinds
async def test_a_violated_constraint_is_named_and_undoes_its_unit_alone(
    database: Database, database_url: str, make: Callable[[Database], Unit]
) -> None:
    async def use(statement: Statement, **values: object) -> None:
        async with make(database) as unit:
            await unit.fetch(statement, **values)

    async with database.unit() as unit:
        await add(unit, "ann")
        await unit.fetch(ADD_KEY, user_id="ann", key="k", request_hash="h", created_at=MOMENT)
    with pytest.raises(UniqueViolation) as caught:
        await use(ADD_KEY, user_id="ann", key="k", request_hash="h", created_at=MOMENT)
    assert caught.value.constraint == "pk_idempotency_keys"
    with pytest.raises(ForeignKeyViolation):
        await use(ADD_KEY, user_id="nobody", key="k", request_hash="h", created_at=MOMENT)
    assert await stored(database_url) == ["ann"]


async def test_a_unit_whose_statement_failed_never_pretends_to_have_committed(
    database: Database, database_url: str
) -> None:
    async with database.unit() as unit:
        await add(unit, "ann")

    async def go_on_after_a_failure() -> None:
        async with database.unit() as unit:
            await add(unit, "ben")
            with contextlib.suppress(UniqueViolation):
                await add(unit, "ann")

    (failure,) = await asyncio.gather(go_on_after_a_failure(), return_exceptions=True)
    assert (failure is None) == ("ben" in await stored(database_url)), failure


@pytest.mark.covers("A017", "A140", "C102", "C103", "E074")
async def test_of_concurrent_units_each_succeeds_or_fails_by_itself(database: Database, database_url: str) -> None:
    async def write(number: int) -> None:
        async with database.unit() as unit:
            await add(unit, f"first{number:02}")
            await asyncio.sleep(0)
            if number % 3 == 0:
                raise Refused
            # Every third of the others takes a name that another one takes too.
            await add(unit, "same" if number % 3 == 1 else f"second{number:02}")

    results = await asyncio.gather(*(write(number) for number in range(30)), return_exceptions=True)
    assert sum(isinstance(result, Refused) for result in results) == 10
    assert sum(isinstance(result, UniqueViolation) for result in results) == 9
    assert sum(result is None for result in results) == 11
    names = await stored(database_url)
    expected = [f"first{number:02}" for number, result in enumerate(results) if result is None]
    assert [name for name in names if name.startswith("first")] == expected
    assert [name for name in names if name.startswith("second")] == [f"second{n:02}" for n in range(2, 30, 3)]
    assert names.count("same") == 1


@both_kinds
async def test_concurrent_changes_of_one_row_are_all_counted(
    database: Database, database_url: str, make: Callable[[Database], Unit]
) -> None:
    async with database.unit() as unit:
        await add(unit, "ann")

    async def count_up() -> None:
        async with make(database) as unit:
            await unit.fetch(COUNT_UP, which="ann")

    await asyncio.gather(*(count_up() for _ in range(40)))
    assert await run_sql(database_url, "SELECT version FROM users") == [(41,)]


OPEN_TRANSACTIONS = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND (state LIKE 'idle in transaction%' OR state = 'active')"""


async def until_free(url: str) -> None:
    """Until no transaction of anybody is open on this database; fails when that takes long."""
    if url.startswith("sqlite"):
        await run_sql(url, "BEGIN IMMEDIATE")
        return
    for _ in range(200):
        if await run_sql(url, OPEN_TRANSACTIONS) == [(0,)]:
            return
        await asyncio.sleep(0.02)
    pytest.fail("a transaction stayed open")


async def run_cancelled(database: Database, number: int, dialect: str) -> None:
    """Start a unit of three writes and cancel it after so many steps of the loop."""

    async def write() -> None:
        async with database.unit() as unit:
            await ids(unit)
            for part in "abc":
                await add(unit, f"{part}{number:02}")
                await asyncio.sleep(0)

    task = asyncio.create_task(write())
    for _ in range(number):
        # On SQLite each step of the loop is a step of the unit; PostgreSQL's steps take a server's time.
        await asyncio.sleep(0 if dialect == "sqlite" else 0.0004)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None


@pytest.mark.covers("B017", "C029")
async def test_a_unit_cancelled_at_any_point_leaves_neither_a_lock_nor_half_of_its_writes(
    database: Database, database_url: str, dialect: str
) -> None:
    for number in range(25):
        await run_cancelled(database, number, dialect)
        await until_free(database_url)
    found = await stored(database_url)
    whole = [name for name in found if name.startswith("a")]
    assert len(found) == 3 * len(whole)
    async with asyncio.timeout(10):
        async with database.unit() as unit:
            await add(unit, "zoe")
    assert "zoe" in await stored(database_url)


async def test_cancelling_some_of_many_concurrent_units_harms_none_of_the_others(
    database: Database, database_url: str
) -> None:
    async def write(number: int) -> None:
        async with database.unit() as unit:
            for part in "abc":
                await add(unit, f"{part}{number:02}")
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(write(number)) for number in range(40)]
    for task in tasks[::3]:
        await asyncio.sleep(0.001)
        task.cancel()
    async with asyncio.timeout(20):
        await asyncio.wait(tasks)
    found = await stored(database_url)
    for number, task in enumerate(tasks):
        there = [f"{part}{number:02}" in found for part in "abc"]
        assert len(set(there)) == 1, number
        if number % 3:
            assert task.exception() is None
            assert all(there)
    await until_free(database_url)
