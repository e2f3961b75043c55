"""The ways on which signals travel: PostgreSQL's NOTIFY, or Redis."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import asyncpg
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from duly.db.url import DatabaseAddress

CHANNEL = "duly_changes"
SECONDS = 4.0
CLOSE_SECONDS = 1.0
# TimeoutError is an OSError.
FAULTS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, RedisError)


class Link(Protocol):
    """A broadcast to every process, this one too. What goes wrong is raised as one of `FAULTS`."""

    async def open(self, heard: Callable[[str], None], lost: Callable[[], None]) -> None:
        """Call `heard` with each text from now on, and `lost` when there will be no more."""
        ...

    async def send(self, text: str) -> None:
        """At most 7,900 bytes."""
        ...

    async def close(self) -> None:
        """Also after `open` failed."""
        ...


class PostgresLink:
    """A connection beside the pool, for LISTEN lasts as long as its session."""

    def __init__(self, address: DatabaseAddress) -> None:
        self._address = address
        self._connection: Any = None

    async def open(self, heard: Callable[[str], None], lost: Callable[[], None]) -> None:
        """See `Link`."""
        self._connection = await asyncpg.connect(
            **self._address.asyncpg_arguments(), timeout=SECONDS, command_timeout=SECONDS, statement_cache_size=0
        )
        self._connection.add_termination_listener(lambda _: lost())
        await self._connection.add_listener(CHANNEL, lambda *told: heard(str(told[3])))

    async def send(self, text: str) -> None:
        """See `Link`."""
        await self._connection.execute("SELECT pg_notify($1, $2)", CHANNEL, text)

    async def close(self) -> None:
        """See `Link`."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=CLOSE_SECONDS)
            except FAULTS:
                connection.terminate()


class RedisLink:
    """A channel of Redis; it is the same for every database of that Redis, and a stranger's names wake nobody."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Redis | None = None
        self._channel: PubSub | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self, heard: Callable[[str], None], lost: Callable[[], None]) -> None:
        """See `Link`."""
        # Not tried again inside: a subscription that was made anew in silence may have missed something.
        self._client = Redis.from_url(
            self._url, socket_connect_timeout=SECONDS, socket_timeout=SECONDS, retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )  # fmt: skip
        self._channel = self._client.pubsub(ignore_subscribe_messages=True)
        await self._channel.subscribe(CHANNEL)
        self._reading = asyncio.create_task(_read(self._channel, heard, lost), name="hear-signals")

    async def send(self, text: str) -> None:
        """See `Link`."""
        if self._client is None:
            raise ConnectionError("the link is not open")
        await self._client.publish(CHANNEL, text)

    async def close(self) -> None:
        """See `Link`."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        if self._channel is not None:
            with contextlib.suppress(*FAULTS):
                await self._channel.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it out
        if self._client is not None:
            await self._client.aclose()
        self._reading = self._channel = self._client = None


async def _read(channel: PubSub, heard: Callable[[str], None], lost: Callable[[], None]) -> None:
    try:
        while True:
            message = await channel.get_message(ignore_subscribe_messages=True, timeout=60.0)
            if message is not None:
                heard(str(message["data"]))
    except FAULTS:
        lost()
