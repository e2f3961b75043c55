"""The one connection that writes to a SQLite file, and one durable commit for all units that wait."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import apsw

from duly.db.answers import tell
from duly.db.conflicts import database_down, writes_refused
from duly.db.slow import SlowStatements
from duly.db.sqlite_checkpoints import Checkpoints
from duly.db.sqlite_connections import BUSY_MILLISECONDS, open_connection
from duly.db.sqlite_faults import translate
from duly.db.statements import sql_log
from duly.db.unit import Connections
from duly.errors import DulyError

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class _CommitRefused(Exception):
    """The statement ran, and could not be made durable."""

    def __init__(self, error: apsw.Error) -> None:
        super().__init__(str(error))
        self.error = error


class Writer:
    """The one writing connection. Units take turns on it, each in a savepoint; those that wait share one commit.

    A commit runs in a thread, because its fsync would stall the loop. Whoever starts a group asks for
    the turn right away to commit it, so all units that were waiting before that are in the group: alone, a unit
    commits at once.

    A statement that is a transaction of its own runs in that thread too, commit and all (`run_durably`): SQLite works
    without the interpreter's lock, so the loop goes on beside it.
    """

    def __init__(self, path: Path, slow: SlowStatements) -> None:
        self._connection = open_connection(path)
        self._slow = slow
        self._waiting = 0
        # Another process's lock is waited for in `_begin`, where the loop goes on meanwhile.
        self._connection.set_busy_timeout(0)
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-commit")
        self.checkpoints = Checkpoints(path, self._connection)
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

    @contextlib.asynccontextmanager
    async def turn(self, since: float) -> AsyncIterator[None]:
        """Holds the turn, for somebody who came at `since`, with a transaction begun; for `run_durably`."""
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            if self._closed:
                raise database_down()
            if not self._connection.in_transaction:
                await self._begin(since + BUSY_MILLISECONDS / 1000)
            yield
        except apsw.Error as error:
            raise translate(error) from error
        finally:
            self._give_up_entry()

    async def run_durably(self, sql: str, arguments: list[Any], since: float) -> list[Any]:
        """Within the turn: one statement and its commit, together with the group that waits."""
        if sql_log.isEnabledFor(logging.DEBUG):
            sql_log.debug(sql)
        begun = monotonic()
        rows: list[Any] | None = None
        try:
            rows = await self._in_thread(partial(self._run_and_commit, sql, arguments, is_shared=bool(self._group)))
            self._tell_group()
        except _CommitRefused as refused:
            raise self._abandon(refused.error) from refused.error
        except apsw.Error as error:
            if self._group and not self._connection.in_transaction:
                self._abandon(error)
            raise translate(error) from error
        finally:
            self._slow.note(sql, monotonic() - begun, None if rows is None else len(rows), waited=begun - since)
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
            self.checkpoints.close()
            self._connection.close()

    def _run_and_commit(self, sql: str, arguments: list[Any], *, is_shared: bool) -> list[Any]:
        """In the thread. What fails leaves the transaction to the group that shares it, if SQLite left it."""
        connection = self._connection
        try:
            if not connection.in_transaction:  # of a batch that is run row by row, this is not the first
                connection.execute("BEGIN IMMEDIATE")
            if is_shared:
                connection.execute("SAVEPOINT unit")
            rows = connection.execute(sql, arguments).fetchall()
        except apsw.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK TO unit; RELEASE unit" if is_shared else "ROLLBACK")
            raise
        try:
            self._commit_now()
        except apsw.Error as error:
            raise _CommitRefused(error) from error
        return rows

    def _commit_now(self) -> None:
        """In the thread."""
        self._connection.execute("COMMIT")
        self.checkpoints.after_commit(self._connection)

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
            if not self._group:
                return
            begun = monotonic()
            is_done = False
            try:
                await self._in_thread(self._commit_now)
                is_done = True
            except apsw.Error as error:
                self._abandon(error)
                return
            finally:
                self._slow.note("COMMIT", monotonic() - begun, 0 if is_done else None)
            self._tell_group()

    def _tell_group(self) -> None:
        """All who wait are durable."""
        group, self._group = self._group, []
        tell([(durable, None) for durable in group])

    def _abandon(self, error: apsw.Error) -> DulyError:
        """Nothing of the open transaction became durable: everyone who waits for it is told so, as the answer says."""
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
        return reason

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        # The turn is held meanwhile: a cancelled caller must not free it under the thread's feet.
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
