"""A snapshot of a PostgreSQL database: one transaction that sees one moment, and a cursor on the server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC
from typing import Any

import asyncpg

from duly.db.postgres_pool import CONNECT_SECONDS
from duly.db.shapes import (
    BATCH,
    BATCH_BYTES,
    TableShape,
    canonical_json,
    check_revision,
    faults_of,
    quoted,
    table_shapes,
)
from duly.db.url import DatabaseAddress

CLOSE_SECONDS = 2.0
# The address may hold limits that are meant for requests; reading everything takes as long as it takes.
_NO_LIMITS = (
    "SET LOCAL statement_timeout = 0", "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SET LOCAL cursor_tuple_fraction = 1",
)  # fmt: skip
# A server's start is told to the microsecond: no two that run share it, though one may be a copy of the other.
_PLACE = """SELECT concat_ws(' ', 'postgresql', extract(epoch FROM pg_postmaster_start_time()), oid, current_schema())
 FROM pg_database WHERE datname = current_database()"""


@contextlib.asynccontextmanager
async def connected(address: DatabaseAddress) -> AsyncIterator[Any]:
    """A connection of its own. Statements have no name on the server, so that a pooler may stand before it."""
    with faults_of(address):
        connection = await asyncpg.connect(
            **address.asyncpg_arguments(), timeout=CONNECT_SECONDS, statement_cache_size=0
        )
    try:
        yield connection
    finally:
        await _close(connection)


async def _close(connection: Any) -> None:
    # Closing rolls back. What does not answer, or is in the middle of something, is cut off.
    try:
        await connection.close(timeout=CLOSE_SECONDS)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        connection.terminate()
    except asyncio.CancelledError:
        connection.terminate()
        raise


class PostgresSnapshot:
    """See `duly.db.snapshots.Snapshot`."""

    def __init__(self, address: DatabaseAddress, connection: Any, revision: str, place: str) -> None:
        self._address = address
        self._connection = connection
        self.revision = revision
        self.place = place
        self.tables = table_shapes()
        self._shapes = {shape.name: shape for shape in self.tables}
        self._cursors = 0

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        with faults_of(self._address):
            sql = f"SELECT count(*) FROM {quoted(self._shapes[table].name)}"  # noqa: S608 - a name of the metadata
            return int(await self._connection.fetchval(sql))

    async def rows(self, table: str, batch: int = BATCH) -> AsyncIterator[list[tuple[Any, ...]]]:
        """The rows in the order of the primary key."""
        shape = self._shapes[table]
        self._cursors += 1
        cursor = f"carried_{self._cursors}"
        columns, key = quoted(*shape.columns), quoted(*shape.key)
        with faults_of(self._address):
            batch = min(batch, await self._bounded_batch(shape))
            await self._connection.execute(
                f"DECLARE {cursor} NO SCROLL CURSOR FOR SELECT {columns} FROM {quoted(table)} ORDER BY {key}"  # noqa: S608
            )
        documents, times = (
            [place for place, kind in enumerate(shape.kinds) if kind == wanted] for wanted in ("json", "time")
        )
        while True:
            with faults_of(self._address):
                records = await self._connection.fetch(f"FETCH FORWARD {batch} FROM {cursor}")
            if not records:
                break
            yield [_portable(record, documents, times) for record in records]
        with faults_of(self._address):
            await self._connection.execute(f"CLOSE {cursor}")

    async def _bounded_batch(self, shape: TableShape) -> int:
        """How many of the largest rows may be in memory at once."""
        names = [shape.columns[place] for place in shape.unbounded]
        if not names:
            return BATCH
        sizes = " + ".join(f"coalesce(octet_length({quoted(name)}::text), 0)" for name in names)
        largest = await self._connection.fetchval(f"SELECT max({sizes}) FROM {quoted(shape.name)}")  # noqa: S608
        return max(1, BATCH_BYTES // max(1, largest or 0))


def _portable(record: Any, documents: Sequence[int], times: Sequence[int]) -> tuple[Any, ...]:
    row = list(record)
    for place in documents:
        if row[place] is not None:
            row[place] = canonical_json(row[place])
    for place in times:
        # The driver writes the last moment of all as infinity, and gives it back without its zone.
        if (moment := row[place]) is not None and moment.tzinfo is None:
            row[place] = moment.replace(tzinfo=UTC)
    return tuple(row)


@contextlib.asynccontextmanager
async def open_postgres_snapshot(address: DatabaseAddress) -> AsyncIterator[PostgresSnapshot]:
    """See `duly.db.snapshots.open_snapshot`."""
    async with connected(address) as connection:
        with faults_of(address):
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            for statement in _NO_LIMITS:
                await connection.execute(statement)
            revision, place = await read_revision(connection), await read_place(connection)
            check_revision(address, revision)
        yield PostgresSnapshot(address, connection, revision, place)


async def read_revision(connection: Any) -> str:
    """Where the schema stands; nothing for a database without one."""
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return ""
    return str(await connection.fetchval("SELECT version_num FROM alembic_version") or "")


async def read_place(connection: Any) -> str:
    """The server that runs, the database and the schema, under whatever address."""
    return str(await connection.fetchval(_PLACE))
