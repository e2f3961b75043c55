"""The connections of one process to PostgreSQL: as many as the settings say, in the order in which callers came."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from time import monotonic
from typing import Any

import asyncpg

from duly.db.postgres_faults import FAULTS, GONE, discard
from duly.db.unit import Connections
from duly.db.url import DatabaseAddress

# A locked table or a hung server must become a 503 within 5 s, so each step gets less.
STATEMENT_SECONDS = 4.0
ACQUIRE_SECONDS = 4.0
CONNECT_SECONDS = 4.0
# What one has that waited for others before it, however long: by then these were told that the server does not answer.
LEAST_SECONDS = 0.8
STOP_SECONDS = 2.0
# What is left at least for the connection itself, once it is the turn of somebody who waited long.
SOON_SECONDS = 0.1


async def _keep_state(_: Any) -> None:
    """Duly sets nothing on a connection, so there is nothing to reset when it goes back to the pool."""


class Pool:
    """asyncpg's pool, with turns.

    asyncpg gives a free connection to whoever asks next, and sends those who waited for one to the end of its queue:
    with 256 clients some waited sixty times as long as others. Here nobody asks before there is one for them.
    """

    def __init__(self, address: DatabaseAddress, *, size: int, overflow: int, prepared: bool) -> None:
        self._sizes = (size, overflow)
        self._address = address
        self._waiting = 0
        self._turns = asyncio.Semaphore(size + overflow)
        self._cleaning: set[asyncio.Task[None]] = set()
        self._pool: asyncpg.Pool[asyncpg.Record] = asyncpg.create_pool(
            **address.asyncpg_arguments(),
            min_size=0,
            max_size=size + overflow,
            max_inactive_connection_lifetime=300,
            command_timeout=STATEMENT_SECONDS,
            timeout=CONNECT_SECONDS,
            statement_cache_size=200 if prepared else 0,
            reset=_keep_state,
            connect=self._connect if address.sslcert else None,
        )

    async def _connect(self, *places: Any, **arguments: Any) -> Any:
        """A certificate of Duly's own lives shortly: each new connection shows the one that is there by then."""
        try:
            arguments["ssl"] = self._address.ssl_argument()
        except ValueError as error:
            raise ConnectionError(str(error)) from error
        return await asyncpg.connect(*places, **arguments)

    async def open(self) -> None:
        """Connect once, so that a wrong address is found at the start. Raises what the driver does."""
        await self._pool

    @contextlib.asynccontextmanager
    async def take(self, seconds: float = ACQUIRE_SECONDS) -> AsyncIterator[Any]:
        """A pooled connection. One that broke is closed; one that did not answer in time is told to stop first."""
        begun = monotonic()
        await self._take_turn(seconds)
        try:
            connection = await self._pool.acquire(timeout=max(begun + seconds - monotonic(), SOON_SECONDS))
        except BaseException:
            self._turns.release()
            raise
        try:
            yield connection
        except (TimeoutError, asyncio.CancelledError):
            # Closed at once, the server would go on with it, or wait for a lock, and there would be more of these
            # than it takes connections. The caller is answered meanwhile.
            self.later(self._give_back(connection, STOP_SECONDS))
            raise
        except GONE:
            discard(connection)
            await self._give_back(connection)
            raise
        except BaseException:
            await self._give_back(connection)
            raise
        await self._give_back(connection)

    async def _take_turn(self, seconds: float) -> None:
        """Wait until there is a connection for this caller. Raises TimeoutError."""
        self._waiting += 1
        try:
            if self._turns.locked():
                async with asyncio.timeout(seconds):
                    await self._turns.acquire()
            else:
                await self._turns.acquire()
        finally:
            self._waiting -= 1

    async def _give_back(self, connection: Any, seconds: float | None = None) -> None:
        try:
            await self._pool.release(connection, timeout=seconds)
        finally:
            self._turns.release()

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Clean up behind the caller's back; what goes wrong closes the connection, which is all it is for."""

        async def run() -> None:
            with contextlib.suppress(*FAULTS):
                await work

        task = asyncio.create_task(run())
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    def connections(self) -> Connections:
        """The pool as it stands."""
        size, idle = self._pool.get_size(), self._pool.get_idle_size()
        return Connections(in_use=size - idle, idle=idle, limit=sum(self._sizes), waiting=self._waiting)

    def report(self) -> dict[str, int]:
        """The same, as `duly doctor` and the health report show it."""
        size, overflow = self._sizes
        return {"size": size, "overflow": overflow, "open": self._pool.get_size(), "idle": self._pool.get_idle_size()}

    async def close(self) -> None:
        """Give every connection back; one that hangs is cut after two seconds."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()
