"""Readers on two servers that share a database: whatever is cut, killed or lost, each ends with the table's order.

`LIVE_WRITES=10000` makes the long run, `LIVE_KILLS=20` more kills.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import redis
from websockets.exceptions import WebSocketException

from tests.fixtures.application import Person
from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import Server
from tests.fixtures.wire import wire_to
from tests.live_clients import OPEN, SECRET, Change, Refused, collect, events, feed, register, serve, socket

pytestmark = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
WRITES = int(os.environ.get("LIVE_WRITES", "600"))
KILLS = int(os.environ.get("LIVE_KILLS", "2"))
SECONDS = 60 + WRITES / 20
WRITERS = 8
READERS = ("sse", "websocket") * 4
# pub/sub knows no databases, but the rate limits beside it do.
REDIS_URL = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/10")
_folders = itertools.count(1)
log = logging.getLogger(__name__)


@dataclass
class Town:
    """Servers on one database, and one person with everything in it."""

    servers: list[Server]
    clients: list[httpx.AsyncClient]
    person: Person
    outside: "asyncpg.Pool[asyncpg.Record]"

    @property
    def bases(self) -> list[str]:
        return [server.base_url for server in self.servers]

    async def stored(self) -> list[tuple[int, str, str]]:
        """The table itself."""
        rows = await self.outside.fetch("SELECT position, type, task_id FROM changes ORDER BY position")
        return [tuple(row) for row in rows]

    async def is_committed(self, change: Change) -> bool:
        """Whether another connection sees it."""
        found = await self.outside.fetchval(
            "SELECT count(*) FROM changes WHERE task_id = $1 AND type = $2 AND at = $3",
            change["task_id"], change["type"], datetime.fromisoformat(change["at"]),
        )  # fmt: skip
        return bool(found == 1)


@contextlib.asynccontextmanager
async def town(folder: Path, database_url: str, wired_url: str = "", **settings: Any) -> AsyncIterator[Town]:
    """Two servers, at the other end of a wire if there is one."""
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(2):
            place = folder / f"server-{next(_folders)}"
            place.mkdir()
            servers.append(
                await asyncio.to_thread(
                    serve,
                    place,
                    database_url=wired_url or database_url,
                    secret_key=SECRET,
                    log_level="warning",
                    **settings,
                )
            )
            stack.callback(servers[-1].kill)
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=one.base_url, trust_env=False, timeout=30))
            for one in servers
        ]
        pool = await stack.enter_async_context(asyncpg.create_pool(database_url, min_size=1, max_size=4))
        yield Town(servers, clients, await register(clients[0]), pool)
        for server in servers:
            assert "Traceback" not in server.log()


@dataclass
class Follower:
    """Reads until it has `goal` changes; its connection is cut at random, and it resumes after what it has."""

    town: Town
    kind: str
    rng: random.Random
    start: str
    found: list[Change] = field(default_factory=list)
    goal: int | None = None
    opened: int = 0

    def is_done(self) -> bool:
        return self.goal is not None and len(self.found) >= self.goal

    async def run(self) -> None:
        while not self.is_done():
            since = self.found[-1]["cursor"] if self.found else self.start
            with contextlib.suppress(TimeoutError, httpx.TransportError, OSError, WebSocketException, Refused):
                async with asyncio.timeout(self.rng.uniform(0.05, 1.5)):
                    await self.visit(self.rng.choice(self.town.bases), since)

    async def visit(self, base: str, since: str) -> None:
        async with OPEN[self.kind](base, self.town.person.access_token, since) as reader:
            self.opened += 1
            while not self.is_done() and (change := await reader.next()) is not None:
                self.found.append(change)
                if self.rng.random() < 0.05:
                    assert await self.town.is_committed(change), "seen before its commit"


async def write(town: Town, writer: int, numbers: "itertools.count[int]", count: int) -> int:
    """Create, change, complete and delete through both servers; how many writes were acknowledged."""
    headers, done, rng = town.person.headers, 0, seeded(writer)
    mine: list[str] = []
    while next(numbers) < count:
        client = rng.choice(town.clients)
        task = rng.choice(mine) if mine else None
        step = rng.random()
        if task is None or step < 0.5:
            answer = await client.post("/api/v1/tasks", json={"title": f"{writer}-{done}"}, headers=headers)
            mine.append(answer.json()["id"])
        elif step < 0.7:
            answer = await client.patch(f"/api/v1/tasks/{task}", json={"title": f"again {done}"}, headers=headers)
        elif step < 0.9:
            answer = await client.patch(f"/api/v1/tasks/{task}/complete", headers=headers)
        else:
            mine.remove(task)
            answer = await client.delete(f"/api/v1/tasks/{task}", headers=headers)
        assert answer.is_success, answer.text
        done += 1
    return done


async def start_of(town: Town) -> str:
    """Where the feed stands now."""
    async with events(town.bases[0], town.person.access_token) as reader:
        return str(reader.cursor)


async def check_all_alike(town: Town, followers: list[Follower]) -> None:
    """Every reader has the same, which is what the table holds, without a gap."""
    rows = await town.stored()
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    table = await feed(town.clients[0], town.person.access_token)
    assert [(change["type"], change["task_id"]) for change in table] == [row[1:] for row in rows]
    for follower in followers:
        assert follower.found == table, follower.kind


async def finish(followers: list[Follower], reading: list[asyncio.Task[None]], count: int) -> None:
    """Let them read up to the last change."""
    for follower in followers:
        follower.goal = count
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*reading)


@pytest.fixture
def redis_url() -> str:
    """A Redis that answers."""
    try:
        redis.Redis.from_url(REDIS_URL).ping()
    except redis.ConnectionError as error:
        skip_or_fail(f"Redis is needed at TEST_REDIS_URL ({error}): apt-get install redis, and start it")
    return REDIS_URL


@pytest.mark.covers("A139")
@pytest.mark.parametrize("way", ["postgresql", "redis"])
async def test_every_reader_ends_with_the_same_order_without_a_gap(
    database_url: str, tmp_path: Path, redis_url: str, way: str
) -> None:
    settings = {"redis_url": redis_url} if way == "redis" else {}
    count = WRITES if way == "postgresql" else max(300, WRITES // 5)
    async with town(tmp_path, database_url, **settings) as place:
        start = await start_of(place)
        followers = [Follower(place, kind, seeded(seed), start) for seed, kind in enumerate(READERS)]
        reading = [asyncio.create_task(follower.run()) for follower in followers]
        begun = time.monotonic()
        numbers = itertools.count()
        done = await asyncio.gather(*(write(place, writer, numbers, count) for writer in range(WRITERS)))
        written = time.monotonic() - begun
        assert sum(done) == count
        rows = await place.stored()
        assert len(rows) == count
        await finish(followers, reading, len(rows))
        await check_all_alike(place, followers)
        opened = [follower.opened for follower in followers]
        log.info(
            "%s: %s writes in %.1f s, read %.1f s later; connections of each reader: %s",
            way, count, written, time.monotonic() - begun - written, opened,
        )  # fmt: skip
        assert sum(opened) > len(followers), "no reader was cut off"


@pytest.mark.covers("A139")
async def test_a_kill_between_commit_and_delivery_loses_nothing(database_url: str, tmp_path: Path) -> None:
    async with town(tmp_path, database_url) as place:
        start = await start_of(place)
        followers = [Follower(place, kind, seeded(seed), start) for seed, kind in enumerate(READERS[:4])]
        reading = [asyncio.create_task(follower.run()) for follower in followers]
        body = {"operations": [{"op": "create", "task": {"title": "x", "description": "y" * 1500}}] * 100}
        for kill in range(KILLS):
            victim = kill % 2
            answer = await place.clients[victim].post("/api/v1/tasks/bulk", json=body, headers=place.person.headers)
            place.servers[victim].kill()  # it has promised a hundred changes, and hardly begun to send them
            assert answer.json()["succeeded"] == 100
            await place.clients[1 - victim].post("/api/v1/tasks", json={"title": "on"}, headers=place.person.headers)
            port = int(place.bases[victim].rpartition(":")[2])
            place.servers[victim] = await asyncio.to_thread(restart, tmp_path, port, database_url)
        await finish(followers, reading, KILLS * 101)
        await check_all_alike(place, followers)
        for server in place.servers:
            server.kill()


def seeded(seed: int) -> random.Random:
    """The same dice in every run."""
    return random.Random(seed)  # noqa: S311 - nothing secret


def restart(folder: Path, port: int, database_url: str) -> Server:
    place = folder / f"server-{next(_folders)}"
    place.mkdir()
    return serve(place, port=port, database_url=database_url, secret_key=SECRET, log_level="warning")


@pytest.mark.parametrize("way", ["postgresql", "redis"])
async def test_what_one_server_commits_wakes_the_other_and_without_signals_it_is_seen_all_the_same(
    database_url: str, tmp_path: Path, redis_url: str, way: str
) -> None:
    settings = {"redis_url": redis_url} if way == "redis" else {}
    async with town(tmp_path, database_url, **settings) as place, AsyncExitStack() as stack:
        token = place.person.access_token
        readers = [await stack.enter_async_context(open_(place.bases[1], token)) for open_ in (events, socket)]

        async def there_and_back() -> None:
            answer = await place.clients[0].post("/api/v1/tasks", json={"title": "x"}, headers=place.person.headers)
            for reader in readers:
                assert [change["task"] for change in await collect(reader, 1)] == [answer.json()]

        await there_and_back()
        begun = time.monotonic()
        for _ in range(20):
            await there_and_back()
        # Looking once a second, as is done beside the signals, would take a second for each.
        assert time.monotonic() - begun < 10
        if way == "redis":
            return
        ended = await place.outside.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_notify%' "
            "AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert len(ended) == 2
        await there_and_back()
        async with asyncio.timeout(20):
            while "Signals pass between the processes again" not in await asyncio.to_thread(place.servers[1].log):
                await there_and_back()
        assert place.servers[1].log().count("No signals pass between the processes") == 1
        await there_and_back()


async def test_streams_stay_open_while_the_database_is_away_and_catch_up(database_url: str, tmp_path: Path) -> None:
    async with (
        wire_to(database_url) as (wire, address),
        town(tmp_path, database_url, address) as place,
        AsyncExitStack() as stack,
    ):
        token = place.person.access_token
        readers = [await stack.enter_async_context(open_(place.bases[1], token)) for open_ in (events, socket)]
        wire.cut()
        await asyncio.sleep(2.5)
        async with contextlib.AsyncExitStack() as inner:
            connection = await asyncpg.connect(database_url)
            inner.push_async_callback(connection.close)
            await connection.execute(
                "INSERT INTO tasks (id, user_id, title, title_key, completed, priority, due_key, tags, version, "
                "created_at, updated_at) "
                "VALUES ('kept', $1, 'meanwhile', 'meanwhile', false, 'low', now(), '[]', 1, now(), now())",
                place.person.user_id,
            )  # fmt: skip
        wire.mend()
        for reader in readers:
            assert [change["task"]["title"] for change in await collect(reader, 1)] == ["meanwhile"]
        log = place.servers[1].log()
        assert log.count("No signals pass between the processes") == 1


async def test_an_end_of_the_server_is_told_and_does_not_wait_for_its_readers(
    database_url: str, tmp_path: Path
) -> None:
    async with town(tmp_path, database_url) as place, AsyncExitStack() as stack:
        token = place.person.access_token
        sse = await stack.enter_async_context(events(place.bases[1], token))
        web = await stack.enter_async_context(socket(place.bases[1], token))
        begun = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(place.servers[1].stop))
        assert await sse.next() is None
        assert (sse.ending, sse.reconnect) == ("SERVER_RESTARTS", True)
        assert await web.next() is None
        assert (web.ending, web.reason) == ("1012", "SERVER_RESTARTS")
        assert await stopping == 0
        assert time.monotonic() - begun < 5
        # There is another one.
        async with events(place.bases[0], token, sse.cursor):
            pass
