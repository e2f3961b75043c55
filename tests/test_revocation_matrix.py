"""Each way in which tokens end × each place that has to know: dead within a second, and nothing else with them."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from sys import executable
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
import pytest_asyncio
import redis

from tests.fixtures.application import PASSWORD, Api, Person
from tests.fixtures.database import migrated_database, skip_or_fail
from tests.fixtures.server import Server, StartServer, environment, free_port, wait_until_ready
from tests.fixtures.smtp import MailServer
from tests.fixtures.stored import Stored

SECRET = "a-key-that-is-only-in-these-endings-1"
NEW_PASSWORD = "lighthouse-marmalade-7"
# A database of Redis that nothing else uses, because it is emptied.
REDIS_URL = os.environ.get("TEST_REDIS_URL_TO_FLUSH", "redis://127.0.0.1:6379/11")
PLENTY = {f"rate_limit_{kind}": "1000000/hour" for kind in ("anonymous", "login", "register", "refresh", "mail")}
WAYS = ("/api/v1/tasks", "/api/v1/auth/me")  # by the hot routes' way, and by the plain one


@dataclass
class Visit:
    """One session with every token that it ever had, the newest last."""

    user_id: str
    email: str
    session_id: str
    access: list[str]
    refresh: list[str]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access[-1]}"}


@dataclass(frozen=True)
class Place:
    """A server; each of `processes` is reached by asking often enough over connections of its own."""

    client: httpx.AsyncClient
    processes: int = 1

    async def ask(self, token: str) -> set[tuple[int, str]]:
        """Every answer that a token gets here, at once on both ways."""
        headers = {"Authorization": f"Bearer {token}"}
        times = 1 if self.processes == 1 else 2 * self.processes
        answers = await asyncio.gather(*(self.client.get(way, headers=headers) for way in WAYS * times))
        return {(answer.status_code, answer.json().get("code", "")) for answer in answers}

    async def renew(self, token: str) -> httpx.Response:
        return await self.client.post("/api/v1/auth/refresh", json={"refresh_token": token})


@dataclass
class Scene:
    """Two sessions of one user, an administrator, and where to act."""

    client: httpx.AsyncClient
    mail: MailServer
    root: Visit
    ann: Visit
    phone: Visit

    async def act(self, who: Visit | None, method: str, path: str, status: int, **options: Any) -> None:
        headers = who.headers if who else {}
        answer = await self.client.request(method, f"/api/v1{path}", headers=headers, **options)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"


@dataclass(frozen=True)
class Outcome:
    """Which of the two sessions an action ends, and which it leaves."""

    dead: list[Visit]
    alive: list[Visit] = field(default_factory=list)


async def log_out(scene: Scene) -> Outcome:
    await scene.act(scene.ann, "POST", "/auth/logout", 204)
    return Outcome([scene.ann], [scene.phone])


async def log_out_everywhere(scene: Scene) -> Outcome:
    await scene.act(scene.ann, "POST", "/auth/logout", 204, json={"all_sessions": True})
    return Outcome([scene.ann, scene.phone])


async def end_a_session(scene: Scene) -> Outcome:
    await scene.act(scene.ann, "DELETE", f"/auth/sessions/{scene.phone.session_id}", 204)
    return Outcome([scene.phone], [scene.ann])


async def change_the_password(scene: Scene) -> Outcome:
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    await scene.act(scene.ann, "POST", "/auth/change-password", 204, json=body)
    return Outcome([scene.phone], [scene.ann])


async def reset_the_password(scene: Scene) -> Outcome:
    await scene.act(None, "POST", "/auth/forgot-password", 202, json={"email": scene.ann.email})
    mail = await scene.mail.wait_for(scene.ann.email, "reset")
    token = re.search(r"/reset-password\?token=([\w-]+)", mail.text)
    assert token, mail.text
    body = {"token": token[1], "new_password": NEW_PASSWORD}
    await scene.act(None, "POST", "/auth/reset-password", 204, json=body)
    return Outcome([scene.ann, scene.phone])


async def take_the_role(scene: Scene) -> Outcome:
    user = f"/users/{scene.ann.user_id}"
    await scene.act(scene.root, "PATCH", user, 200, json={"role": "admin"})
    await scene.act(scene.phone, "GET", "/users", 200)
    await scene.act(scene.root, "PATCH", user, 200, json={"role": "user"})
    return Outcome([scene.ann, scene.phone])


async def disable(scene: Scene) -> Outcome:
    await scene.act(scene.root, "PATCH", f"/users/{scene.ann.user_id}", 200, json={"is_active": False})
    return Outcome([scene.ann, scene.phone])


async def disable_in_bulk(scene: Scene) -> Outcome:
    body = {"action": "deactivate", "ids": [scene.ann.user_id, "nobody"]}
    await scene.act(scene.root, "POST", "/users/bulk", 200, json=body)
    return Outcome([scene.ann, scene.phone])


async def delete_another(scene: Scene) -> Outcome:
    await scene.act(scene.root, "DELETE", f"/users/{scene.ann.user_id}", 204)
    return Outcome([scene.ann, scene.phone])


async def delete_oneself(scene: Scene) -> Outcome:
    body = {"current_password": PASSWORD}
    await scene.act(scene.ann, "DELETE", f"/users/{scene.ann.user_id}", 204, json=body)
    return Outcome([scene.ann, scene.phone])


ENDINGS: list[Callable[[Scene], Awaitable[Outcome]]] = [
    log_out, log_out_everywhere, end_a_session, change_the_password, reset_the_password, take_the_role, disable,
    disable_in_bulk, delete_another, delete_oneself,
]  # fmt: skip


async def arrive(client: httpx.AsyncClient, email: str, verb: str = "register") -> Visit:
    """A new session, refreshed once: it has a spent refresh token, and two access tokens that are both good."""
    answer = await client.post(f"/api/v1/auth/{verb}", json={"email": email, "password": PASSWORD})
    assert answer.is_success, answer.text
    first = answer.json()
    answer = await client.post("/api/v1/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert answer.is_success, answer.text
    tokens = [first, answer.json()]
    session_id = jwt.decode(first["access_token"], options={"verify_signature": False})["sid"]
    names = ("access_token", "refresh_token")
    return Visit(first["user"]["id"], email, session_id, *([body[name] for body in tokens] for name in names))


async def make_admin(client: httpx.AsyncClient, database_url: str) -> Visit:
    root = await arrive(client, "root@example.com")
    await Stored(database_url).rows("UPDATE users SET role = 'admin' WHERE id = ?", root.user_id)
    return root


async def set_the_scene(client: httpx.AsyncClient, mail: MailServer, root: Visit, email: str) -> Scene:
    return Scene(client, mail, root, await arrive(client, email), await arrive(client, email, "login"))


async def refused_from_the_next_second_on(place: Place, token: str, ended: float) -> None:
    """Whoever asks a second after the ending is refused; asking earlier may find out earlier, and is never an error."""
    while time.monotonic() < ended + 1:
        answers = await place.ask(token)
        # Who was deleted is not found, before the token that says so is known to be dead.
        assert answers <= {(200, ""), (401, "SESSION_ENDED"), (404, "NOT_FOUND")}
        # Of several processes the one that did not answer may not know it yet.
        if (200, "") not in answers and place.processes == 1:
            break
        await asyncio.sleep(0.02)
    assert await place.ask(token) == {(401, "SESSION_ENDED")}


async def check_dead(places: list[Place], outcome: Outcome) -> None:
    """Every token of what has ended is refused everywhere, the spent refresh token of a lost answer too."""
    for place in places:
        for visit in outcome.dead:
            for token in visit.access:
                assert await place.ask(token) == {(401, "SESSION_ENDED")}
            for token in reversed(visit.refresh):
                answer = await place.renew(token)
                assert (answer.status_code, answer.json()["code"]) == (401, "SESSION_ENDED")


async def check_alive(places: list[Place], visits: list[Visit]) -> None:
    """The newest access tokens are good everywhere; the session can be renewed, and goes on with what that brings."""
    for visit in visits:
        answer = await places[-1].renew(visit.refresh[-1])
        assert answer.status_code == 200, answer.text
        visit.access.append(answer.json()["access_token"])
        visit.refresh.append(answer.json()["refresh_token"])
        for place in places:
            for token in visit.access[-2:]:
                assert await place.ask(token) == {(200, "")}


# On three servers that share a database: one process, another process, and one with two workers


@dataclass(frozen=True)
class Village:
    """The three servers, and people whom nothing here concerns."""

    places: list[Place]
    mail: MailServer
    root: Visit
    ben: Visit


@pytest.fixture(scope="module")
def flushable() -> Iterator[redis.Redis]:
    """A database of Redis that may be emptied."""
    client = redis.Redis.from_url(REDIS_URL)
    try:
        client.flushdb()
    except redis.ConnectionError as error:
        skip_or_fail(f"Redis is needed at TEST_REDIS_URL_TO_FLUSH ({error}): apt-get install redis, and start it")
    yield client
    client.flushdb()
    client.close()


@pytest.fixture(scope="module")
def village_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The one database; several processes are for PostgreSQL."""
    with migrated_database("postgresql", request, tmp_path_factory.mktemp("village")) as url:
        yield url


def serve(folder: Path, **settings: Any) -> Server:
    """`duly serve` for as long as the file's tests run; whoever starts it waits for it and ends it."""
    port = free_port()
    output = folder / f"server-{port}.log"
    with output.open("wb") as log:
        process = Popen(
            [executable, "-m", "duly", "serve"], cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env=environment(folder, port=port, **settings),
        )  # fmt: skip
    return Server(process, f"http://127.0.0.1:{port}", output)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def village(
    village_url: str, flushable: redis.Redis, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Village]:
    """Servers as in production, with Redis for the limits; people are at the first one."""
    async with AsyncExitStack() as stack:
        mail = MailServer()
        await mail.start()
        stack.push_async_callback(mail.stop)
        shared = {
            "database_url": village_url, "secret_key": SECRET, "redis_url": REDIS_URL, "rate_limit_enabled": "true",
            "public_url": "https://tasks.example.com", **PLENTY, **mail.settings,
        }  # fmt: skip
        servers = []
        for workers in (1, 1, 2):
            servers.append(serve(tmp_path_factory.mktemp("server"), **shared, web_concurrency=workers))
            stack.callback(servers[-1].kill)
        places = []
        for server, workers in zip(servers, (1, 1, 2), strict=True):
            await asyncio.to_thread(wait_until_ready, server)
            limits = httpx.Limits(max_keepalive_connections=0 if workers > 1 else 20)
            client = httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20, limits=limits)
            places.append(Place(await stack.enter_async_context(client), workers))
        root = await make_admin(places[0].client, village_url)
        yield Village(places, mail, root, await arrive(places[0].client, "ben@example.com"))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.covers("A032", "A035", "A048", "A049", "A050", "A053", "B045", "B046", "B047")
async def test_what_one_server_ends_is_dead_on_each_within_a_second_and_when_redis_forgets(
    village: Village, flushable: redis.Redis, end: Callable[[Scene], Awaitable[Outcome]]
) -> None:
    places = village.places
    email = f"{end.__name__.replace('_', '-')}@example.com"
    scene = await set_the_scene(places[0].client, village.mail, village.root, email)
    for place in places:
        for token in (*scene.ann.access, *scene.phone.access):
            assert await place.ask(token) == {(200, "")}
    outcome = await end(scene)
    ended = time.monotonic()
    tokens = [token for visit in outcome.dead for token in visit.access]
    for token in tokens:
        assert await places[0].ask(token) == {(401, "SESSION_ENDED")}
    await asyncio.gather(
        *(refused_from_the_next_second_on(place, token, ended) for place in places[1:] for token in tokens)
    )
    assert flushable.dbsize(), "nothing is in Redis, so emptying it shows nothing"
    flushable.flushdb()
    await check_dead(places, outcome)
    await check_alive(places, [*outcome.alive, village.ben])
    # The administrator is one of theirs everywhere, and nothing was renewed for them on the way.
    assert {status for place in places for status, _ in await place.ask(village.root.access[-1])} == {200}


# After a crash


@pytest.mark.covers("A032", "A035", "A048", "A049", "A053", "B046", "B047")
async def test_what_has_ended_on_the_one_server_is_dead_at_once_and_after_its_crash(
    start_server: StartServer, mail_server: MailServer, database_url: str
) -> None:
    settings = {"database_url": database_url, "secret_key": SECRET, **mail_server.settings}
    server = await asyncio.to_thread(start_server, **settings)
    outcomes = []
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20) as client:
        place = Place(client)
        root, ben = await make_admin(client, database_url), await arrive(client, "ben@example.com")
        for number, end in enumerate(ENDINGS):
            scene = await set_the_scene(client, mail_server, root, f"ann-{number}@example.com")
            outcomes.append(await end(scene))
            for visit in outcomes[-1].dead:
                assert await place.ask(visit.access[0]) == {(401, "SESSION_ENDED")}
            for visit in outcomes[-1].alive:
                assert await place.ask(visit.access[0]) == {(200, "")}
    server.kill()
    port = urlsplit(server.base_url).port
    server = await asyncio.to_thread(start_server, port=port, **settings)
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20) as client:
        for outcome in outcomes:
            await check_dead([Place(client)], outcome)
            await check_alive([Place(client)], outcome.alive)
        await check_alive([Place(client)], [root, ben])


# What was refused


def refused_actions(ann: Person, ben: Person, phone_id: str) -> Iterator[tuple[Person, str, str, int, dict[str, Any]]]:
    """Who tries what, and how it is refused; `ann` is the one whom it would cost a session."""
    users, wrong = "/users", {"current_password": "not-the-password-1", "new_password": NEW_PASSWORD}
    yield ann, "POST", "/auth/change-password", 403, {"json": wrong}
    yield (
        ann,
        "POST",
        "/auth/change-password",
        422,
        {"json": {"current_password": PASSWORD, "new_password": "12345678"}},
    )
    yield ann, "POST", "/auth/reset-password", 422, {"json": {"token": "never-mailed", "new_password": NEW_PASSWORD}}
    yield ann, "POST", "/auth/reset-password", 422, {"json": {"token": ann.refresh_token, "new_password": NEW_PASSWORD}}
    yield ann, "POST", "/auth/logout", 422, {"json": {"all_sessions": "perhaps"}}
    yield ann, "POST", "/auth/logout", 400, {"content": b"{", "headers": {"Content-Type": "application/json"}}
    yield ann, "DELETE", f"{users}/{ann.user_id}", 422, {}
    yield ann, "DELETE", f"{users}/{ann.user_id}", 403, {"json": {"current_password": "not-the-password-1"}}
    yield ann, "PATCH", f"{users}/{ann.user_id}", 403, {"json": {"is_active": False}}
    yield ben, "DELETE", f"/auth/sessions/{phone_id}", 404, {}
    yield ben, "DELETE", f"{users}/{ann.user_id}", 404, {"json": {"current_password": PASSWORD}}
    yield ben, "PATCH", f"{users}/{ann.user_id}", 404, {"json": {"is_active": False}}
    yield ben, "POST", f"{users}/bulk", 403, {"json": {"action": "deactivate", "ids": [ann.user_id]}}
    yield ben, "POST", f"{users}/bulk", 403, {"json": {"action": "delete", "ids": [ann.user_id]}}


def refused_to_an_admin(ann: Person, root: Person) -> Iterator[tuple[Person, str, str, int, dict[str, Any]]]:
    """The same, where the right is there and something else is in the way."""
    stale, other, own = {"headers": {"If-Match": '"99"'}}, f"/users/{ann.user_id}", f"/users/{root.user_id}"
    yield root, "PATCH", other, 412, {"json": {"is_active": False}, **stale}
    yield root, "PATCH", other, 422, {"json": {"is_active": False, "role": "owner"}}
    yield root, "DELETE", other, 412, stale
    yield root, "PATCH", own, 409, {"json": {"is_active": False}}
    yield root, "PATCH", own, 409, {"json": {"role": "user"}}
    yield root, "DELETE", own, 409, {"json": {"current_password": PASSWORD}}
    # What is so already is no change, and costs nobody a session.
    yield root, "PATCH", other, 200, {"json": {"is_active": True, "role": "user"}}


@pytest.mark.covers("A035", "A049", "A053")
async def test_what_was_refused_has_ended_nothing(api: Api, ann: Person, ben: Person, stored: Stored) -> None:
    root, phone = await api.register(), await api.log_in(ann.email)
    await stored.rows("UPDATE users SET role = 'admin' WHERE id = ?", root.user_id)
    phone_id = jwt.decode(phone.access_token, options={"verify_signature": False})["sid"]
    people = [ann, phone, ben, root]
    for who, method, path, status, options in [*refused_actions(ann, ben, phone_id), *refused_to_an_admin(ann, root)]:
        answer = await who.request(method, path, **options)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        for person in people:
            assert (await person.get("/auth/me")).status_code == 200, f"{method} {path} ended a session"
    for person in people:
        answer = await api.client.post("/api/v1/auth/refresh", json={"refresh_token": person.refresh_token})
        assert answer.status_code == 200, answer.text
    assert (await api.log_in(ann.email)).user_id == ann.user_id
