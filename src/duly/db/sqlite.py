"""SQLite through apsw: reads on the event loop, one writer, and one durable commit for all units that wait."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local
from typing import Any, TypeVar

import apsw
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Dialect

from duly.db.conflicts import ForeignKeyViolation, UniqueViolation, database_down
from duly.db.sqlite_names import constraint_name
from duly.db.statements import Row, Statement, sql_log
from duly.db.unit import Unit
from duly.errors import DulyError, StorageFull

log = logging.getLogger(__name__)

BUSY_MILLISECONDS = 4000
SLOW_READERS = 2
PRAGMAS = (
    "synchronous=FULL",
    "foreign_keys=ON",
    "cache_size=-65536",
    "temp_store=MEMORY",
    # 32 MB between checkpoints: a page that many commits touch is copied back once. SQLite's default of 4 MB cost a
    # third of the writes per second.
    "wal_autocheckpoint=8000",
)
Result = TypeVar("Result")


def make_dialect() -> Dialect:
    """The SQLAlchemy dialect that statements are compiled for."""
    return SQLiteDialect_pysqlite(paramstyle="qmark")


def open_connection(path: Path) -> apsw.Connection:
    """A connection as every part of Duly must have it: WAL, durable commits, foreign keys, bounded waiting.

    `synchronous=FULL` because NORMAL loses acknowledged commits when the power goes.
    """
    connection = apsw.Connection(str(path), statementcachesize=256)
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    _switch_to_wal(connection)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def _switch_to_wal(connection: apsw.Connection) -> None:
    # SQLite's own waiting leaves this out, so of two processes that open a new file at once one would be refused.
    deadline = time.monotonic() + BUSY_MILLISECONDS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            return
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def translate(error: apsw.Error) -> Exception:
    """The error tree's word for what SQLite raised."""
    if isinstance(error, apsw.ConstraintError):
        text = str(error)
        if text.startswith("UNIQUE constraint failed: "):
            return UniqueViolation(constraint_name(text.removeprefix("UNIQUE constraint failed: ")))
        if text.startswith("FOREIGN KEY"):
            return ForeignKeyViolation()
        return error
    if isinstance(error, apsw.FullError):
        return StorageFull("The server's disk is full. Nothing was changed; tell the operator.")
    if isinstance(error, (apsw.BusyError, apsw.LockedError, apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError)):
        log.error("SQLite does not serve: %s", error)
        return database_down(retry_after=1)
    return error


class SqliteDatabase:
    """One file, opened once per process.

    Reads are microseconds and run where they are; statements marked slow run in threads with connections of their own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dialect = make_dialect()
        self._reader = open_connection(path)
        self._reader.execute("PRAGMA query_only=ON")
        self._threads = ThreadPoolExecutor(SLOW_READERS, thread_name_prefix="sqlite-read")
        self._of_thread = local()
        self.writer = Writer(path)

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        """All rows, from the last committed state."""
        plan = statement.plan(self.dialect)
        arguments = plan.arguments(values)
        if sql_log.isEnabledFor(logging.DEBUG):
            sql_log.debug(plan.sql)
        try:
            if statement.slow:
                loop = asyncio.get_running_loop()
                return plan.rows(await loop.run_in_executor(self._threads, self._fetch_in_thread, plan.sql, arguments))
            return plan.rows(self._reader.execute(plan.sql, arguments).fetchall())
        except apsw.Error as error:
            raise translate(error) from error

    async def first(self, statement: Statement, **values: Any) -> Row | None:
        """The first row or None."""
        rows = await self.fetch(statement, **values)
        return rows[0] if rows else None

    def unit(self) -> Unit:
        """A transaction over any number of statements."""
        return SqliteUnit(self)

    single = unit

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

    def __init__(self, path: Path) -> None:
        self._connection = open_connection(path)
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

    async def enter(self) -> None:
        """Wait for the turn and open a savepoint, within the group's transaction or a new one."""
        arrived = asyncio.get_running_loop().time()
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
            raise database_down(retry_after=1)
        try:
            return self._connection.execute(sql, arguments).fetchall()
        except apsw.Error as error:
            raise translate(error) from error

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
                if asyncio.get_running_loop().time() >= deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)

    async def _commit_group(self) -> None:
        async with self._turn:
            group, self._group = self._group, []
            if not group:
                return
            try:
                await self._in_thread(lambda: self._connection.execute("COMMIT"))
            except apsw.Error as error:
                self._group = group
                self._abandon(error)
                return
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
        super().__init__()
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
