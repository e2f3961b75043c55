"""The cache that processes share in Redis: what it saves, whom it believes, and what is left without it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from duly.cache.cache import Cache
from duly.cache.redis import LARGEST_VALUE, PREFIX, REDIS_SECONDS, RedisCache
from duly.kit.secrets import new_token
from duly.tasks.stats import SHARED_FROM
from tests.fixtures.application import Person, StartApp
from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import free_port
from tests.fixtures.stored import Stored
from tests.fixtures.wire import wire_to
from tests.test_cache import Source
from tests.test_rate_limits_redis import SERVER, redis_user, silent_server

URL = f"{os.environ.get('TEST_REDIS_URL', 'redis://127.0.0.1:6379')}/13"
PATIENCE = 20.0
# redis-py's types know texts alone, and this is about bytes.
Client: TypeAlias = Any
once = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


@pytest.fixture
async def redis() -> AsyncIterator[Client]:
    """A client of the server; every test has names of its own there, because they are keyed."""
    await require_redis()
    client = Redis.from_url(URL)
    yield client
    await client.aclose()


async def require_redis() -> None:
    """Skip the test where there is none."""
    client = Redis.from_url(URL)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        skip_or_fail(f"Redis is needed at TEST_REDIS_URL ({error}): apt-get install redis-server, and start it")
    finally:
        await client.aclose()


class Replicas:
    """Processes of one installation: each has a cache, and all have one key."""

    def __init__(self, url: str = URL, seconds: float = REDIS_SECONDS) -> None:
        self._url = url
        self._seconds = seconds
        self._key = new_token().encode()[:32]
        self.opened: list[RedisCache] = []

    def start(self) -> Cache:
        self.opened.append(RedisCache(self._url, self._key, seconds=self._seconds))
        return Cache(self.opened[-1])

    async def connect(self) -> Cache:
        """One whose connections stand, so that it does not give up what takes long only the first time."""
        cache = self.start()
        assert await self.opened[-1].is_up()
        return cache

    async def settle(self) -> None:
        for one in self.opened:
            await one.settle()


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    found = Replicas(seconds=PATIENCE)  # what Redis holds is looked at here, not how soon it says so
    yield found
    for one in found.opened:
        await one.close()


async def ask(cache: Cache, value: Any, *, user: str = "ann", position: int = 1, until: float | None = None) -> Any:
    """What the cache says when this is what would be counted."""
    return await cache.remember(user, position, "stats", Source().giving(value, until), shared=True)


async def names(redis: Client, replicas: Replicas, *users: str) -> list[bytes]:
    """The names under which these replicas keep the users' values, found by what appears."""
    found = []
    for user in users:
        before = set(await redis.keys(f"{PREFIX}*"))
        await ask(await replicas.connect(), f"{user}s", user=user)
        await replicas.settle()
        appeared = set(await redis.keys(f"{PREFIX}*")) - before
        [name] = [name for name in appeared if f'"{user}s"'.encode() in (await redis.get(name) or b"")]
        found.append(name)
    return found


@pytest.mark.covers("A072", "A073")
async def test_what_one_process_counted_the_others_take_from_redis(redis: Client, replicas: Replicas) -> None:
    first, second = await replicas.connect(), await replicas.connect()
    assert await ask(first, {"total": 7}) == {"total": 7}
    await replicas.settle()
    assert await ask(second, "not asked") == {"total": 7}
    assert await ask(second, "not asked") == {"total": 7}
    assert (first.misses["redis"], second.hits["redis"], second.hits["process"]) == (1, 1, 1)
    assert await ask(second, "changed", position=2) == "changed"
    assert await ask(second, "bens", user="ben") == "bens"


async def test_a_value_that_has_run_out_is_not_taken_and_none_stays_for_ever(redis: Client, replicas: Replicas) -> None:
    [name] = await names(redis, replicas, "ann")
    assert 3000 < await redis.ttl(name) <= 3600
    until = time.time() + 2
    await ask(await replicas.connect(), "short", position=2, until=until)
    await replicas.settle()
    assert await ask(await replicas.connect(), "not asked", position=2) == "short"
    await asyncio.sleep(until - time.time() + 0.05)
    assert await ask(await replicas.connect(), "counted anew", position=2) == "counted anew"


async def test_an_older_value_never_displaces_a_newer_one(redis: Client, replicas: Replicas) -> None:
    await ask(await replicas.connect(), "new", position=10)
    await replicas.settle()
    await ask(await replicas.connect(), "old", position=9)
    await replicas.settle()
    assert await ask(await replicas.connect(), "not asked", position=10) == "new"


@pytest.mark.covers("A074")
async def test_an_entry_under_another_users_name_is_not_believed(redis: Client, replicas: Replicas) -> None:
    anns, bens = await names(redis, replicas, "ann", "ben")
    assert await redis.copy(bens, anns, replace=True)
    assert await ask(await replicas.connect(), "counted", user="ann") == "counted"
    await replicas.settle()
    assert await ask(await replicas.connect(), "not asked", user="ann") == "counted"
    assert await ask(await replicas.connect(), "not asked", user="ben") == "bens"


async def test_installations_with_another_key_do_not_meet(redis: Client, replicas: Replicas) -> None:
    await ask(await replicas.connect(), "ours")
    others = Replicas(seconds=PATIENCE)
    await replicas.settle()
    assert await ask(others.start(), "theirs") == "theirs"
    await others.opened[0].close()
    assert not [name for name in await redis.keys(f"{PREFIX}*") if b"ann" in name]


POISON: dict[str, list[Any]] = {
    "text": ["SET", b"garbage"], "no UTF-8": ["SET", b"1:\xff:\xff\xfe"], "empty": ["SET", b""],
    "newest of all": ["SET", b"99999999999999999999:mac:[1,2,3]"], "long": ["SET", b"1" * LARGEST_VALUE * 9],
    "unsealed": ["SET", b'1:AAAA:[1,9999999999,{"total":1}]'], "list": ["RPUSH", b"a"], "hash": ["HSET", b"a", b"b"],
    "set": ["SADD", b"a"], "null": ["SET", b"null"],
}  # fmt: skip


@pytest.mark.parametrize("kind", POISON)
async def test_whatever_lies_there_is_ignored_and_replaced(
    kind: str, redis: Client, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    [name] = await names(redis, replicas, "ann")
    command, *values = POISON[kind]
    await redis.delete(name)
    await redis.execute_command(command, name, *values)
    for number in range(2):
        assert await ask(await replicas.connect(), f"counted {number}") == f"counted {number}"
        await replicas.settle()
        if await ask(await replicas.connect(), "anew") == f"counted {number}":
            break
    else:
        pytest.fail("the garbage keeps its place")
    assert "ResponseError" not in caplog.text, "one bad entry is no reason to leave Redis alone"


async def test_a_sealed_entry_that_was_altered_is_not_believed(redis: Client, replicas: Replicas) -> None:
    [name] = await names(redis, replicas, "ann")
    sealed = await redis.get(name)
    assert sealed is not None
    assert b'"anns"' in sealed
    await redis.set(name, sealed.replace(b'"anns"', b'"bens"'))
    assert await ask(await replicas.connect(), "counted") == "counted"


async def test_what_is_flushed_is_counted_anew(redis: Client, replicas: Replicas) -> None:
    [name] = await names(redis, replicas, "ann")
    await redis.delete(name)
    assert await ask(await replicas.connect(), "counted") == "counted"


@pytest.mark.covers("A072")
async def test_a_redis_that_is_gone_costs_no_answer() -> None:
    replicas = Replicas(f"redis://127.0.0.1:{free_port()}/0")
    cache = replicas.start()
    for position in range(20):
        assert await ask(cache, position, position=position) == position
    assert not await replicas.opened[0].is_up()
    await cache.close()


@pytest.mark.parametrize("closes", [False, True])
async def test_a_redis_that_does_not_answer_is_tried_seldom(closes: bool) -> None:
    async with silent_server(closes=closes) as (url, tried):
        silent = Replicas(url)
        cache = silent.start()
        begun = time.monotonic()
        for position in range(200):
            assert await ask(cache, position, position=position) == position
            await silent.settle()
        took, most, pause = time.monotonic() - begun, 2, 0.25
        while took > 0:
            took, pause, most = took - pause, min(5.0, pause * 2), most + 1
        assert len(tried) <= 4 * most, (len(tried), most)  # reads and writes, and an attempt may knock twice
        await cache.close()


@pytest.mark.parametrize("fault", ["cut", "silence"])
async def test_a_redis_that_goes_away_is_used_again_when_it_is_back(fault: str, redis: Client) -> None:
    async with wire_to(URL) as (wire, url):
        replicas = Replicas(url)
        cache = replicas.start()
        await ask(cache, 1)
        await replicas.settle()
        getattr(wire, fault)()
        for position in range(2, 12):
            assert await ask(cache, position, position=position) == position
        wire.mend()
        position, deadline = 12, time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline
            assert await ask(cache, position, position=position) == position
            await replicas.settle()
            other = replicas.start()
            if await ask(other, "counted", position=position) == position:
                break
            position += 1
            await asyncio.sleep(0.1)
        for one in replicas.opened:
            await one.close()


async def test_a_redis_that_may_only_be_read_serves_what_it_has(
    redis: Client, replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    async with redis_user(redis, "+@read", "+@connection") as (name, password):
        address = urlsplit(SERVER)
        limited = RedisCache(f"redis://{name}:{password}@{address.hostname}:{address.port}/13", b"k" * 32)
        assert not await limited.is_up()
        cache = Cache(limited)
        for position in range(30):
            assert await ask(cache, position, position=position) == position
            await limited.settle()
        assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
            "Redis keeps nothing of what was counted"
        ]
        await cache.close()


async def undisturbed(attempt: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture) -> None:
    """Run this while Redis answers in time; a busy machine can stall it for longer than it is waited for."""
    for _ in range(6):
        caplog.clear()
        try:
            await attempt()
        except AssertionError:
            if not any(record.name == "duly.cache.redis" for record in caplog.records):
                raise
        else:
            return
        await asyncio.sleep(1)
    pytest.fail("Redis was too slow each time")


async def fill(person: Person, stored: Stored) -> int:
    """Give somebody so many tasks that Redis is asked; how many."""
    await person.add_task("0")
    count = 1
    while count < SHARED_FROM:
        await stored.rows(
            "INSERT INTO tasks (id, user_id, title, title_key, completed, priority, due_key, tags, version, created_at,"
            " updated_at) SELECT 'n' || (CAST(title AS INTEGER) + ?), user_id,"
            " CAST(CAST(title AS INTEGER) + ? AS TEXT), title, completed, priority, due_key, tags, 1, created_at,"
            " updated_at FROM tasks WHERE user_id = ? AND CAST(title AS INTEGER) + ? < ?",
            count, count, person.user_id, count, SHARED_FROM,
        )  # fmt: skip
        count = min(2 * count, SHARED_FROM)
    return count


async def shared_hits(person: Person) -> float:
    text = (await person.client.get("/metrics")).text
    [line] = [line for line in text.splitlines() if line.startswith('duly_cache_hits_total{layer="redis"}')]
    return float(line.split()[1])


@pytest.mark.covers("A072", "A073", "A074")
async def test_servers_on_one_redis_share_the_statistics_of_large_accounts(
    start_app: StartApp, stored: Stored, redis: Client, caplog: pytest.LogCaptureFixture
) -> None:
    first = await start_app(redis_url=URL)
    ann = await first.register()
    count = await fill(ann, stored)
    ben = await first.register()
    second = await start_app(redis_url=URL)
    there = await second.log_in(ann.email)
    total = count

    async def attempt() -> None:
        nonlocal total
        await there.add_task("one more", priority="urgent")
        total += 1
        before = await shared_hits(there)
        for person in (ann, there):
            answer = (await person.get("/tasks/stats")).json()
            assert (answer["total"], answer["by_priority"]["urgent"]) == (total, total - count)
            await first.app.state.services.cache.redis.settle()
        assert await shared_hits(there) == before + 1

    await undisturbed(attempt, caplog)
    assert (await ben.get("/tasks/stats")).json()["total"] == 0


@once
@pytest.mark.covers("A072", "D112")
@pytest.mark.parametrize("fault", ["cut", "silence"])
async def test_statistics_are_right_while_redis_is_away(
    fault: str, start_app: StartApp, stored: Stored, redis: Client
) -> None:
    async with wire_to(URL) as (wire, url):
        api = await start_app(redis_url=url)
        ann = await api.register()
        count = await fill(ann, stored)
        assert (await ann.get("/tasks/stats")).json()["total"] == count
        getattr(wire, fault)()
        for number in range(1, 5):
            await ann.add_task("more")
            answer = await ann.get("/tasks/stats")
            assert (answer.status_code, answer.json()["total"]) == (200, count + number)
