"""/ws: the change feed over WebSocket, signed in by its first message or its subprotocols, and closed with a reason."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.fixtures.application import Person
from tests.fixtures.server import Server
from tests.live_clients import (
    SECRET,
    Refused,
    SocketReader,
    collect,
    events,
    feed,
    over,
    register,
    serve,
    short_lived,
    socket,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
FRONTEND = "https://app.example.com"


@pytest.fixture(scope="module")
def server(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One process for the file, on each database; it logs everything that it can."""
    started = serve(
        tmp_path_factory.mktemp("live"), database_url=shared_database_url, secret_key=SECRET, cors_origins=FRONTEND,
        log_level="debug",
    )  # fmt: skip
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


def address(server: Server, path: str = "/api/v1/ws") -> str:
    return server.base_url.replace("http", "ws") + path


async def closing(connection: ClientConnection) -> tuple[int, str]:
    """The code and the reason with which the server closes, after whatever it says before."""
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(15):
            while True:
                await connection.recv()
    return connection.close_code or 0, connection.close_reason or ""


async def refused(server: Server, *messages: Any, path: str = "/api/v1/ws", **options: Any) -> tuple[int, str]:
    async with connect(address(server, path), proxy=None, **options) as connection:
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                await connection.send(message)
        return await closing(connection)


def greeting(token: str, **fields: Any) -> str:
    return json.dumps({"type": "auth", "token": token, **fields})


@pytest.mark.covers("A139")
@pytest.mark.parametrize("path", ["/api/v1/ws", "/api/ws"])
async def test_it_follows_the_feed_and_resumes_where_it_was(
    server: Server, client: httpx.AsyncClient, eve: Person, path: str
) -> None:
    await eve.add_task("before")
    async with socket(server.base_url, eve.access_token, path=path) as reader:
        assert reader.cursor == (await feed(client, eve.access_token))[-1]["cursor"]
        task = await eve.add_task("first")
        await eve.patch(f"/tasks/{task['id']}/complete")
        await eve.delete(f"/tasks/{task['id']}")
        found = await collect(reader, 3)
        assert found == await feed(client, eve.access_token, reader.cursor)
        assert [change["type"] for change in found] == ["task.created", "task.completed", "task.deleted"]
    for number in range(110):
        await eve.add_task(f"meanwhile {number}")
    async with socket(server.base_url, eve.access_token, found[0]["cursor"], path=path) as reader:
        assert reader.cursor == found[0]["cursor"]
        assert await collect(reader, 112) == await feed(client, eve.access_token, found[0]["cursor"])


@pytest.mark.covers("A139")
async def test_a_browser_signs_in_by_subprotocols(server: Server, client: httpx.AsyncClient, eve: Person) -> None:
    await eve.add_task("one")
    await eve.add_task("two")
    first, second = await feed(client, eve.access_token)
    # A browser breaks the connection off unless one of what it offered is chosen, and a token must not be that one.
    names: list[Any] = ["duly.v1", f"bearer.{eve.access_token}"]
    async with connect(address(server), subprotocols=names, proxy=None) as connection:
        assert connection.subprotocol == "duly.v1"
        assert json.loads(await connection.recv()) == {"type": "ready", "cursor": second["cursor"]}
    names.append(f"since.{first['cursor']}")
    async with connect(address(server), subprotocols=names, proxy=None, origin=FRONTEND) as connection:  # type: ignore[arg-type]
        assert json.loads(await connection.recv()) == {"type": "ready", "cursor": first["cursor"]}
        assert await collect(SocketReader(connection), 1) == [second]


@pytest.mark.covers("A139")
async def test_what_is_no_greeting_is_closed_with_4400_and_a_token_that_is_not_good_with_4401(
    server: Server, eve: Person
) -> None:
    token = eve.access_token
    for message in (
        "", "x", "[]", "{}", "null", b"\x00", '{"type":"auth"}', json.dumps({"type": "hello", "token": token}),
        greeting(token, more=1), greeting(token, since=7), greeting(""), '{"type":"auth","type":"auth","token":"x"}',
        greeting("x" * 9000), "[" * 9000,
    ):  # fmt: skip
        assert (await refused(server, message))[0] == 4400, message
    assert await refused(server, greeting(token, since="x")) == (4400, "BAD_CURSOR")
    for bad in ("x", "a.b.c", token[:-3] + "abc", "é\r\n", "\u0000", "a b"):
        assert await refused(server, greeting(bad)) == (4401, "INVALID_TOKEN"), bad
    assert await refused(server, subprotocols=["duly.v1", "bearer.a.b.c"]) == (4401, "INVALID_TOKEN")
    assert (await refused(server, subprotocols=[f"bearer.{token}"]))[0] == 4400
    # What is too large is not even read.
    assert (await refused(server, greeting("x" * 17_000)))[0] == 1009


async def test_whoever_has_greeted_says_nothing_more(server: Server, eve: Person) -> None:
    assert await refused(server, greeting(eve.access_token), "{}") == (4400, "UNEXPECTED_MESSAGE")


@pytest.mark.covers("A139")
async def test_a_token_in_the_address_is_refused_and_nothing_secret_is_logged(server: Server, eve: Person) -> None:
    token = eve.access_token
    for query in (f"?token={token}", f"?access_token={token}&x=1", "?secret=tangerine-orbit-92"):
        assert await refused(server, greeting(token), path=f"/api/v1/ws{query}") == (4400, "QUERY_REFUSED")
    assert (await refused(server, greeting(token), "{}", subprotocols=["duly.v1"]))[0] == 4400
    assert (await refused(server, "{}", subprotocols=["duly.v1", f"bearer.{token}"]))[0] == 4400
    log = server.log()
    assert "GET /api/v1/ws - Status: 101" in log
    for secret in (token, token.split(".")[2], token.split(".")[1], "ws?", "tangerine-orbit-92"):
        assert secret not in log


@pytest.mark.covers("A139")
async def test_pages_of_strange_origins_are_shut_out(server: Server, eve: Person) -> None:
    host = server.base_url.removeprefix("http://")
    message = greeting(eve.access_token)
    for origin in (
        "https://evil.example.com", "null", f"https://{host}.evil.example.com", f"https://{host}@evil.example",
        FRONTEND + ".evil.example", FRONTEND.replace("https", "http"), "file://", f"x://{host}",
    ):  # fmt: skip
        assert await refused(server, message, origin=origin) == (4403, "ORIGIN_REFUSED"), origin
    welcome: list[Any] = [FRONTEND, f"http://{host}", f"https://{host}", None]
    for one in welcome:
        async with connect(address(server), origin=one, proxy=None) as connection:
            await connection.send(message)
            assert json.loads(await connection.recv())["type"] == "ready"


@pytest.mark.covers("A139")
async def test_streams_of_both_kinds_count_together(server: Server, eve: Person) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for number in range(10):
            way = socket if number % 2 else events
            await stack.enter_async_context(way(server.base_url, eve.access_token))
        with pytest.raises(Refused) as caught:
            await stack.enter_async_context(socket(server.base_url, eve.access_token))
        assert (caught.value.status, caught.value.code) == (4429, "TOO_MANY_STREAMS")


async def test_it_ends_when_the_token_expires(server: Server, eve: Person) -> None:
    async with socket(server.base_url, short_lived(eve, seconds=2)) as reader:
        assert await over(reader) == []
        assert (reader.ending, reader.reason) == ("4401", "TOKEN_EXPIRED")


async def test_there_is_no_other_socket(server: Server) -> None:
    for path in ("/api/v1/tasks", "/ws", "/api/v2/ws", "/"):
        with pytest.raises(InvalidStatus) as caught:
            async with connect(address(server, path), proxy=None):
                pass
        assert caught.value.response.status_code == 403


@pytest.mark.covers("A139")
async def test_who_does_not_get_in_is_counted_and_turned_away(
    shared_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = await asyncio.to_thread(
        serve, tmp_path_factory.mktemp("strict"), database_url=shared_database_url, secret_key=SECRET,
        rate_limit_enabled="true", rate_limit_anonymous="3/hour", rate_limit_user="4/hour",
    )  # fmt: skip
    try:
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20) as client:
            person = await register(client)
        assert [(await refused(server, greeting("a.b.c")))[0] for _ in range(5)] == [4401, 4401, 4401, 4429, 4429]
        codes = []
        for _ in range(6):
            try:
                async with socket(server.base_url, person.access_token):
                    codes.append(0)
            except Refused as refusal:
                codes.append(refusal.status)
        assert codes == [0, 0, 0, 0, 4429, 4429]
    finally:
        server.kill()
