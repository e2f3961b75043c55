"""Reads a whole database as it was at one moment, in portable values, while others go on writing."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from duly.db.postgres_snapshots import open_postgres_snapshot
from duly.db.shapes import BATCH, TableShape
from duly.db.sqlite_snapshots import open_sqlite_snapshot
from duly.db.url import DatabaseAddress


class Snapshot(Protocol):
    """One consistent view: everything that was committed when it was opened, and nothing that came after.

    Every method raises `CarryFault`.
    """

    revision: str
    """Of the schema."""
    place: str
    """The same for two addresses of one database, and for no others."""
    tables: tuple[TableShape, ...]
    """Each after those that it refers to."""

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        ...

    def rows(self, table: str, batch: int = BATCH) -> AsyncIterator[list[tuple[Any, ...]]]:
        """The rows in the order of the primary key, at most `batch` at a time, and fewer when they are large."""
        ...


@contextlib.asynccontextmanager
async def open_snapshot(address: DatabaseAddress) -> AsyncIterator[Snapshot]:
    """Open a view on a connection of its own. SQLite is read in a thread, so that a server's loop goes on.

    Raises `CarryFault` when the database is not there, cannot be reached, or has the schema of another version.
    """
    opened: AbstractAsyncContextManager[Snapshot]
    opened = open_sqlite_snapshot(address) if address.dialect == "sqlite" else open_postgres_snapshot(address)
    async with opened as snapshot:
        yield snapshot
