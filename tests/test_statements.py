"""Statements written once in SQLAlchemy and run on the driver: their values, their conversions, and where they run."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import JSON, Executable, bindparam, insert, select, text, update
from sqlalchemy.engine import Dialect

from duly.db import postgres, sqlite
from duly.db.functions import insert_on_conflict, named
from duly.db.statements import Statement
from duly.db.types import Instant
from duly.db.unit import Database
from duly.errors import Unavailable
from tests.fixtures.application import Api
from tests.people import FIND_IDS, FIND_IDS_SLOWLY, MOMENT, add, ids, keys, plain, users

MAKERS = {"sqlite": sqlite.make_dialect, "postgresql": postgres.make_dialect}
of_both = pytest.mark.parametrize("target", [make() for make in MAKERS.values()], ids=list(MAKERS))


def arguments(element: Executable, target: Dialect, **values: Any) -> list[Any]:
    return Statement(element).plan(target).arguments(values)


@of_both
def test_values_go_in_the_order_that_the_driver_needs(target: Dialect) -> None:
    element = update(users).where(users.c.id == bindparam("which")).values(name=bindparam("new_name"))
    assert arguments(element, target, which="w", new_name="n") == ["n", "w"]


@of_both
def test_a_value_used_twice_is_given_once(target: Dialect) -> None:
    again = bindparam("again", type_=users.c.name.type)
    found = arguments(select(users.c.id).where(users.c.name == again, users.c.username == again), target, again="x")
    assert set(found) == {"x"}
    assert len(found) == (2 if target.name == "sqlite" else 1)


@of_both
def test_a_value_that_is_missing_is_a_fault_and_not_a_null(target: Dialect) -> None:
    element = select(users.c.id).where(users.c.name == bindparam("wanted"))
    with pytest.raises(KeyError, match="wanted"):
        arguments(element, target)


@of_both
def test_literals_and_defaults_are_filled_in(target: Dialect) -> None:
    element = select(users.c.id).where(users.c.role == "admin", users.c.name == bindparam("n", value="anybody"))
    assert arguments(element, target) == ["admin", "anybody"]
    assert arguments(element, target, n="ann") == ["admin", "ann"]


@of_both
def test_a_column_s_own_default_is_written_and_can_be_overruled(target: Dialect) -> None:
    columns = ("id", "created_at", "updated_at")
    element = insert(users).values({name: bindparam(name) for name in columns})
    plan = Statement(element).plan(target)
    given = {"id": "x", "created_at": MOMENT, "updated_at": MOMENT}
    by_default, overruled = plan.arguments(given), plan.arguments({**given, "version": 7, "is_active": False})
    # version 1, active, and an address that nobody has verified
    assert (by_default.count(1), by_default.count(0)) == (2, 1)
    assert (overruled.count(7), overruled.count(1), overruled.count(0)) == (1, 0, 2)


@of_both
def test_times_are_utc_to_the_microsecond_whatever_their_offset(target: Dialect) -> None:
    element = select(users.c.id).where(users.c.created_at > bindparam("since", type_=Instant()))
    eastern = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=5)))
    (sent,) = arguments(element, target, since=eastern)
    assert sent == ("2026-01-01T22:04:05.000006Z" if target.name == "sqlite" else eastern)


@of_both
def test_json_is_sent_as_text_and_null_stays_null(target: Dialect) -> None:
    element = select(users.c.id).where(bindparam("tags", type_=JSON(none_as_null=True)).is_not(None))
    assert arguments(element, target, tags=["a", "é"]) == ['["a","é"]']
    assert arguments(element, target, tags=None) == [None]


@of_both
def test_a_statement_is_compiled_once_for_each_dialect(target: Dialect) -> None:
    statement = Statement(select(users.c.id))
    plan = statement.plan(target)
    assert statement.plan(target) is plan
    assert statement.plan(MAKERS[target.name]()) is plan
    other = next(make() for name, make in MAKERS.items() if name != target.name)
    assert statement.plan(other) is not plan


def test_what_writes_is_known_from_the_statement() -> None:
    assert Statement(insert(users)).writes
    assert Statement(update(users)).writes
    assert Statement(users.delete()).writes
    assert Statement(insert_on_conflict(keys).on_conflict_do_nothing()).writes
    assert not Statement(select(users)).writes
    assert not Statement(text("SELECT 1")).writes


async def test_rows_come_back_as_the_types_that_went_in(database: Database) -> None:
    exact = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    find = Statement(select(users.c.created_at, users.c.deleted_at, users.c.is_active, users.c.version))
    async with database.unit() as unit:
        await add(unit, "ann")
        await unit.fetch(Statement(update(users).values(created_at=bindparam("at", type_=Instant()))), at=exact)
    row = await database.first(find)
    assert row is not None
    created, deleted, active, version = row
    assert (created, created.utcoffset(), deleted, version) == (exact, timedelta(0), None, 1)
    assert active in (True, 1)


async def test_first_is_the_first_row_or_none(database: Database) -> None:
    assert await database.first(FIND_IDS) is None
    async with database.unit() as unit:
        await add(unit, "ben", "ann")
        assert await unit.first(FIND_IDS) is not None
    row = await database.first(FIND_IDS)
    assert row is not None
    assert tuple(row) == ("ann",)


async def test_a_document_is_spelt_with_its_names_in_order(database: Database) -> None:
    async with database.unit() as unit:
        await add(unit, 'q"uote')
    find = Statement(select(named(("b", users.c.name), ("a", users.c.deleted_at), ("c", users.c.is_active))))
    row = await database.first(find)
    assert row is not None
    assert row[0].replace(": ", ":") == '{"b":"q\\"uote","a":null,"c":true}'


# Some tenths of a second of one core on either dialect, and it reads nothing.
LONG = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700000) SELECT count(*) FROM n"""


async def test_a_slow_read_runs_beside_the_loop(database: Database) -> None:
    slow = asyncio.create_task(database.fetch(Statement(text(LONG), slow=True)))
    turns = 0
    while not slow.done():
        await asyncio.sleep(0.001)
        turns += 1
        assert await ids(database) == []
    assert [tuple(row) for row in await slow] == [(700000,)]
    assert turns > 5


async def test_slow_reads_are_run_side_by_side_and_see_what_was_committed(database: Database) -> None:
    async with database.unit() as unit:
        await add(unit, "ann")
    found = await asyncio.gather(*(database.fetch(FIND_IDS_SLOWLY) for _ in range(20)))
    assert [[row[0] for row in rows] for rows in found] == [["ann"]] * 20


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("slow", [False, True])
async def test_reads_cannot_write_on_sqlite(database: Database, slow: bool) -> None:
    with pytest.raises(Exception, match=r"(?i)readonly|read-only|does not answer|takes no writes"):
        await database.fetch(Statement(text("DELETE FROM users"), slow=slow))


async def test_statements_are_logged_without_their_values(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="duly.sql"):
        async with database.unit() as unit:
            await add(unit, "hidden-value")
        await ids(database)
    logged = [record.getMessage() for record in caplog.records if "users" in record.getMessage()]
    assert any("INSERT INTO users" in line for line in logged)
    assert any("SELECT users.id" in line for line in logged)
    assert "hidden-value" not in caplog.text


async def test_an_unknown_table_is_the_program_s_fault_and_no_outage(api: Api) -> None:
    database: Database = api.app.state.services.database
    with pytest.raises(Exception, match="nowhere") as caught:
        await database.fetch(plain("SELECT * FROM nowhere"))
    assert not isinstance(caught.value, Unavailable)
