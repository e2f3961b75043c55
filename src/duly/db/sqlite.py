"""SQLite through apsw: reads on the event loop, and one writer (`sqlite_writer`)."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import local
from time import monotonic
from typing import Any

import apsw
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Dialect

from duly.db.batches import Batches
from duly.db.conflicts import database_down
from duly.db.slow import SlowStatements
from duly.db.sqlite_connections import open_connection
from duly.db.sqlite_faults import translate
from duly.db.sqlite_writer import Writer
from duly.db.statements import Row, Statement, sql_log
from duly.db.types import dump_json
from duly.db.unit import Connections, Listener, Unit

__all__ = ["SqliteDatabase", "make_dialect", "open_connection", "translate"]

SLOW_READERS = 2


def make_dialect() -> Dialect:
    """The SQLAlchemy dialect that statements are compiled for."""
    return SQLiteDialect_pysqlite(paramstyle="qmark", json_serializer=dump_json)


class SqliteDatabase:
    """One file, opened once per process.

    Reads are microseconds and run where they are; statements marked slow run in threads with connections of their own.
    """

    def __init__(self, path: Path, slow_seconds: float = 0.0) -> None:
        self.path = path
        self.slow = SlowStatements(slow_seconds)
        self.dialect = make_dialect()
        self.listeners: list[Listener] = []
        self._reader = open_connection(path)
        self._reader.execute("PRAGMA query_only=ON")
        self._threads = ThreadPoolExecutor(SLOW_READERS, thread_name_prefix="sqlite-read")
        self._of_thread = local()
        self.writer = Writer(path, self.slow)
        self._batches: dict[Statement, Batches] = {}

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        """All rows, from the last committed state."""
        plan = statement.plan(self.dialect)
        arguments = plan.arguments(values)
        if sql_log.isEnabledFor(logging.DEBUG):
            sql_log.debug(plan.sql)
        begun = monotonic()
        rows: Sequence[Row] | None = None
        try:
            if statement.slow:
                loop = asyncio.get_running_loop()
                rows = await loop.run_in_executor(self._threads, self._fetch_in_thread, plan.sql, arguments)
            else:
                rows = self._reader.execute(plan.sql, arguments).fetchall()
        except apsw.Error as error:
            raise translate(error) from error
        finally:
            self.slow.note(plan.sql, monotonic() - begun, None if rows is None else len(rows))
        return plan.rows(rows)

    async def first(self, statement: Statement, **values: Any) -> Row | None:
        """The first row or None."""
        rows = await self.fetch(statement, **values)
        return rows[0] if rows else None

    def unit(self) -> Unit:
        """A transaction over any number of statements."""
        return SqliteUnit(self)

    def single(self) -> Unit:
        """One writing statement; if it has a form for many rows, those that wait run and commit as one, in a thread."""
        return SqliteSingle(self)

    async def write_together(self, statement: Statement, values: dict[str, Any]) -> Row | None:
        """The first row of a statement that has a form for many rows; it is durable when this returns."""
        batches = self._batches.get(statement)
        if batches is None:
            # One at a time: there is one writer, and the larger a batch, the less its commit costs each.
            run, pack = partial(self._write, statement), partial(self._pack, statement)
            batches = Batches(statement, run, 1, ready=self.writer.turn, pack=pack)
            self._batches[statement] = batches
        return await batches.first(values)

    def _pack(self, single: Statement, rows: list[dict[str, Any]]) -> Mapping[str, Any]:
        plan = single.plan(self.dialect)
        return {"rows": [plan.arguments(row) for row in rows]}

    async def _write(
        self, single: Statement, asked: Statement, values: Mapping[str, Any], since: float
    ) -> Sequence[Row]:
        statement = single if asked is single else single.rows
        assert statement is not None  # noqa: S101 - only such statements come here
        plan = statement.plan(self.dialect)
        return plan.rows(await self.writer.run_durably(plan.sql, plan.arguments(values), since))

    def connections(self) -> Connections:
        """The writing connection, and the units that wait for their turn."""
        return self.writer.connections()

    async def ping(self) -> None:
        """Read one page. Raises `Unavailable`."""
        try:
            self._reader.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        except apsw.Error as error:
            raise database_down() from error

    async def report(self) -> dict[str, Any]:
        """Versions and the pragmas that decide durability, as the writer has them."""
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        values = {name: self.writer.pragma(name) for name in pragmas}
        levels = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
        return {
            "dialect": "sqlite",
            "server": apsw.sqlite_lib_version(),
            "path": str(self.path),
            "journal_mode": values["journal_mode"],
            "synchronous": levels.get(values["synchronous"], "?"),
            "foreign_keys": bool(values["foreign_keys"]),
            "pool": {"readers": 1 + SLOW_READERS, "writers": 1},
        }

    async def close(self) -> None:
        """Finish the group that waits, then close every connection."""
        await self.writer.close()
        self._threads.shutdown(wait=True)
        self._reader.close()

    def _fetch_in_thread(self, sql: str, arguments: list[Any]) -> Sequence[Row]:
        connection: apsw.Connection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = open_connection(self.path)
            connection.execute("PRAGMA query_only=ON")
        return connection.execute(sql, arguments).fetchall()


class SqliteUnit(Unit):
    """A unit on the one writer. Reads before the first write see the last committed state and wait for nobody."""

    def __init__(self, database: SqliteDatabase) -> None:
        super().__init__(database.listeners)
        self._database = database
        self._writing = False

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        """All rows; a writing statement takes the writer's turn."""
        if not self._writing:
            if not statement.writes:
                return await self._database.fetch(statement, **values)
            await self.begin()
        plan = statement.plan(self._database.dialect)
        return plan.rows(self._database.writer.run(plan.sql, plan.arguments(values)))

    async def begin(self) -> None:
        """Take the writer's turn."""
        if not self._writing:
            await self._database.writer.enter()
            self._writing = True

    async def _commit(self) -> None:
        if self._writing:
            self._writing = False
            await self._database.writer.commit()

    async def _rollback(self) -> None:
        if self._writing:
            self._writing = False
            self._database.writer.rollback()


class SqliteSingle(SqliteUnit):
    """A unit of one writing statement. What has a form for many rows is run and committed with others that wait."""

    async def first(self, statement: Statement, **values: Any) -> Row | None:
        """The first row or None."""
        if statement.rows is not None and not self._writing:
            return await self._database.write_together(statement, values)
        return await super().first(statement, **values)
