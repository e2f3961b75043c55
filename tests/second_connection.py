"""What another program sees and does: plain SQL beside the application, on either dialect."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import apsw
import asyncpg


class SecondConnection:
    """One connection of its own. Statements are spelt so that both dialects read them."""

    def __init__(self, link: Any) -> None:
        self._link = link

    async def run(self, sql: str) -> Sequence[Sequence[Any]]:
        """Run one statement and give its rows; `BEGIN`, `COMMIT` and `ROLLBACK` are statements too."""
        if isinstance(self._link, apsw.Connection):
            # In a thread: what holds the lock may be a commit that has to be finished in this loop.
            return await asyncio.to_thread(lambda: self._link.execute(sql).fetchall())
        return [tuple(row) for row in await self._link.fetch(sql)]

    async def value(self, sql: str) -> Any:
        """The first column of the first row."""
        return (await self.run(sql))[0][0]


@contextlib.asynccontextmanager
async def second_connection(database_url: str) -> AsyncIterator[SecondConnection]:
    """Connect as another program would.

    SQLite is opened with the library that the application uses: two of them in one process would break its locks.
    """
    if database_url.startswith("sqlite"):
        link = apsw.Connection(database_url.removeprefix("sqlite:///"))
        link.set_busy_timeout(4000)
        link.execute("PRAGMA foreign_keys=ON")
        try:
            yield SecondConnection(link)
        finally:
            link.close()
        return
    server = await asyncpg.connect(database_url, timeout=5)
    try:
        yield SecondConnection(server)
    finally:
        await server.close()
