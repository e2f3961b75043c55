"""The transaction: begun by the first write, committed by the edge before the reply, rolled back on any error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

from sqlalchemy.engine import Dialect

from duly.db.slow import SlowStatements
from duly.db.statements import Row, Statement
from duly.errors import DulyError

Listener = Callable[[str], None]


class Reader(Protocol):
    """Anything that statements can be read through: the database itself, or a unit."""

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        """All rows. Raises `Unavailable` when the database does not answer."""
        ...

    async def first(self, statement: Statement, **values: Any) -> Row | None:
        """The first row or None."""
        ...


class Unit(Reader):
    """One transaction. Reads before the first write see each their own moment; from then on all is one transaction.

    `async with database.unit() as unit:` commits when the block ends, before anything is answered. An error rolls
    back, unless it says `keeps_writes`: then what was written is committed and the error goes on.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._after_commit: list[Callable[[], None]] = []
        self._listeners = listeners
        self._announced: set[str] = set()

    async def fetch(self, statement: Statement, **values: Any) -> Sequence[Row]:
        """All rows; a writing statement begins the transaction.

        Raises `UniqueViolation` or `ForeignKeyViolation` when a constraint refuses, `Unavailable` when the database
        does not answer, `TransactionAborted` when it chose this transaction as a victim.
        """
        raise NotImplementedError

    async def first(self, statement: Statement, **values: Any) -> Row | None:
        """Like `fetch`, for at most one row."""
        rows = await self.fetch(statement, **values)
        return rows[0] if rows else None

    async def begin(self) -> None:
        """Begin now, so that reads belong to the transaction too."""
        raise NotImplementedError

    async def release(self) -> None:
        """Commit what there is and hold nothing, before something slow; the next write begins a new transaction."""
        await self._commit()
        self._run_after_commit()

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` once the transaction is durable; it must neither block nor raise."""
        self._after_commit.append(action)

    def announce(self, topic: str) -> None:
        """Tell the database's listeners, once the transaction is durable, that there is something new under `topic`.

        However often it is said within one transaction, they are told once.
        """
        if topic in self._announced:
            return
        self._announced.add(topic)
        for listener in self._listeners:
            self._after_commit.append(partial(listener, topic))

    async def _commit(self) -> None:
        raise NotImplementedError

    async def _rollback(self) -> None:
        raise NotImplementedError

    def _run_after_commit(self) -> None:
        actions, self._after_commit = self._after_commit, []
        self._announced.clear()
        for action in actions:
            action()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, DulyError) and error.keeps_writes):
            await self._commit()
            self._run_after_commit()
        else:
            await self._rollback()


@dataclass(frozen=True, slots=True)
class Connections:
    """PostgreSQL's pool; on SQLite the one writing connection, for which units wait."""

    in_use: int
    idle: int
    limit: int
    waiting: int


class Database(Reader, Protocol):
    """One process's access to the database. Reads outside a unit are each a transaction of their own."""

    dialect: Dialect
    slow: SlowStatements
    listeners: list[Listener]
    """Called with each topic that a unit announced, after its commit; they must neither block nor raise."""

    def unit(self) -> Unit:
        """A transaction over any number of statements."""
        ...

    def single(self) -> Unit:
        """A unit of exactly one writing statement, which the database may run together with others that wait."""
        ...

    def connections(self) -> Connections:
        """How many there are, and how many callers wait for one, right now."""
        ...

    async def ping(self) -> None:
        """One round trip. Raises `Unavailable`."""
        ...

    async def report(self) -> dict[str, Any]:
        """Facts for an operator: versions, durability, pool. Never a password."""
        ...

    async def close(self) -> None:
        """Finish what runs and give everything back."""
        ...
