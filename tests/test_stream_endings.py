"""{open SSE, open WebSocket} × {each way in which a session ends}, on two servers: closed within a second, with nothing
of what happened after it.
"""  # noqa: D205 - one thought

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.better_auth.issuing import claims_for, seal
from tests.fixtures.application import PASSWORD, Person
from tests.fixtures.database import migrated_database
from tests.live_clients import KINDS, OPEN, SECRET, Change, Reader, collect, deaf_reader, fill, register, serve
from tests.second_connection import SecondConnection, second_connection

pytestmark = pytest.mark.asyncio(loop_scope="module")
OUTSIDE_SECRET = "the-secret-that-the-issuer-and-we-share"
SECONDS = 1.0


@dataclass
class House:
    """Two servers on one database; people are at the first, streams at both."""

    bases: list[str]
    client: httpx.AsyncClient
    outside: SecondConnection
    root: Person
    log: Callable[[], str]


@pytest.fixture(scope="module")
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Several processes are for PostgreSQL."""
    with migrated_database("postgresql", request, tmp_path_factory.mktemp("endings")) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home(database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """Two servers, and an administrator."""
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(2):
            folder = tmp_path_factory.mktemp("server")
            servers.append(
                await asyncio.to_thread(
                    serve, folder, database_url=database, secret_key=SECRET, better_auth_secret=OUTSIDE_SECRET
                )
            )
            stack.callback(servers[-1].kill)
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=servers[0].base_url, trust_env=False, timeout=20)
        )
        outside = await stack.enter_async_context(second_connection(database))
        root = await register(client)
        await outside.run(f"UPDATE users SET role = 'admin' WHERE id = '{root.user_id}'")
        yield House(
            [server.base_url for server in servers], client, outside, root,
            lambda: "".join(server.log() for server in servers),
        )  # fmt: skip
        assert "Traceback" not in "".join(server.log() for server in servers)


Act = Callable[[House, Person], Awaitable[httpx.Response]]


async def log_out(home: House, ann: Person) -> httpx.Response:
    return await ann.post("/auth/logout")


async def log_out_everywhere(home: House, ann: Person) -> httpx.Response:
    return await ann.post("/auth/logout", json={"all_sessions": True})


async def change_the_password(home: House, ann: Person) -> httpx.Response:
    # It ends the other sessions: the streams are one of those.
    answer = await home.client.post("/api/v1/auth/login", json={"email": ann.email, "password": PASSWORD})
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    body = {"current_password": PASSWORD, "new_password": "lighthouse-marmalade-7"}
    return await home.client.post("/api/v1/auth/change-password", json=body, headers=headers)


async def disable(home: House, ann: Person) -> httpx.Response:
    return await home.root.patch(f"/users/{ann.user_id}", json={"is_active": False})


async def delete(home: House, ann: Person) -> httpx.Response:
    return await home.root.delete(f"/users/{ann.user_id}")


ENDINGS: list[Act] = [log_out, log_out_everywhere, change_the_password, disable, delete]
CODES = {"sse": "SESSION_ENDED", "websocket": "4401"}


@dataclass
class Watched:
    """One open stream, what came, and when it was over."""

    kind: str
    reader: Reader
    changes: list[Change] = field(default_factory=list)
    closed: float = 0.0

    async def watch(self) -> None:
        async with asyncio.timeout(10):
            while (change := await self.reader.next()) is not None:
                self.changes.append(change)
        self.closed = time.monotonic()


async def open_streams(home: House, token: str, stack: AsyncExitStack) -> list[Watched]:
    """Both kinds on both servers."""
    return [
        Watched(kind, await stack.enter_async_context(OPEN[kind](base, token))) for kind in KINDS for base in home.bases
    ]


async def check_ended(
    home: House, watched: list[Watched], task: dict[str, Any], act: Callable[[], Awaitable[httpx.Response]]
) -> None:
    """What happens before is seen, what happens after is not, and a second later all are closed."""
    for one in watched:
        await collect(one.reader, 1)
    watching = [asyncio.create_task(one.watch()) for one in watched]
    answer = await act()
    ended = time.monotonic()
    assert answer.is_success, answer.text
    # The database announces nothing: each stream is woken by what it finds itself, or by what the writers say.
    for version in range(2, 7):
        await home.outside.run(f"UPDATE tasks SET title = 'after', version = {version} WHERE id = '{task['id']}'")
    await asyncio.gather(*watching)
    for one in watched:
        assert one.changes == [], one.kind
        assert one.closed - ended < SECONDS, one.kind
        assert one.reader.ending == CODES[one.kind]


@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.covers("A139", "A032", "A048")
async def test_open_streams_close_on_each_server_and_nothing_comes_after(home: House, end: Act) -> None:
    ann = await register(home.client)
    async with AsyncExitStack() as stack:
        watched = await open_streams(home, ann.access_token, stack)
        ben = await register(home.client)
        others = await open_streams(home, ben.access_token, stack)
        task = await ann.add_task("before")
        await check_ended(home, watched, task, lambda: end(home, ann))
        # Who is not concerned goes on.
        await ben.add_task("still here")
        for one in others:
            assert (await collect(one.reader, 1))[0]["task"]["title"] == "still here"


@pytest.mark.covers("A139")
async def test_streams_of_an_outside_user_close_when_the_user_is_deactivated(home: House) -> None:
    claims = claims_for("", iss=None, aud=None, sub="outside-reader")
    token = seal({"alg": "HS256"}, claims, OUTSIDE_SECRET.encode(), "HS256")
    headers = {"Authorization": f"Bearer {token}"}
    task: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        assert (await home.client.get("/api/v1/tasks", headers=headers)).status_code == 200
        watched = await open_streams(home, token, stack)
        task = (await home.client.post("/api/v1/tasks", json={"title": "before"}, headers=headers)).json()

        async def act() -> httpx.Response:
            return await home.root.patch("/users/outside-reader", json={"is_active": False})

        await check_ended(home, watched, task, act)


async def test_a_client_that_does_not_read_is_cut_off_as_well(home: House) -> None:
    ann = await register(home.client)
    await until_open(home, 0)
    async with deaf_reader(home.bases[0], ann.access_token):
        await fill(ann)
        await until_open(home, 1)
        assert (await ann.post("/auth/logout")).status_code == 204
        await until_open(home, 0)


async def until_open(home: House, count: int) -> None:
    """Until so many streams began and did not end, by the log's two lines of each."""
    async with asyncio.timeout(5):
        while True:
            log = await asyncio.to_thread(home.log)
            lines = [log.count(f"{line}: GET /api/v1/events") for line in ("Incoming request", "Request completed")]
            if lines[0] - lines[1] == count:
                return
            await asyncio.sleep(0.05)
