"""Snapshots and loads: what is read is one moment's, in bounded memory; what is refused is named by table and row."""

import asyncio
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from duly.db.digests import RowDigest
from duly.db.loads import look_at, open_load
from duly.db.shapes import BATCH_BYTES, CARRIED, DERIVED, CarryFault, table_shapes
from duly.db.snapshots import Snapshot, open_snapshot
from tests.fixtures.database import migrated_database
from tests.schemas import address_of, read_schema, run_sql

MOMENT = "'2026-01-01T00:00:00.000000Z'"
USER = f"INSERT INTO users (id, version, created_at, updated_at) VALUES ('{{0}}', 1, {MOMENT}, {MOMENT})"
# Texts that databases order, escape or fold in their own ways; identifiers that outside issuers may give.
ODD = (
    "Z",
    "a",
    "ä",
    "A\u0308",
    "\uffff",
    "\U0001f331",
    "%_\\",
    "quote'd".replace("'", "''"),
    "\t\n",
    "zz" * 100,
    " ",
    "ß",
)

ODD_TASK = (
    "INSERT INTO tasks (id, user_id, title, title_key, description, completed, priority, due_key, tags, version, "
    "created_at, updated_at) VALUES ('t{0}', '{1}', '{1}', 'k', '{1}', true, 'low', '9999-12-31T23:59:59.999999Z', "
    f"""'["b", "a", "\\u00e9\\\\ "]', 2147483647, '0001-01-01T00:00:00.000001Z', {MOMENT})"""
)


async def everything(snapshot: Snapshot) -> dict[str, tuple[int, str]]:
    """Of each table: how many rows, and their digest."""
    found = {}
    for shape in snapshot.tables:
        digest = RowDigest()
        async for rows in snapshot.rows(shape.name, batch=3):
            digest.add(rows)
        assert digest.rows == await snapshot.count(shape.name)
        found[shape.name] = (digest.rows, digest.hexdigest())
    return found


async def read(url: str) -> dict[str, tuple[int, str]]:
    async with open_snapshot(address_of(url)) as snapshot:
        return await everything(snapshot)


async def carry(source: str, target: str) -> None:
    async with open_snapshot(address_of(source)) as snapshot, open_load(address_of(target)) as load:
        assert await load.is_empty()
        for shape in snapshot.tables:
            async for rows in snapshot.rows(shape.name):
                await load.add(shape.name, shape.columns, rows)
        await load.finish()


@pytest.fixture
def other_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated, empty database of the other kind."""
    with migrated_database("sqlite" if dialect == "postgresql" else "postgresql", request, tmp_path) as url:
        yield url


def test_every_table_is_carried_or_is_known_to_follow_from_others() -> None:
    assert set(SQLModel.metadata.tables) == {*CARRIED, *DERIVED}
    assert [shape.name for shape in table_shapes()] != sorted(CARRIED)
    assert sorted(shape.name for shape in table_shapes()) == sorted(CARRIED)


def test_columns_that_the_database_computes_are_not_carried_and_parents_come_first() -> None:
    shapes = {shape.name: shape for shape in table_shapes()}
    assert "priority_key" not in shapes["tasks"].columns
    order = list(shapes)
    for name, table in ((name, SQLModel.metadata.tables[name]) for name in order):
        for key in table.foreign_keys:
            assert order.index(key.column.table.name) < order.index(name)


async def test_no_carried_table_has_a_sequence_that_a_load_would_have_to_set(database_url: str, dialect: str) -> None:
    if dialect == "sqlite":
        assert await run_sql(database_url, "SELECT name FROM sqlite_schema WHERE sql LIKE '%AUTOINCREMENT%'") == []
        return
    owned = await run_sql(database_url, "SELECT refobjid::regclass::text FROM pg_depend JOIN pg_class ON oid = objid "
                                        "WHERE relkind = 'S' AND deptype IN ('a', 'i')")  # fmt: skip
    assert {table for [table] in owned} <= set(DERIVED)


async def test_odd_texts_and_moments_are_the_same_in_order_and_value(database_url: str, other_url: str) -> None:
    for number, text in enumerate(ODD):
        await run_sql(database_url, USER.format(text))
        await run_sql(database_url, ODD_TASK.format(number, text))
    await carry(database_url, other_url)
    before = await read(database_url)
    assert before["changes"][0] == before["tasks"][0] == before["task_counters"][0] == len(ODD)
    assert await read(other_url) == before


async def test_a_load_leaves_the_schema_as_it_was_and_the_triggers_alive(database_url: str, other_url: str) -> None:
    await run_sql(database_url, USER.format("u"))
    fresh = await read_schema(other_url)
    await carry(database_url, other_url)
    assert await read_schema(other_url) == fresh
    await run_sql(other_url, USER.format("v"))
    assert await run_sql(other_url, "SELECT count(*) FROM task_counters") == [(2,)]


async def test_it_is_as_of_its_opening_and_holds_up_nobody(database_url: str) -> None:
    await run_sql(database_url, USER.format("before"))
    async with open_snapshot(address_of(database_url)) as snapshot:
        await run_sql(database_url, USER.format("after"))
        await run_sql(database_url, "DELETE FROM users WHERE id = 'before'")
        ids = [row[2] async for rows in snapshot.rows("users") for row in rows]
        assert await snapshot.count("task_counters") == 1
    assert ids == ["before"]


async def test_batches_are_small_where_rows_are_large(database_url: str) -> None:
    await run_sql(database_url, USER.format("u"))
    large = "y" * (BATCH_BYTES // 3 + 1)
    for number in range(7):
        await run_sql(database_url, f"""INSERT INTO idempotency_keys (user_id, key, request_hash, created_at, body)
         VALUES ('u', '{number}', 'h', {MOMENT}, '{large}')""")  # fmt: skip
    async with open_snapshot(address_of(database_url)) as snapshot:
        sizes = [len(rows) async for rows in snapshot.rows("idempotency_keys")]
    assert sum(sizes) == 7
    assert max(sizes) <= 3


async def test_a_loop_goes_on_while_a_snapshot_is_read(database_url: str) -> None:
    """What a server needs that makes a backup of itself: SQLite answers from a thread, PostgreSQL over a socket."""
    head, _, values = USER.partition("VALUES ")
    await run_sql(database_url, f"{head} VALUES {', '.join(values.format(f'u{number:03}') for number in range(300))}")
    turns = itertools.count()
    done = asyncio.Event()

    async def turn() -> None:
        while not done.is_set():
            next(turns)
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    async with open_snapshot(address_of(database_url)) as snapshot:
        start = next(turns)
        batches = [len(rows) async for rows in snapshot.rows("users", batch=50)]
    done.set()
    await turning
    assert batches == [50] * 6
    assert next(turns) - start > len(batches)


async def test_what_was_not_finished_is_not_there(database_url: str) -> None:
    address = address_of(database_url)
    shape = next(shape for shape in table_shapes() if shape.name == "field_keys")
    fresh = await read_schema(database_url)
    row = ("k", datetime(2026, 1, 1, tzinfo=UTC))
    async with open_load(address) as load:
        assert await load.is_empty()
        await load.add(shape.name, shape.columns, [row])
        assert not await load.is_empty()
    assert (await look_at(address)).is_empty
    assert await read_schema(database_url) == fresh


async def test_a_second_load_waits_and_finds_the_first_ones_rows(database_url: str) -> None:
    address = address_of(database_url)
    await run_sql(database_url, "SELECT 1")

    async def wait_and_look() -> bool:
        async with open_load(address) as second:
            return await second.is_empty()

    async with open_load(address) as first:
        waiting = asyncio.create_task(wait_and_look())
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await first.add("field_keys", ("id", "created_at"), [("k", datetime(2026, 1, 1, tzinfo=UTC))])
        await first.finish()
    assert await waiting is False


SPOILT = {
    "NUL": ("UPDATE users SET name = 'a' || char(0) || 'b' WHERE id = 'u2'",
            r"users, row id='u2': name holds a NUL, which PostgreSQL refuses; remove it first"),
    "too long": ("UPDATE users SET role = 'user', name = printf('%0201d', 7) WHERE id = 'u2'",
                 r"users, row id='u2': was refused \(value too long"),
    "no number": ("UPDATE users SET version = 'many' WHERE id = 'u2'",
                  r"users, row id='u2': holds what its column cannot \(str instead of int\); mend it first"),
    "no moment": ("UPDATE users SET created_at = 'then' WHERE id = 'u2'", r"users, row id='u2': holds what its column"),
    "no text": ("UPDATE users SET name = CAST(x'ff' AS TEXT) WHERE id = 'u2'", r"users: a row holds text that is no"),
    "no boolean": ("UPDATE users SET is_active = 2 WHERE id = 'u2'", r"users, row id='u2': holds .*neither 0 nor 1"),
    "no parent": ("PRAGMA foreign_keys=OFF; DELETE FROM users WHERE id = 'u2'",
                  r"task_counters: a row was refused .*\(u2\)"),
}  # fmt: skip


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_what_postgres_would_refuse_is_named_by_table_and_row(
    database_url: str, other_url: str, spoilt: str
) -> None:
    for number in range(4):
        await run_sql(database_url, USER.format(f"u{number}"))
    sql, message = SPOILT[spoilt]
    await run_sql(database_url, sql)
    with pytest.raises(CarryFault, match=message):
        await carry(database_url, other_url)
    assert (await look_at(address_of(other_url))).is_empty


async def test_a_load_checks_references(database_url: str) -> None:
    with pytest.raises(CarryFault, match=r"task_counters.* refused .*; mend it first"):
        async with open_load(address_of(database_url)) as load:
            await load.add("task_counters", ("user_id", "position", "pending", "completed"), [("nobody", 0, 0, 0)])
    assert (await look_at(address_of(database_url))).is_empty


def test_a_digest_depends_on_every_value_and_on_no_batch() -> None:
    rows = [(1, "a", None, True, b"\xff"), (2, "b", 0.5, False, b""), (3, "", None, None, None)]
    whole, pieces, other = RowDigest(), RowDigest(), RowDigest()
    whole.add(rows)
    for row in rows:
        pieces.add([row])
    pieces.add([])
    other.add([*rows[:2], (3, None, None, None, None)])
    assert (whole.hexdigest(), whole.rows) == (pieces.hexdigest(), 3)
    assert other.hexdigest() != whole.hexdigest()
