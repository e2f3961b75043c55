"""SQLite through apsw: reads on the event loop, one writer, and one durable commit for all units that wait."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local
from time import monotonic
from typing import Any, TypeVar

import apsw
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Dialect

from duly.db.conflicts import database_down, writes_refused
from duly.db.slow import SlowStatements
from duly.db.sqlite_connections import BUSY_MILLISECONDS, open_connection
from duly.db.sqlite_faults import translate
from duly.db.statements import Row, Statement, sql_log
from duly.db.unit import Connections, Listener, Unit
from duly.errors import DulyError

__all__ = ["SqliteDatabase", "make_dialect", "open_connection", "translate"]

log = logging.getLogger(__name__)

SLOW_READERS = 2
Result = TypeVar("Result")


def make_dialect() -> Dialect:
    """The SQLAlchemy dialect that statements are compiled for."""
    return SQLiteDialect_pysqlite(paramstyle="qmark")


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

    single = unit

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


class Writer:
    """The one writing connection. Units take turns on it, each in a savepoint; those that wait share one commit.

    A commit runs in a thread, because its fsync and checkpoint would stall the loop. Whoever starts a group asks for
    the turn right away to commit it, so all units that were waiting before that are in the group: alone, a unit
    commits at once.
    """

    def __init__(self, path: Path, slow: SlowStatements) -> None:
        self._connection = open_connection(path)
        self._slow = slow
        self._waiting = 0
        # Another process's lock is waited for in `_begin`, where the loop goes on meanwhile.
        self._connection.set_busy_timeout(0)
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-commit")
        self._group: list[asyncio.Future[None]] = []
        self._committing: set[asyncio.Task[None]] = set()
        self._closed = False

    def pragma(self, name: str) -> Any:
        """The value of a pragma on the writing connection."""
        return self._connection.pragma(name)

    def connections(self) -> Connections:
        """One, in use while somebody has the turn."""
        in_use = int(self._turn.locked())
        return Connections(in_use=in_use, idle=1 - in_use, limit=1, waiting=self._waiting)

    async def enter(self) -> None:
        """Wait for the turn and open a savepoint, within the group's transaction or a new one."""
        arrived = monotonic()
        self._waiting += 1
        try:
            await self._take_turn(arrived)
        finally:
            self._waiting -= 1
            self._slow.note("BEGIN IMMEDIATE", 0.0, 0, waited=monotonic() - arrived)

    async def _take_turn(self, arrived: float) -> None:
        await self._turn.acquire()
        try:
            if self._closed:
                raise database_down()
            if not self._connection.in_transaction:
                await self._begin(arrived + BUSY_MILLISECONDS / 1000)
            self._connection.execute("SAVEPOINT unit")
        except BaseException as error:
            self._give_up_entry()
            if isinstance(error, apsw.Error):
                raise translate(error) from error
            raise

    def run(self, sql: str, arguments: list[Any]) -> list[Any]:
        """One statement inside the savepoint."""
        if sql_log.isEnabledFor(logging.DEBUG):
            sql_log.debug(sql)
        if not self._connection.in_transaction:
            # A full disk or an I/O error made SQLite roll everything back: this would be a transaction of its own.
            raise writes_refused(retry_after=1)
        begun = monotonic()
        rows: list[Any] | None = None
        try:
            rows = self._connection.execute(sql, arguments).fetchall()
        except apsw.Error as error:
            raise translate(error) from error
        finally:
            self._slow.note(sql, monotonic() - begun, None if rows is None else len(rows))
        return rows

    async def commit(self) -> None:
        """Close the savepoint, give the turn away, and come back when the group is durable."""
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._connection.execute("RELEASE unit")
            self._group.append(durable)
            if len(self._group) == 1:
                task = asyncio.create_task(self._commit_group())
                self._committing.add(task)
                task.add_done_callback(self._committing.discard)
        except apsw.Error as error:
            self._abandon(error)
            raise translate(error) from error
        finally:
            self._turn.release()
        # A caller that is cancelled here must not cancel the others' answer.
        await asyncio.shield(durable)

    def rollback(self) -> None:
        """Undo this unit only; the group it shares a transaction with goes on."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO unit")
                self._connection.execute("RELEASE unit")
                if not self._group:
                    self._connection.execute("ROLLBACK")
            else:
                # A full disk or an I/O error made SQLite roll back everything, the waiting group too.
                self._abandon(apsw.IOError("the transaction was rolled back by SQLite"))
        except apsw.Error as error:
            self._abandon(error)
        finally:
            self._turn.release()

    async def close(self) -> None:
        """Let the group finish and close the connection."""
        await asyncio.gather(*self._committing, return_exceptions=True)
        async with self._turn:
            self._closed = True
            self._thread.shutdown(wait=True)
            self._connection.close()

    def _give_up_entry(self) -> None:
        # A unit that never began must not leave its transaction, and with it the file's write lock, behind.
        try:
            if self._connection.in_transaction and not self._group:
                self._connection.execute("ROLLBACK")
        finally:
            self._turn.release()

    async def _begin(self, deadline: float) -> None:
        """Try until another process gives its lock back.

        The deadline counts from the unit's arrival, so that those who queued are not told later than the first.
        """
        pause = 0.001
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except apsw.BusyError:
                if monotonic() >= deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)

    async def _commit_group(self) -> None:
        async with self._turn:
            group, self._group = self._group, []
            if not group:
                return
            begun = monotonic()
            is_done = False
            try:
                await self._in_thread(lambda: self._connection.execute("COMMIT"))
                is_done = True
            except apsw.Error as error:
                self._group = group
                self._abandon(error)
                return
            finally:
                self._slow.note("COMMIT", monotonic() - begun, 0 if is_done else None)
            for durable in group:
                if not durable.done():
                    durable.set_result(None)

    def _abandon(self, error: apsw.Error) -> None:
        """Nothing of the open transaction became durable: everyone who waits for it is told so."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        group, self._group = self._group, []
        reason = translate(error)
        if not isinstance(reason, DulyError):
            log.error("SQLite refused a commit: %s", error)
            reason = database_down()
        for durable in group:
            if not durable.done():
                durable.set_exception(reason)
                durable.exception()  # a caller that went away must not leave a warning behind

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        # The turn is held meanwhile: a cancelled caller must not free it under the thread's feet.
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise


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
