"""Fills an empty database with portable values, in one transaction, as they were where they come from."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from duly.db.postgres_loads import look_at_postgres, open_postgres_load
from duly.db.shapes import Standing, TableShape
from duly.db.sqlite_loads import look_at_sqlite, open_sqlite_load
from duly.db.url import DatabaseAddress


class Load(Protocol):
    """One transaction: nothing of it is there unless `finish` returned. Nobody else writes meanwhile.

    The database's own triggers do not run: counters and changes are loaded like all else. Every method raises
    `CarryFault`.
    """

    place: str
    """The same for two addresses of one database, and for no others."""
    tables: tuple[TableShape, ...]
    """Each after those that it refers to: they are filled in this order."""

    async def is_empty(self) -> bool:
        """Whether no table has a row."""
        ...

    async def add(self, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert portable values. What the database refuses is named with its table and row."""
        ...

    async def finish(self) -> None:
        """Check every reference, let the triggers run again, and commit."""
        ...


@contextlib.asynccontextmanager
async def open_load(address: DatabaseAddress) -> AsyncIterator[Load]:
    """Begin to fill a database whose schema is at head. What was not finished is rolled back.

    Raises `CarryFault` when it cannot be reached, has another schema, or is held by somebody else for a minute.
    """
    opened: AbstractAsyncContextManager[Load]
    opened = open_sqlite_load(address) if address.dialect == "sqlite" else open_postgres_load(address)
    async with opened as load:
        yield load


async def look_at(address: DatabaseAddress) -> Standing:
    """What is at an address, without changing it; a SQLite file that does not exist is not made.

    Raises `CarryFault` when the database cannot be reached.
    """
    if address.dialect == "sqlite":
        return await look_at_sqlite(address)
    return await look_at_postgres(address)
