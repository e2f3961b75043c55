"""Fills an SQLite file in one transaction; its triggers and indexes are taken away and put back within it."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import apsw

from duly.db.migrate import TURN_SECONDS
from duly.db.shapes import CARRIED, CarryFault, Kind, Standing, TableShape, check_revision, quoted, table_shapes
from duly.db.sqlite_snapshots import SqliteThread, read_revision, sqlite_place
from duly.db.url import DatabaseAddress
from duly.kit.clock import rfc3339

_WRITERS: dict[Kind, Callable[[Any], Any]] = {"boolean": int, "time": rfc3339}


class SqliteLoad:
    """See `duly.db.loads.Load`."""

    def __init__(self, thread: SqliteThread, parts: Sequence[str]) -> None:
        self._thread = thread
        self._parts = parts
        self.place = sqlite_place(thread.path)
        self.tables = table_shapes()
        self._shapes = {shape.name: shape for shape in self.tables}

    async def is_empty(self) -> bool:
        """Whether no table has a row."""
        return await self._thread.run(lambda connection: not _has_rows(connection))

    async def add(self, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert portable values."""
        shape = self._shapes[table]
        await self._thread.run(lambda connection: _insert(connection, shape, columns, rows))

    async def finish(self) -> None:
        """Put triggers and indexes back and commit; references were checked row by row."""
        await self._thread.run(self._finish)

    def _finish(self, connection: apsw.Connection) -> None:
        for sql in self._parts:
            connection.execute(sql)
        connection.execute("COMMIT")
        with contextlib.suppress(apsw.Error):
            # The copy is durable in the log already; somebody who reads may be in the way of this.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@contextlib.asynccontextmanager
async def open_sqlite_load(address: DatabaseAddress) -> AsyncIterator[SqliteLoad]:
    """See `duly.db.loads.open_load`."""
    thread = SqliteThread(address)
    try:
        yield SqliteLoad(thread, await thread.run(lambda connection: _begin(connection, address)))
    finally:
        await thread.close()


async def look_at_sqlite(address: DatabaseAddress) -> Standing:
    """See `duly.db.loads.look_at`."""
    thread = SqliteThread(address)
    if not thread.path.exists():
        return Standing("", "", is_empty=True)

    def look(connection: apsw.Connection) -> Standing:
        return Standing(sqlite_place(thread.path), read_revision(connection), is_empty=not _has_rows(connection))

    try:
        return await thread.run(look)
    finally:
        await thread.close()


def _begin(connection: apsw.Connection, address: DatabaseAddress) -> list[str]:
    connection.set_busy_timeout(TURN_SECONDS * 1000)
    connection.execute("BEGIN IMMEDIATE")
    check_revision(address, read_revision(connection))
    # Triggers would count and write changes again. An index is built in a fraction of the time that filling it takes.
    # What has no SQL of its own belongs to a constraint, and stays.
    sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE type IN ('trigger', 'index') AND sql IS NOT NULL"
    parts = [tuple(map(str, part)) for part in connection.execute(sql).fetchall() if part[2] in CARRIED]
    for kind, name, _, _ in parts:
        connection.execute(f"DROP {kind} {quoted(name)}")
    return [text for _, _, _, text in parts]


def _has_rows(connection: apsw.Connection) -> bool:
    return any(
        connection.table_exists(None, table)
        and connection.execute(f"SELECT EXISTS (SELECT 1 FROM {quoted(table)})").get  # noqa: S608 - a constant
        for table in CARRIED
    )


def _insert(
    connection: apsw.Connection, shape: TableShape, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    kinds = dict(zip(shape.columns, shape.kinds, strict=True))
    writers = [(place, write) for place, name in enumerate(columns) if (write := _WRITERS.get(kinds[name]))]
    marks = ", ".join("?" * len(columns))
    sql = f"INSERT INTO {quoted(shape.name)} ({quoted(*columns)}) VALUES ({marks})"  # noqa: S608 - names of the metadata
    row: tuple[Any, ...] = ()
    try:
        for row in rows:
            connection.execute(sql, _written(row, writers))
    except (apsw.ConstraintError, ValueError, TypeError, OverflowError) as error:
        raise CarryFault(f"{shape.name_row(row, columns)}: was refused ({error}); mend it first") from error


def _written(row: tuple[Any, ...], writers: list[tuple[int, Callable[[Any], Any]]]) -> list[Any]:
    values = list(row)
    for place, write in writers:
        if values[place] is not None:
            values[place] = write(values[place])
    return values
