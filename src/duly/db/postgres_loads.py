"""Fills a PostgreSQL database with COPY in one transaction; triggers are off and indexes away meanwhile."""

import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg

from duly.db.migrate import LOCK_ID, TURN_SECONDS
from duly.db.postgres_snapshots import connected, read_place, read_revision
from duly.db.shapes import CARRIED, CarryFault, Standing, TableShape, check_revision, faults_of, quoted, table_shapes
from duly.db.url import DatabaseAddress

_LINE = re.compile(r"COPY \S+, line (\d+)")

# Those that belong to no constraint: they are built in a fraction of the time that filling them takes.
_INDEXES = """SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
 WHERE indrelid = ANY (SELECT to_regclass(quote_ident(name)) FROM unnest($1::text[]) AS name)
 AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = indexrelid) ORDER BY 1"""


class PostgresLoad:
    """See `duly.db.loads.Load`."""

    def __init__(self, address: DatabaseAddress, connection: Any, place: str) -> None:
        self._address = address
        self._connection = connection
        self.place = place
        self._indexes: list[str] | None = None
        self.tables = table_shapes()
        self._shapes = {shape.name: shape for shape in self.tables}

    async def is_empty(self) -> bool:
        """Whether no table has a row."""
        with faults_of(self._address):
            return not await _has_rows(self._connection)

    async def add(self, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert portable values."""
        shape = self._shapes[table]
        with faults_of(self._address):
            if self._indexes is None:
                await self._clear_the_way()
            try:
                await self._connection.copy_records_to_table(table, records=rows, columns=list(columns))
            except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, UnicodeEncodeError) as error:
                raise CarryFault(_refusal(shape, columns, rows, error)) from error

    async def finish(self) -> None:
        """Put triggers and indexes back, gather statistics, and commit; references were checked with each batch."""
        with faults_of(self._address):
            if self._indexes is not None:
                for table in CARRIED:
                    await self._connection.execute(f"ALTER TABLE {quoted(table)} ENABLE TRIGGER USER")
            for text in self._indexes or ():
                await self._connection.execute(text)
            # Until it is told better, PostgreSQL plans as if the tables were empty.
            await self._connection.execute(f"ANALYZE {quoted(*CARRIED)}")
            done = await self._connection.execute("COMMIT")
        if done != "COMMIT":
            raise CarryFault("a row was refused, so nothing was kept")

    async def _clear_the_way(self) -> None:
        """Once a row comes, and not before: a database that turns out to be in use is not touched."""
        for table in CARRIED:
            await self._connection.execute(f"ALTER TABLE {quoted(table)} DISABLE TRIGGER USER")
        indexes = await self._connection.fetch(_INDEXES, list(CARRIED))
        for name, _ in indexes:
            await self._connection.execute(f"DROP INDEX {name}")
        self._indexes = [text for _, text in indexes]


@contextlib.asynccontextmanager
async def open_postgres_load(address: DatabaseAddress) -> AsyncIterator[PostgresLoad]:
    """See `duly.db.loads.open_load`."""
    async with connected(address) as connection:
        with faults_of(address):
            await connection.execute("BEGIN")
            for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
                await connection.execute(f"SET LOCAL {name} = 0")
            await connection.execute(f"SET LOCAL lock_timeout = '{TURN_SECONDS}s'")
            # Nobody migrates meanwhile, and nobody writes.
            await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK_ID})")
            check_revision(address, await read_revision(connection))
            await connection.execute(f"LOCK TABLE {quoted(*CARRIED)} IN SHARE ROW EXCLUSIVE MODE")
            place = await read_place(connection)
        yield PostgresLoad(address, connection, place)


async def look_at_postgres(address: DatabaseAddress) -> Standing:
    """See `duly.db.loads.look_at`."""
    async with connected(address) as connection:
        with faults_of(address):
            place, revision = await read_place(connection), await read_revision(connection)
            return Standing(place, revision, is_empty=not await _has_rows(connection))


async def _has_rows(connection: Any) -> bool:
    for table in CARRIED:
        there = await connection.fetchval("SELECT to_regclass($1)", quoted(table))
        if there is not None and await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {quoted(table)})"):  # noqa: S608
            return True
    return False


def _refusal(shape: TableShape, columns: Sequence[str], rows: Sequence[tuple[Any, ...]], error: Exception) -> str:
    """Which row it was: one with what PostgreSQL's text cannot hold, or the one that the server counted up to."""
    for row in rows:
        for name, value in zip(columns, row, strict=True):
            if isinstance(value, str) and "\x00" in value:
                return f"{shape.name_row(row, columns)}: {name} holds a NUL, which PostgreSQL refuses; remove it first"
    told = ": ".join(filter(None, (str(error).strip().partition("\n")[0], getattr(error, "detail", None))))
    counted = _LINE.search(getattr(error, "context", None) or "")
    if counted is None:
        return f"{shape.name}: a row was refused ({told}); mend it first"
    refused = rows[int(counted[1]) - 1]
    return f"{shape.name_row(refused, columns)}: was refused ({told}); mend it first"
