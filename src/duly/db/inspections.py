"""Reads statements of features in one snapshot, for reports that must agree with themselves while others write."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import apsw
from sqlalchemy.engine import Dialect

from duly.db import postgres, sqlite
from duly.db.postgres_snapshots import connected
from duly.db.shapes import faults_of
from duly.db.sqlite_snapshots import SqliteThread
from duly.db.statements import Row, Statement
from duly.db.unit import Reader
from duly.db.url import DatabaseAddress

MOST_FAULTS = 20


class Inspection(Reader):
    """One moment of the database. Every method raises `CarryFault`."""

    dialect: Dialect

    async def first(self, statement: Statement, **values: Any) -> Row | None:
        """The first row or None."""
        rows = await self.fetch(statement, **values)
        return rows[0] if rows else None

    async def find_broken_file(self, *, deep: bool) -> list[str]:
        """What the database itself says is wrong with its file; `deep` compares every index with its table."""
        raise NotImplementedError


class _SqliteInspection(Inspection):
    def __init__(self, thread: SqliteThread) -> None:
        self._thread = thread
        self.dialect = sqlite.make_dialect()

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        plan = statement.plan(self.dialect)
        arguments = plan.arguments(values)
        return plan.rows(await self._thread.run(lambda link: link.execute(plan.sql, arguments).fetchall()))

    async def find_broken_file(self, *, deep: bool) -> list[str]:
        check = "integrity_check" if deep else "quick_check"
        return await self._thread.run(lambda link: _look_at_file(link, check))


def _look_at_file(link: apsw.Connection, check: str) -> list[str]:
    found = [str(line) for (line,) in link.execute(f"PRAGMA {check}({MOST_FAULTS})").fetchall() if line != "ok"]
    for table, row, parent, _ in link.execute("PRAGMA foreign_key_check").fetchall()[:MOST_FAULTS]:
        found.append(f"row {row} of {table} refers to a row of {parent} that does not exist")
    return found


class _PostgresInspection(Inspection):
    def __init__(self, address: DatabaseAddress, connection: Any) -> None:
        self._address = address
        self._connection = connection
        self.dialect = postgres.make_dialect()

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        plan = statement.plan(self.dialect)
        with faults_of(self._address):
            return plan.rows(await self._connection.fetch(plan.sql, *plan.arguments(values)))

    async def find_broken_file(self, *, deep: bool) -> list[str]:
        return []


@contextlib.asynccontextmanager
async def open_inspection(address: DatabaseAddress) -> AsyncIterator[Inspection]:
    """Open a view on a connection of its own; SQLite is read in a thread. Raises `CarryFault`."""
    if address.dialect == "postgresql":
        async with connected(address) as connection:
            with faults_of(address):
                await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                await connection.execute("SET LOCAL statement_timeout = 0")
                await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield _PostgresInspection(address, connection)
        return
    thread = SqliteThread(address)
    try:
        await thread.run(_begin)
        yield _SqliteInspection(thread)
    finally:
        await thread.close()


def _begin(link: apsw.Connection) -> None:
    link.execute("PRAGMA query_only=ON")
    link.execute("BEGIN")
    link.execute("SELECT count(*) FROM sqlite_schema").fetchall()
