"""An ended session is dead everywhere: on every server within a second, after a restart, and when nobody can look."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

import httpx
import jwt
import pytest

from duly.db.database import open_database
from duly.identity.revocations import MAX_AGE_SECONDS, Revocations
from duly.kit.clock import now
from duly.settings import Settings
from tests.fixtures.application import PASSWORD, Api, Person, StartApp
from tests.fixtures.server import StartServer
from tests.fixtures.stored import Stored
from tests.fixtures.wire import wire_to

postgresql_only = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
sqlite_only = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


async def me(api: Api, token: str) -> httpx.Response:
    return await api.client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"})


async def refresh(api: Api, token: str) -> httpx.Response:
    return await api.client.post("/api/v1/auth/refresh", json={"refresh_token": token})


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def sid(token: str) -> str:
    found: str = jwt.decode(token, options={"verify_signature": False})["sid"]
    return found


async def refused_from_the_next_second_on(api: Api, token: str, ended: float) -> None:
    """Whoever asks a second after the ending is refused; asking earlier may find out earlier, and is never an error."""
    while time.monotonic() < ended + 1:
        answer = await me(api, token)
        if answer.status_code == 401:
            break
        assert answer.status_code == 200
        await asyncio.sleep(0.02)
    assert code(await me(api, token)) == (401, "SESSION_ENDED")


async def log_out(first: Api, ann: Person) -> None:
    assert (await ann.post("/auth/logout")).status_code == 204


async def log_out_everywhere(first: Api, ann: Person) -> None:
    other = await first.log_in(ann.email)
    assert (await other.post("/auth/logout", json={"all_sessions": True})).status_code == 204


async def end_from_another(first: Api, ann: Person) -> None:
    other = await first.log_in(ann.email)
    assert (await other.delete(f"/auth/sessions/{sid(ann.access_token)}")).status_code == 204


async def replay(first: Api, ann: Person) -> None:
    child = (await refresh(first, ann.refresh_token)).json()
    assert (await refresh(first, child["refresh_token"])).status_code == 200
    assert code(await refresh(first, ann.refresh_token)) == (401, "TOKEN_REUSED")


# On another server


@pytest.mark.parametrize("end", [log_out, log_out_everywhere, end_from_another, replay])
@pytest.mark.covers("A032", "A048", "A049", "A053", "A135", "B046", "B047")
async def test_what_one_server_ends_is_over_on_the_other(
    start_app: StartApp, end: Callable[[Api, Person], Awaitable[None]]
) -> None:
    first, second = await start_app(), await start_app()
    ann, ben = await first.register("ann@example.com"), await first.register("ben@example.com")
    for person in (ann, ben):
        assert (await me(second, person.access_token)).status_code == 200
    await end(first, ann)
    ended = time.monotonic()
    assert code(await me(first, ann.access_token)) == (401, "SESSION_ENDED")
    await refused_from_the_next_second_on(second, ann.access_token, ended)
    assert code(await refresh(second, ann.refresh_token)) == (401, "SESSION_ENDED")
    assert (await me(second, ben.access_token)).status_code == 200


async def test_logging_out_everywhere_reaches_every_session_on_every_server(start_app: StartApp) -> None:
    first, second = await start_app(), await start_app()
    ann = await first.register("ann@example.com")
    sessions = [ann, *[await api.log_in(ann.email) for api in (first, second, first, second)]]
    for session in sessions:
        for api in (first, second):
            assert (await me(api, session.access_token)).status_code == 200
    assert (await sessions[2].post("/auth/logout", json={"all_sessions": True})).status_code == 204
    ended = time.monotonic()
    for session in sessions:
        for api in (first, second):
            await refused_from_the_next_second_on(api, session.access_token, ended)
    assert (await me(second, (await first.log_in(ann.email)).access_token)).status_code == 200


# After a restart


@pytest.mark.covers("A023", "A032", "B046")
async def test_a_server_that_starts_knows_every_ending_that_counts(
    start_app: StartApp, stored: Stored, ann: Person
) -> None:
    await ann.post("/auth/logout")
    # Ended long ago, and a token of it might still be alive: a start reads more than the latest minute.
    await stored.rows("UPDATE blacklisted_tokens SET created_at = ?", now() - timedelta(minutes=10))
    assert code(await me(await start_app(), ann.access_token)) == (401, "SESSION_ENDED")


@sqlite_only
def test_an_ending_that_was_answered_survives_a_crash(start_server: StartServer, database_url: str) -> None:
    server = start_server(database_url=database_url)
    with httpx.Client(base_url=server.base_url, trust_env=False, timeout=20) as client:
        body = {"email": "ann@example.com", "password": PASSWORD}
        tokens = client.post("/api/v1/auth/register", json=body).json()
        headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        assert client.post("/api/v1/auth/logout", headers=headers).status_code == 204
    server.kill()
    server = start_server(port=int(server.base_url.rpartition(":")[2]), database_url=database_url)
    with httpx.Client(base_url=server.base_url, trust_env=False, timeout=20) as client:
        assert code(client.get("/api/v1/auth/me", headers=headers)) == (401, "SESSION_ENDED")
        answer = client.post("/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
        assert code(answer) == (401, "SESSION_ENDED")


async def test_an_ending_is_kept_until_no_token_of_the_session_can_be_alive(
    start_app: StartApp, stored: Stored
) -> None:
    api = await start_app(jwt_expiration_hours=2)
    ann = await api.register("ann@example.com")
    await ann.post("/auth/logout")
    until = await stored.moment("SELECT expires_at FROM blacklisted_tokens")
    expires = jwt.decode(ann.access_token, options={"verify_signature": False})["exp"]
    assert until
    assert until.timestamp() >= expires


async def test_what_cannot_be_alive_any_more_is_forgotten(database_url: str) -> None:
    database = await open_database(Settings(_env_file=None, database_url=database_url))
    revocations = Revocations()
    revocations.add("over", time.time() - 1)
    revocations.add("live", time.time() + 60)
    await revocations.confirm(database)
    assert (revocations.is_ended("over"), revocations.is_ended("live")) == (False, True)
    await database.close()


# When nobody can look


async def answers_with(status: int, ask: Callable[[], Awaitable[httpx.Response]], seconds: float = 10) -> None:
    """Ask until the answer has this status, for a bounded time."""
    deadline = time.monotonic() + seconds
    while (answer := await ask()).status_code != status:
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.05)


@postgresql_only
@pytest.mark.covers("C128", "D070")
async def test_without_the_database_nobody_passes_and_all_is_well_after(start_app: StartApp, database_url: str) -> None:
    async with wire_to(database_url) as (wire, wired_url):
        api, other = await start_app(database_url=wired_url), await start_app()
        ann, ben = await api.register("ann@example.com"), await api.register("ben@example.com")

        async def act_without_the_database() -> httpx.Response:
            # Refused for its field before anything is stored: only the guard needs the database.
            return await ann.post("/tasks", json={"title": 5})

        assert (await act_without_the_database()).status_code == 422
        wire.cut()
        assert code(await me(api, ann.access_token)) == (503, "DATABASE_UNAVAILABLE")
        await answers_with(503, act_without_the_database)
        for answer in (await act_without_the_database(), await me(api, ann.access_token), await ben.get("/tasks")):
            assert code(answer) == (503, "DATABASE_UNAVAILABLE")
            assert int(answer.headers["retry-after"]) > 0
        assert (await api.client.get("/api/v1/auth/me")).status_code == 401
        headers = {"Authorization": f"Bearer {ben.access_token}"}
        assert (await other.client.post("/api/v1/auth/logout", headers=headers)).status_code == 204
        wire.mend()
        # What was ended meanwhile is not missed.
        await answers_with(200, lambda: me(api, ann.access_token))
        assert code(await me(api, ben.access_token)) == (401, "SESSION_ENDED")


@postgresql_only
@pytest.mark.covers("C128", "D070")
async def test_a_silent_database_is_told_to_all_who_wait_at_once(start_app: StartApp, database_url: str) -> None:
    async with wire_to(database_url) as (wire, wired_url):
        api = await start_app(database_url=wired_url)
        ann = await api.register("ann@example.com")
        wire.silence()
        async with asyncio.timeout(25):
            await asyncio.sleep(MAX_AGE_SECONDS + 0.1)  # what is known of the ended sessions has become too old
            # Each of 40 that waited for its turn to ask would need minutes.
            answers = await asyncio.gather(*(ann.post("/tasks", json={"title": 5}) for _ in range(40)))
        assert {code(answer) for answer in answers} == {(503, "DATABASE_UNAVAILABLE")}
        wire.mend()
        await answers_with(200, lambda: me(api, ann.access_token))


async def test_a_list_that_cannot_be_read_lets_nobody_pass_until_it_can(api: Api, ann: Person, stored: Stored) -> None:
    await stored.rows("ALTER TABLE blacklisted_tokens RENAME TO away")
    await answers_with(503, lambda: me(api, ann.access_token))
    await stored.rows("ALTER TABLE away RENAME TO blacklisted_tokens")
    await answers_with(200, lambda: me(api, ann.access_token))
    await ann.post("/auth/logout")
    assert code(await me(api, ann.access_token)) == (401, "SESSION_ENDED")
