"""GET /events: the change feed as Server-Sent Events, in order and without a gap, resumed where it was left."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from duly.settings import Settings
from tests.fixtures.application import Person, running
from tests.fixtures.server import Server
from tests.live_clients import SECRET, Change, Refused, collect, events, feed, over, register, serve, short_lived
from tests.second_connection import second_connection

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def server(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One process for the file, on each database."""
    started = serve(tmp_path_factory.mktemp("live"), database_url=shared_database_url, secret_key=SECRET)
    yield started
    started.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to it."""
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def eve(client: httpx.AsyncClient) -> Person:
    return await register(client)


@pytest_asyncio.fixture(loop_scope="module")
async def fay(client: httpx.AsyncClient) -> Person:
    return await register(client)


async def make_every_kind_of_change(person: Person) -> list[str]:
    task = await person.add_task("first", tags=["a", 'b"c'], description="é\r\nid: 7\n\ndata: {}\u2028🪴")
    address = f"/tasks/{task['id']}"
    for answer in (
        await person.patch(address, json={"title": "second"}),
        await person.patch(f"{address}/complete"),
        await person.patch(f"{address}/complete", json={"completed": False}),
        await person.delete(address),
        await person.post(f"{address}/restore"),
    ):
        assert answer.is_success, answer.text
    return ["task.created", "task.updated", "task.completed", "task.reopened", "task.deleted", "task.restored"]


@pytest.mark.covers("A139")
@pytest.mark.parametrize("path", ["/api/v1/events", "/api/events", "/api/v1/events/"])
async def test_each_change_comes_once_in_order_as_the_feed_has_it(
    server: Server, client: httpx.AsyncClient, eve: Person, fay: Person, path: str
) -> None:
    async with events(server.base_url, eve.access_token, path=path) as reader:
        kinds = await make_every_kind_of_change(eve)
        await fay.add_task("not theirs")
        found = await collect(reader, len(kinds))
        assert [change["type"] for change in found] == kinds
        assert found == await feed(client, eve.access_token)
        await eve.add_task("one more")
        assert await collect(reader, 1) == await feed(client, eve.access_token, found[-1]["cursor"])


async def test_the_answer_is_an_event_stream_that_nothing_keeps_or_compresses(server: Server, eve: Person) -> None:
    async with events(server.base_url, eve.access_token) as reader:
        headers = reader.response.headers
        assert reader.response.request.headers["accept-encoding"].startswith("gzip")
        assert headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in headers
        assert headers["cache-control"] == "no-store, no-transform"  # else Next.js, as a proxy, compresses it
        assert headers["x-accel-buffering"] == "no"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"]


async def test_it_resumes_after_the_last_event_with_nothing_missed_and_nothing_twice(
    server: Server, client: httpx.AsyncClient, eve: Person
) -> None:
    for number in range(120):
        await eve.add_task(f"task {number}")
    whole = await feed(client, eve.access_token)
    middle = whole[40]["cursor"]
    async with events(server.base_url, eve.access_token, middle) as reader:
        assert reader.cursor == middle
        assert await collect(reader, 79) == whole[41:]
        await eve.add_task("live")
        last = (await collect(reader, 1))[0]
        assert last["task"]["title"] == "live"
    # As a first visit says it; and what a browser adds by itself when it comes back counts more.
    async with events(server.base_url, eve.access_token, path=f"/api/v1/events?since={middle}") as reader:
        assert (await collect(reader, 1)) == [whole[41]]
    path = f"/api/v1/events?since={middle}"
    async with events(server.base_url, eve.access_token, whole[-1]["cursor"], path) as reader:
        assert await collect(reader, 1) == [last]


async def test_without_a_cursor_it_begins_now_and_says_where_that_is(
    server: Server, client: httpx.AsyncClient, eve: Person
) -> None:
    await eve.add_task("before")
    async with events(server.base_url, eve.access_token) as reader:
        assert reader.cursor == (await feed(client, eve.access_token))[-1]["cursor"]
        task = await eve.add_task("after")
        assert [change["task"] for change in await collect(reader, 1)] == [task]
        assert titles(await feed(client, eve.access_token, reader.cursor)) == ["after"]


async def test_a_writer_who_tells_nobody_is_seen_all_the_same(
    server: Server, shared_database_url: str, eve: Person
) -> None:
    task = await eve.add_task("mine")
    async with events(server.base_url, eve.access_token) as reader:
        async with second_connection(shared_database_url) as outside:
            await outside.run(f"UPDATE tasks SET title = 'theirs', version = 2 WHERE id = '{task['id']}'")
        [change] = await collect(reader, 1)
        assert (change["type"], change["task"]["title"]) == ("task.updated", "theirs")


async def refusal(
    client: httpx.AsyncClient, person: Person | None, query: str = "", headers: dict[str, Any] | None = None
) -> httpx.Response:
    signed = {**(person.headers if person else {}), **(headers or {})}
    answer = await client.get(f"/api/v1/events{query}", headers=signed)
    assert answer.headers["content-type"] == "application/problem+json"
    return answer


@pytest.mark.covers("A139")
async def test_what_is_refused_is_refused_before_anything_is_streamed(
    client: httpx.AsyncClient, eve: Person, fay: Person
) -> None:
    await fay.add_task()
    [theirs] = await feed(client, fay.access_token)
    await eve.add_task()
    [mine] = await feed(client, eve.access_token)
    of_a_list = (await eve.get("/tasks?limit=1")).json()["next_cursor"] or "none"
    assert (await refusal(client, None)).status_code == 401
    assert (await refusal(client, None, headers={"Authorization": "Bearer a.b.c"})).json()["code"] == "INVALID_TOKEN"
    assert (await refusal(client, eve, "?token=x")).status_code == 422
    for cursor in ("x", theirs["cursor"], of_a_list, mine["cursor"][:-1] + "_", "é", "0" * 3000):
        answer = await refusal(client, eve, headers={"Last-Event-ID": cursor.encode()})
        assert (answer.status_code, answer.json()["code"]) == (400, "BAD_CURSOR"), cursor
    assert (await refusal(client, eve, "?since=x")).json()["code"] == "BAD_CURSOR"
    answer = await client.post("/api/v1/events", headers=eve.headers)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_a_cursor_from_a_future_that_a_restored_database_does_not_have_is_refused(
    shared_database_url: str, client: httpx.AsyncClient, eve: Person
) -> None:
    await eve.add_task()
    await eve.add_task()
    cursor = (await feed(client, eve.access_token))[-1]["cursor"]
    async with second_connection(shared_database_url) as outside:
        for sql in ("DELETE FROM changes WHERE user_id = '{}' AND position = 2",
                    "UPDATE task_counters SET position = 1 WHERE user_id = '{}'"):  # fmt: skip
            await outside.run(sql.format(eve.user_id))
    assert (await refusal(client, eve, headers={"Last-Event-ID": cursor})).json()["code"] == "BAD_CURSOR"


async def test_head_answers_like_get_and_ends(client: httpx.AsyncClient, eve: Person) -> None:
    for _ in range(12):
        answer = await client.head("/api/v1/events", headers=eve.headers)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert (await client.head("/api/v1/events")).status_code == 401


@pytest.mark.covers("A139")
async def test_a_user_has_ten_streams_and_whoever_leaves_makes_room(
    server: Server, client: httpx.AsyncClient, eve: Person, fay: Person
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(9):
            await stack.enter_async_context(events(server.base_url, eve.access_token))
        async with events(server.base_url, eve.access_token):
            answer = await refusal(client, eve)
            assert (answer.status_code, answer.json()["code"]) == (429, "TOO_MANY_STREAMS")
            assert int(answer.headers["retry-after"]) > 0
            async with events(server.base_url, fay.access_token):
                pass
        async with asyncio.timeout(5):
            while True:
                try:
                    async with events(server.base_url, eve.access_token):
                        break
                except Refused:
                    await asyncio.sleep(0.05)


async def test_many_streams_of_one_user_and_of_others_get_each_their_own(
    server: Server, client: httpx.AsyncClient, eve: Person, fay: Person
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        theirs = [await stack.enter_async_context(events(server.base_url, eve.access_token)) for _ in range(5)]
        other = await stack.enter_async_context(events(server.base_url, fay.access_token))
        await asyncio.gather(*(eve.add_task(f"{number}") for number in range(250)), fay.add_task("alone"))
        expected = await feed(client, eve.access_token)
        for found in await asyncio.gather(*(collect(reader, 250) for reader in theirs)):
            assert found == expected
        assert await collect(other, 1) == await feed(client, fay.access_token)


@pytest.mark.covers("E094")
async def test_without_live_updates_neither_address_exists(shared_database_url: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {"database_url": shared_database_url, "data_dir": tmp_path, "log_level": "warning"}
    async with running(Settings(_env_file=None, live_enabled=False, rate_limit_enabled=False, **values)) as api:
        ann = await api.register()
        for path in ("/events", "/ws"):
            assert (await ann.get(path)).status_code == 404
        await ann.add_task("still works")
        assert "/api/v1/events" not in api.app.openapi()["paths"]
        assert api.app.state.services.streams is None


async def test_it_ends_when_the_token_expires(server: Server, eve: Person) -> None:
    async with events(server.base_url, short_lived(eve, seconds=5)) as reader:
        await eve.add_task("in time")
        assert titles(await over(reader)) == ["in time"]
        assert (reader.ending, reader.reconnect) == ("TOKEN_EXPIRED", True)


def titles(changes: list[Change]) -> list[Any]:
    return [change["task"]["title"] for change in changes]
