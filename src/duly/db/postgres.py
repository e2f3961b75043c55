"""PostgreSQL through asyncpg: one round trip for a read, one pool per worker, answers in bounded time."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import Dialect

from duly.db.batches import Batches
from duly.db.postgres_faults import FAULTS, GONE, discard, run_again, translate
from duly.db.postgres_pool import LEAST_SECONDS, STATEMENT_SECONDS, Pool
from duly.db.slow import SlowStatements
from duly.db.statements import Row, Statement, sql_log
from duly.db.types import dump_json
from duly.db.unit import Connections, Listener, Unit
from duly.db.url import DatabaseAddress

# With two batches on their way the server works on one while this process reads the answer of the other.
MOST_BATCHES = 2


def make_dialect() -> Dialect:
    """The SQLAlchemy dialect that statements are compiled for."""
    return PGDialect_asyncpg(json_serializer=dump_json)  # type: ignore[no-untyped-call]


class PostgresDatabase:
    """A pool to one server.

    Without prepared statements each read runs in a transaction of its own, as an old PgBouncer in transaction mode
    needs it.
    """

    def __init__(self, address: DatabaseAddress, *, pool_size: int, overflow: int, prepared: bool,
                 slow_seconds: float = 0.0) -> None:  # fmt: skip
        self.dialect = make_dialect()
        self.slow = SlowStatements(slow_seconds)
        self.listeners: list[Listener] = []
        self._address = address
        self._prepared = prepared
        self._batches: dict[Statement, Batches] = {}
        self.pool = Pool(address, size=pool_size, overflow=overflow, prepared=prepared)

    async def open(self) -> None:
        """Connect once, so that a wrong address is found at the start. Raises what `translate` gives."""
        try:
            await self.pool.open()
        except FAULTS as error:
            raise translate(error) from error
        await self.ping()

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        """All rows, in a transaction of its own. A read on a connection that had died is tried once more."""
        return await self._fetch(statement, values)

    async def _fetch(
        self, statement: Statement, values: Mapping[str, Any], since: float | None = None
    ) -> Sequence[Row]:
        plan = statement.plan(self.dialect)
        arguments = plan.arguments(values)
        try:
            return plan.rows(await self._run(plan.sql, arguments, since))
        except GONE as error:
            if statement.writes:
                raise translate(error) from error
        except FAULTS as error:
            raise translate(error) from error
        return plan.rows(await run_again(lambda: self._run(plan.sql, arguments, since)))

    async def first(self, statement: Statement, **values: Any) -> Row | None:
        """The first row or None; a statement that has a form for many rows is run together with others that wait."""
        if statement.many is not None:
            batches = self._batches.get(statement)
            if batches is None:
                batches = self._batches[statement] = Batches(statement, self._fetch, MOST_BATCHES)
            return await batches.first(values)
        rows = await self._fetch(statement, values)
        return rows[0] if rows else None

    async def _run(self, sql: str, arguments: list[Any], since: float | None = None) -> Sequence[Row]:
        """`since` is when the first of those who wait for it came, where that is not now."""
        if sql_log.isEnabledFor(logging.DEBUG):
            sql_log.debug(sql)
        begun = monotonic()
        deadline = begun + STATEMENT_SECONDS
        if since is not None:
            deadline = max(since + STATEMENT_SECONDS, begun + LEAST_SECONDS)
        sent: float | None = None
        rows: Sequence[Row] | None = None
        try:
            async with self.pool.take(deadline - begun) as connection:
                sent = monotonic()
                if self._prepared:
                    rows = await connection.fetch(sql, *arguments, timeout=deadline - sent)
                else:
                    async with connection.transaction():
                        rows = await connection.fetch(sql, *arguments, timeout=deadline - monotonic())
        finally:
            self.note(sql, rows, begun, sent, monotonic())
        assert rows is not None  # noqa: S101 - fetched, or it raised
        return rows

    def note(self, sql: str, rows: Sequence[Row] | None, begun: float, sent: float | None, done: float) -> None:
        """What took long since `begun`; `sent` is when there was a connection."""
        if done - begun >= self.slow.limit:
            sent = done if sent is None else sent  # no connection came
            self.slow.note(sql, done - sent, None if rows is None else len(rows), waited=sent - begun)

    def unit(self) -> Unit:
        """A transaction over any number of statements."""
        return PostgresUnit(self)

    def single(self) -> Unit:
        """One writing statement, which the server commits as it runs it: one round trip instead of three."""
        return PostgresSingle(self) if self._prepared else PostgresUnit(self)

    def connections(self) -> Connections:
        """The pool as it stands."""
        return self.pool.connections()

    async def ping(self) -> None:
        """One round trip. Raises `Unavailable`."""
        await run_again(lambda: self._run("SELECT 1", []))

    async def report(self) -> dict[str, Any]:
        """Versions, durability and pool. Raises `Unavailable`."""
        names = ("server_version", "synchronous_commit", "fsync")
        try:
            rows = await self._run("SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])", [list(names)])
        except FAULTS as error:
            raise translate(error) from error
        values = {row[0]: row[1] for row in rows}
        return {
            "dialect": "postgresql",
            "server": values.get("server_version"),
            "path": self._address.safe_text,
            "synchronous": values.get("synchronous_commit"),
            "fsync": values.get("fsync"),
            "prepared_statements": self._prepared,
            "pool": self.pool.report(),
        }

    async def close(self) -> None:
        """Give every connection back; one that hangs is cut after two seconds."""
        await self.pool.close()


class PostgresUnit(Unit):
    """A transaction on one connection, taken from the pool by the first write."""

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(database.listeners)
        self._database = database
        self._stack = contextlib.AsyncExitStack()
        self._connection: Any = None
        self._is_late = False

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        """All rows; a writing statement begins the transaction."""
        if self._connection is None:
            if not statement.writes:
                return await self._database.fetch(statement, **values)
            await self.begin()
        plan = statement.plan(self._database.dialect)
        if sql_log.isEnabledFor(logging.DEBUG):
            sql_log.debug(plan.sql)
        begun = monotonic()
        rows: Sequence[Row] | None = None
        try:
            rows = await self._connection.fetch(plan.sql, *plan.arguments(values))
        except FAULTS as error:
            self._is_late = isinstance(error, TimeoutError)
            raise translate(error) from error
        finally:
            self._database.slow.note(plan.sql, monotonic() - begun, None if rows is None else len(rows))
        return plan.rows(rows)

    async def begin(self) -> None:
        """Begin on a live connection: one that died while it was idle is replaced."""
        if self._connection is None:
            await run_again(self._enter)

    async def _enter(self) -> None:
        begun = monotonic()
        sent: float | None = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                connection = await stack.enter_async_context(self._database.pool.take())
                sent = monotonic()
                await connection.execute("BEGIN", timeout=begun + STATEMENT_SECONDS - sent)
                self._stack = stack.pop_all()
                self._connection = connection
        finally:
            self._database.note("BEGIN", () if self._connection else None, begun, sent, monotonic())

    async def _commit(self) -> None:
        await self._end("COMMIT")

    async def _rollback(self) -> None:
        if self._is_late:
            # The server did not answer in time; the caller does not wait for it once more.
            self._database.pool.later(self._give_up())
        else:
            await self._give_up()

    async def _give_up(self) -> None:
        with contextlib.suppress(Exception):
            await self._end("ROLLBACK")

    async def _end(self, verb: str) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        begun = monotonic()
        async with self._stack:
            done = None
            try:
                done = await connection.execute(verb)
            except BaseException as error:
                # The transaction's state is unknown: the connection must not be used again.
                discard(connection)
                if isinstance(error, FAULTS):
                    raise translate(error) from error
                raise
            finally:
                self._database.slow.note(verb, monotonic() - begun, None if done is None else 0)
        if done != verb:
            # After a failed statement the server answers COMMIT with ROLLBACK, and no error says so.
            raise RuntimeError("a statement of this unit failed and the unit went on: nothing was committed")


class PostgresSingle(Unit):
    """One writing statement, its own transaction. A second one is a fault of the program."""

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(database.listeners)
        self._database = database
        self._wrote = False

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        """All rows; the one writing statement is durable when this returns."""
        self._count(statement)
        return await self._database.fetch(statement, **values)

    async def first(self, statement: Statement, **values: Any) -> Row | None:
        """Like `fetch`, for at most one row; several units' statements may become durable together."""
        self._count(statement)
        return await self._database.first(statement, **values)

    def _count(self, statement: Statement) -> None:
        if statement.writes:
            if self._wrote:
                raise RuntimeError("a single unit takes one writing statement; use database.unit()")
            self._wrote = True

    async def begin(self) -> None:
        """There is nothing to begin."""

    async def _commit(self) -> None:
        """The statement committed itself."""

    async def _rollback(self) -> None:
        """A statement that failed left nothing."""
