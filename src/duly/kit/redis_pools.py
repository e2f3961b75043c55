"""Connections to Redis, the same for everything that asks it."""

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

MOST_CONNECTIONS = 10
# What sets up a connection may take this long; no request waits for it.
CONNECT_SECONDS = 1.0


def open_pool(url: str) -> BlockingConnectionPool:
    """A pool that takes every address redis-py takes, and can be closed; it connects when it is first asked.

    One retry, at once: the first attempt may have met a connection that a restarted Redis no longer knows. Raises
    ValueError for an address that Redis cannot have.
    """
    return BlockingConnectionPool.from_url(
        url, max_connections=MOST_CONNECTIONS, timeout=CONNECT_SECONDS, socket_timeout=CONNECT_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 1),
    )  # fmt: skip
