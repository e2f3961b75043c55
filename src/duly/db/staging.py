"""A database file for rows of an older schema: filled as they were, it is upgraded, and read like any other."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import apsw

from duly.db import migrate
from duly.db.shapes import CarryFault, Kind, quoted
from duly.db.sqlite_snapshots import SqliteThread
from duly.db.url import DatabaseAddress
from duly.kit.clock import rfc3339

_WRITERS: dict[Kind, Callable[[Any], Any]] = {"boolean": int, "time": rfc3339}


class Staging:
    """One file at one revision, which `upgrade_staging` takes to head once it is closed."""

    def __init__(self, address: DatabaseAddress, thread: SqliteThread, triggers: list[str]) -> None:
        self.address = address
        self._thread = thread
        self._triggers = triggers

    async def add(
        self, table: str, columns: Sequence[str], kinds: Sequence[Kind], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Insert portable values. Raises `CarryFault`."""
        writers = [(place, write) for place, kind in enumerate(kinds) if (write := _WRITERS.get(kind))]
        marks = ", ".join("?" * len(columns))
        sql = f"INSERT INTO {quoted(table)} ({quoted(*columns)}) VALUES ({marks})"  # noqa: S608 - names of a manifest
        await self._thread.run(lambda connection: _insert(connection, sql, writers, rows))

    async def finish(self) -> None:
        """Put the triggers back and commit."""
        await self._thread.run(self._finish)

    def _finish(self, connection: apsw.Connection) -> None:
        for sql in self._triggers:
            connection.execute(sql)
        connection.execute("COMMIT")


@contextlib.asynccontextmanager
async def open_staging(path: Path, revision: str) -> AsyncIterator[Staging]:
    """A new file at `path` with the schema of `revision`. Raises `CarryFault`."""
    address = DatabaseAddress("sqlite", path=path)
    await migrate.upgrade(address, revision)
    thread = SqliteThread(address)
    try:
        yield Staging(address, thread, await thread.run(_begin))
    finally:
        await thread.close()


async def upgrade_staging(address: DatabaseAddress) -> None:
    """Bring what was staged to head. Raises `CarryFault`."""
    try:
        await migrate.upgrade(address)
    except migrate.FAULTS as error:
        raise CarryFault(f"the older backup cannot be upgraded ({error}); restore it with its own version") from error


def _begin(connection: apsw.Connection) -> list[str]:
    # It is thrown away if anything goes wrong, so nothing of it has to be durable.
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("BEGIN IMMEDIATE")
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in rows:
        connection.execute(f"DROP TRIGGER {quoted(str(name))}")
    return [str(sql) for _, sql in rows]


def _insert(
    connection: apsw.Connection,
    sql: str,
    writers: Sequence[tuple[int, Callable[[Any], Any]]],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    try:
        for row in rows:
            values = list(row)
            for place, write in writers:
                if values[place] is not None:
                    values[place] = write(values[place])
            connection.execute(sql, values)
    except (apsw.Error, ValueError, TypeError) as error:
        raise CarryFault(f"a row of the older backup was refused ({error}); restore it with its own version") from error
