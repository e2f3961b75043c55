"""Who waits for a connection to PostgreSQL gets one in the order in which the callers came, and soon or not at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import monotonic
from urllib.parse import urlsplit

import pytest

from duly.db.postgres_faults import FAULTS
from duly.db.postgres_pool import Pool
from tests.proxies import Proxy
from tests.schemas import address_of

CALLERS = 40
TIMES = 25


@pytest.fixture
def dialect() -> str:
    return "postgresql"


@contextlib.asynccontextmanager
async def pool_of(database_url: str, size: int) -> AsyncIterator[Pool]:
    address = address_of(database_url)
    pool = Pool(address, size=size, overflow=0, prepared=True)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def test_nobody_waits_longer_than_those_who_came_later(database_url: str) -> None:
    served: list[int] = []
    most_apart = 0

    async def ask(pool: Pool, caller: int) -> None:
        nonlocal most_apart
        for _ in range(TIMES):
            async with pool.take() as connection:
                await connection.fetch("SELECT 1")
            served[caller] += 1
            if min(served) < TIMES // 2:  # towards the end those who are done ask no more
                most_apart = max(most_apart, max(served) - min(served))

    async with pool_of(database_url, 2) as pool:
        served += [0] * CALLERS
        await asyncio.gather(*(ask(pool, caller) for caller in range(CALLERS)))
        assert pool.connections().waiting == 0
    # asyncpg's own queue let some ask a dozen times before others were served once.
    assert most_apart <= 2


async def test_who_gets_none_in_time_hears_so_and_takes_nobodys_turn(database_url: str) -> None:
    async with pool_of(database_url, 1) as pool:
        async with pool.take():
            begun = monotonic()
            waiting = [asyncio.create_task(pool.take(0.3).__aenter__()) for _ in range(3)]
            await asyncio.sleep(0.1)
            assert pool.connections().waiting == 3
            found = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(error) for error in found] == [TimeoutError] * 3
            assert 0.3 <= monotonic() - begun < 1.5
            given_up = asyncio.create_task(pool.take().__aenter__())
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
        for _ in range(3):
            async with pool.take(1) as connection:
                assert await connection.fetchval("SELECT 1") == 1
        assert (pool.connections().in_use, pool.connections().waiting) == (0, 0)


async def test_a_connection_that_cannot_be_made_leaves_the_turn_to_others(database_url: str) -> None:
    address = urlsplit(database_url)
    async with (
        Proxy(address.hostname or "", address.port or 5432).serve() as proxy,
        pool_of(address._replace(netloc=f"{address.username}@127.0.0.1:{proxy.port}").geturl(), 1) as pool,
    ):
        proxy.hang()
        proxy.cut()
        for _ in range(3):
            with pytest.raises(FAULTS):
                async with pool.take(0.3) as connection:
                    await connection.fetchval("SELECT 1")
        proxy.resume()
        async with pool.take(1) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        assert pool.connections().in_use == 0
