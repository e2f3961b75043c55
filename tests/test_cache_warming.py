"""The cache is filled before somebody asks: by each server at its start, and by `duly cache warm` in Redis."""

import asyncio
import time
from pathlib import Path

import pytest

from duly.operations.warming import warm
from tests.commands import answer, refusal, run_duly
from tests.fixtures.application import Api, Person, StartApp
from tests.fixtures.server import StartServer, free_port
from tests.fixtures.stored import Stored
from tests.test_cache_redis import URL, fill, require_redis

PATIENCE = 20.0
once = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


async def count(api: Api, layer: str, *, hits: bool) -> int:
    """What /metrics says of this layer."""
    name = f'duly_cache_{"hits" if hits else "misses"}_total{{layer="{layer}"}} '
    lines = (await api.client.get("/metrics")).text.splitlines()
    [value] = [line.removeprefix(name) for line in lines if line.startswith(name)]
    return int(float(value))


async def until(api: Api, least: int, layer: str, *, hits: bool) -> None:
    deadline = time.monotonic() + PATIENCE
    while await count(api, layer, hits=hits) < least:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.covers("A075")
async def test_after_a_start_the_first_read_of_an_active_user_is_a_hit(start_app: StartApp) -> None:
    first = await start_app()
    people = [await first.register() for _ in range(3)]
    await people[0].add_task("One")
    api = await start_app()
    await until(api, 3, "process", hits=False)
    for person in people:
        there = Person(api.client, person.user_id, person.email, person.access_token, person.refresh_token)
        assert (await there.get("/tasks/stats")).json()["total"] == (person is people[0])
    assert await count(api, "process", hits=False) == 3
    assert await count(api, "process", hits=True) == 3


async def test_the_latest_come_first_and_there_is_an_end(api: Api) -> None:
    people = [await api.register() for _ in range(4)]
    await people[1].add_task("One")
    cache, database = api.app.state.services.cache, api.app.state.services.database
    assert (await warm(database, cache, users=2)).users == 2
    before = cache.hits["process"]
    for person in (people[1], people[3]):
        await person.get("/tasks/stats")
    assert cache.hits["process"] == before + 2
    assert (await warm(database, cache, users=10)).users == 4
    assert (await warm(database, cache, seconds=0)).users == 0


@once
@pytest.mark.covers("A075")
async def test_the_log_says_how_many_were_warmed(
    start_app: StartApp, start_server: StartServer, database_url: str
) -> None:
    api = await start_app()
    for _ in range(2):
        await api.register()
    server = start_server(database_url=database_url)
    deadline = time.monotonic() + PATIENCE
    while "Cache warmed: 2 users in " not in server.log():
        assert time.monotonic() < deadline, server.log()
        await asyncio.sleep(0.05)
    assert server.log().count("Cache warmed") == 1


@pytest.mark.covers("A075", "A072")
async def test_the_command_warms_what_servers_share(
    start_app: StartApp, stored: Stored, database_url: str, tmp_path: Path
) -> None:
    await require_redis()
    api = await start_app()
    ann = await api.register()
    await fill(ann, stored)
    await api.register()
    said = answer(await run_duly(tmp_path, "cache", "warm", database_url=database_url, redis_url=URL))
    assert said.startswith("Cache warmed: 2 users in ")
    assert "; Redis holds 1, " in said
    other = await start_app(redis_url=URL)
    await until(other, 1, "redis", hits=True)


@once
async def test_the_command_says_when_there_is_nothing_to_warm_or_no_redis(database_url: str, tmp_path: Path) -> None:
    dead = f"redis://127.0.0.1:{free_port()}/0"
    done, failed = await asyncio.gather(
        run_duly(tmp_path, "cache", "warm", database_url=database_url),
        run_duly(tmp_path, "cache", "warm", database_url=database_url, redis_url=dead),
    )
    assert answer(done) == "Nothing to do: without REDIS_URL each server warms its own cache when it starts.\n"
    assert refusal(failed) == "Redis at REDIS_URL keeps nothing; see that it answers and may be written."
