"""Guessing passwords: what locks a name, where, for how long, and who still gets in."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from duly.kit.clock import now, parse_rfc3339
from duly.kit.passwords import spare_cores
from tests.fixtures.application import PASSWORD, Api, Person, StartApp
from tests.fixtures.smtp import MailServer
from tests.fixtures.stored import Stored
from tests.mails import NEW_PASSWORD, PUBLIC_URL, forget, settle
from tests.test_users import code, promote

HOME, CAFE = "192.0.2.10", "198.51.100.20"
WRONG = "wrong-orbit-92"
REFUSED, LOCKED = (401, "INVALID_CREDENTIALS"), (423, "ACCOUNT_LOCKED")
QUARTER = timedelta(minutes=15)


@pytest.fixture
async def api(start_app: StartApp, mail_server: MailServer) -> Api:
    """Behind a proxy, so that a test can come from anywhere."""
    return await start_app(trusted_proxies="127.0.0.1", **mail_server.settings, public_url=PUBLIC_URL)


async def guess(
    api: Api, name: str, password: str = WRONG, *, at: str = HOME, path: str = "/api/v1/auth/login"
) -> httpx.Response:
    body = {"identifier": name, "password": password}
    return await api.client.post(path, json=body, headers={"X-Forwarded-For": at})


async def fail(api: Api, name: str, times: int, *, at: str = HOME) -> None:
    for _ in range(times):
        assert code(await guess(api, name, at=at)) == REFUSED


async def let_pass(stored: Stored, time: timedelta) -> None:
    """Make every failure, and with it every lock, so much older."""
    rows = await stored.rows("SELECT name_key, network_key, window_started_at, locked_until FROM login_failures")
    for name_key, network_key, *moments in rows:
        begun, until = (parse_rfc3339(value) if isinstance(value, str) else value for value in moments)
        await stored.rows(
            "UPDATE login_failures SET window_started_at = ?, locked_until = ? WHERE name_key = ? AND network_key = ?",
            begun - time, None if until is None else until - time, name_key, network_key,
        )  # fmt: skip


async def nearly_fifty(api: Api, stored: Stored, name: str) -> None:
    """One failure short of the lock everywhere: fifty real ones are in one test and would be slow in each."""
    await fail(api, name, 1, at="203.0.113.1")
    await stored.rows("UPDATE login_failures SET failures = 49 WHERE network_key = ''")


async def count(stored: Stored, what: str = "1 = 1") -> int:
    found: int = await stored.value(f"SELECT count(*) FROM login_failures WHERE {what}")
    return found


async def events(stored: Stored, event: str) -> int:
    found: int = await stored.value("SELECT count(*) FROM audit_log WHERE event = ?", event)
    return found


# One network


@pytest.mark.covers("A092", "A091", "A039")
async def test_five_failures_lock_a_name_for_their_network_alone(api: Api, stored: Stored) -> None:
    ann = await api.register("ann@example.com", username="ann-b")
    await api.register("ben@example.com")
    for number, name in enumerate(("ann@example.com", "ann-b", "ANN@Example.com", "Ann-B", " ann@example.com ")):
        assert code(await guess(api, name, WRONG + str(number))) == REFUSED
    for name in ("ann@example.com", "ann-b"):
        for password in (PASSWORD, WRONG):
            locked = await guess(api, name, password)
            assert code(locked) == LOCKED
            assert 880 < int(locked.headers["retry-after"]) <= 900
    assert (await guess(api, "ann-b", PASSWORD, at=CAFE)).status_code == 200
    assert (await guess(api, "ben@example.com", PASSWORD)).status_code == 200
    assert (await ann.get("/auth/me")).status_code == 200
    assert (await events(stored, "user.login_failed"), await events(stored, "user.locked")) == (5, 1)
    # What came in from elsewhere forgave nothing here.
    assert code(await guess(api, "ann-b", PASSWORD)) == LOCKED


@pytest.mark.covers("A092")
async def test_a_success_forgives_what_failed_here_before(api: Api, stored: Stored) -> None:
    ann = await api.register("ann@example.com")
    for _ in range(2):
        await fail(api, ann.email, 4)
        await fail(api, ann.email, 1, at=CAFE)
        assert (await guess(api, ann.email, PASSWORD)).status_code == 200
    await fail(api, ann.email, 2, at=CAFE)
    assert (await guess(api, ann.email, PASSWORD, at=CAFE)).status_code == 200
    assert await count(stored, "network_key <> ''") == 0
    assert await stored.value("SELECT failures FROM login_failures WHERE network_key = ''") == 12


@pytest.mark.covers("A092")
async def test_the_lock_opens_after_a_quarter_of_an_hour_and_not_before(api: Api, stored: Stored) -> None:
    ann = await api.register("ann@example.com")
    await fail(api, ann.email, 5)
    await let_pass(stored, QUARTER - timedelta(seconds=20))
    locked = await guess(api, ann.email, PASSWORD)
    assert code(locked) == LOCKED
    assert 1 <= int(locked.headers["retry-after"]) <= 20
    await let_pass(stored, timedelta(seconds=20))
    await fail(api, ann.email, 4)
    assert (await guess(api, ann.email, PASSWORD)).status_code == 200


@pytest.mark.covers("A092")
async def test_failures_that_are_a_quarter_of_an_hour_apart_do_not_add_up(api: Api, stored: Stored) -> None:
    ann = await api.register("ann@example.com")
    await fail(api, ann.email, 4)
    await let_pass(stored, QUARTER)
    await fail(api, ann.email, 4)
    assert (await guess(api, ann.email, PASSWORD)).status_code == 200


@pytest.mark.covers("A092")
async def test_guesses_that_were_under_way_do_not_open_a_lock_when_its_window_ends(api: Api, stored: Stored) -> None:
    ann = await api.register("ann@example.com")
    late = [asyncio.create_task(guess(api, ann.email)) for _ in range(64)]
    while not await count(stored, "locked_until IS NOT NULL"):  # noqa: ASYNC110 - only the table says so
        await asyncio.sleep(0.01)
    # The window began long ago, and the lock was set a moment ago.
    await stored.rows("UPDATE login_failures SET window_started_at = ?", now() - QUARTER - timedelta(seconds=1))
    assert judged(await asyncio.gather(*late)) <= 5 + spare_cores()
    assert code(await guess(api, ann.email, PASSWORD)) == LOCKED


def shape(response: httpx.Response) -> tuple[Any, ...]:
    """All that a client sees but the request's own id and the seconds that pass."""
    headers = {name: value for name, value in response.headers.items() if name not in {"x-request-id", "retry-after"}}
    body = response.json()
    assert body.pop("request_id")
    return response.status_code, body, headers, "retry-after" in response.headers


@pytest.mark.covers("A092", "A034")
async def test_unknown_names_lock_alike(api: Api, stored: Stored, mail_server: MailServer) -> None:
    await api.register("ann@example.com", username="ann-b")
    await api.register("off@example.com")
    await stored.rows("UPDATE users SET is_active = ? WHERE email = ?", False, "off@example.com")
    names = ("ann@example.com", "nobody@example.com", "nobody", "off@example.com", "", "no body \U0001f600")
    sequences = [[shape(await guess(api, name)) for _ in range(8)] for name in names]
    assert [answer[0] for answer in sequences[0]] == [401] * 5 + [423] * 3
    assert all(sequence == sequences[0] for sequence in sequences)
    assert await count(stored) == 12
    # The address of an account that comes later is not locked by what was tried before it was one.
    await api.register("nobody@example.com")
    assert (await guess(api, "nobody@example.com", PASSWORD)).status_code == 200


# Many at once


def judged(answers: Sequence[httpx.Response]) -> int:
    """How many were told that they were wrong."""
    assert {code(answer) for answer in answers} <= {REFUSED, LOCKED}
    return [answer.status_code for answer in answers].count(401)


@pytest.mark.covers("A092")
@pytest.mark.parametrize("path", ["/api/v1/auth/login", "/api/admins/login"])
async def test_of_64_guesses_at_once_no_more_than_five_are_judged(api: Api, stored: Stored, path: str) -> None:
    ann = await api.register("ann@example.com")
    if "admins" not in path:
        await promote(stored, ann)
    passwords = [f"{WRONG}-{number}" for number in range(63)] + [PASSWORD]
    answers = await asyncio.gather(*(guess(api, ann.email, password, path=path) for password in passwords))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {401, 423}
    assert statuses.count(401) <= 5 + spare_cores()
    # The right one is told what the wrong ones beyond the limit are told, to the letter.
    assert statuses[-1] == 423
    bodies = {tuple(sorted((k, v) for k, v in answer.json().items() if k != "request_id"))
              for answer in answers if answer.status_code == 423}  # fmt: skip
    assert len(bodies) == 1
    assert (await guess(api, ann.email, PASSWORD, path=path)).status_code == 423
    assert await events(stored, "user.logged_in") == 0


@pytest.mark.covers("A092")
async def test_of_many_wrong_current_passwords_at_once_no_more_than_five_are_judged(api: Api, ann: Person) -> None:
    passwords = [f"{WRONG}-{number}" for number in range(31)] + [PASSWORD]
    answers = await asyncio.gather(
        *(
            ann.post("/auth/change-password", json={"current_password": password, "new_password": NEW_PASSWORD})
            for password in passwords
        )
    )
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {403, 423}
    assert statuses.count(403) <= 5 + spare_cores()
    assert (await guess(api, ann.email, NEW_PASSWORD)).status_code == 401


# From anywhere


@pytest.mark.covers("A092")
async def test_fifty_failures_from_anywhere_lock_the_name_and_tell_the_owner_once(
    api: Api, stored: Stored, mail_server: MailServer
) -> None:
    await api.register("ann@example.com", username="ann-b")
    for network in range(10):
        for number in range(5):
            name = "ann@example.com" if number % 2 else "Ann-B"
            assert code(await guess(api, name, at=f"203.0.113.{network}")) == REFUSED, (network, number)
    for password in (PASSWORD, WRONG):
        locked = await guess(api, "ann@example.com", password, at=CAFE)
        assert code(locked) == LOCKED
        assert 850 < int(locked.headers["retry-after"]) <= 900
    await mail_server.wait_for("ann@example.com", "locked")
    await settle(stored)
    assert len([mail for mail in mail_server.to("ann@example.com") if "locked" in mail.subject.lower()]) == 1
    scopes = [row[0] for row in await stored.rows("SELECT details FROM audit_log WHERE event = 'user.locked'")]
    assert sum("everywhere" in scope for scope in scopes) == 1
    await let_pass(stored, QUARTER)
    assert (await guess(api, "ann-b", PASSWORD, at=CAFE)).status_code == 200


@pytest.mark.covers("A092")
async def test_unknown_names_are_locked_everywhere_too_and_nobody_is_told(
    api: Api, stored: Stored, mail_server: MailServer
) -> None:
    await nearly_fifty(api, stored, "nobody@example.com")
    assert code(await guess(api, "nobody@example.com")) == REFUSED
    assert code(await guess(api, "nobody@example.com", at=CAFE)) == LOCKED
    await settle(stored)
    assert mail_server.messages == []
    assert await stored.value("SELECT count(*) FROM outbox WHERE kind = 'account_locked'") == 1


@pytest.mark.covers("A092")
async def test_an_owner_with_a_live_session_is_not_locked_out(api: Api, stored: Stored) -> None:
    ann = await api.register("ann@example.com")
    await nearly_fifty(api, stored, ann.email)
    await fail(api, ann.email, 1)
    assert code(await guess(api, ann.email, PASSWORD, at=CAFE)) == LOCKED
    assert (await ann.get("/auth/me")).status_code == 200
    renewed = await api.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})
    assert renewed.status_code == 200
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert (await ann.post("/auth/change-password", json=change)).status_code == 204
    assert (await ann.get("/auth/me")).status_code == 200
    # The sessions' own count goes on, and what they get wrong is no news for the world.
    wrong = await ann.post("/auth/change-password", json=change)
    assert code(wrong) == (403, "WRONG_PASSWORD")
    assert await stored.value("SELECT failures FROM login_failures WHERE network_key = ''") == 50


@pytest.mark.covers("A092")
async def test_a_reset_by_mail_lifts_every_lock(api: Api, stored: Stored, mail_server: MailServer) -> None:
    ann = await api.register("ann@example.com")
    await nearly_fifty(api, stored, ann.email)
    await fail(api, ann.email, 1)
    assert code(await guess(api, ann.email, PASSWORD)) == LOCKED
    token = await forget(api, mail_server, ann.email)
    body = {"token": token, "new_password": NEW_PASSWORD}
    assert (await api.client.post("/api/v1/auth/reset-password", json=body)).status_code == 204
    assert (await guess(api, ann.email, NEW_PASSWORD)).status_code == 200
    assert (await count(stored), await events(stored, "user.unlocked")) == (0, 1)


@pytest.mark.covers("A092")
async def test_an_administrator_lifts_every_lock(api: Api, ann: Person, ben: Person, stored: Stored) -> None:
    await promote(stored, ben)
    await nearly_fifty(api, stored, ann.email)
    for name in ("ann", "other"):
        await fail(api, ann.email if name == "ann" else "other@example.com", 1)
    assert code(await guess(api, ann.email, PASSWORD)) == LOCKED
    for _ in range(2):  # nothing to lift is no error, and no event
        answer = await ben.post(f"/users/{ann.user_id}/unlock")
        assert (answer.status_code, answer.content) == (204, b"")
    assert (await guess(api, ann.email, PASSWORD)).status_code == 200
    assert await events(stored, "user.unlocked") == 1
    assert code(await ben.post("/users/nobody/unlock")) == (404, "NOT_FOUND")
    assert code(await ann.post(f"/users/{ann.user_id}/unlock")) == (403, "FORBIDDEN")
    assert await count(stored) == 2  # the other name's


# Sessions that are asked for their password


@pytest.mark.covers("A092")
async def test_a_wrong_current_password_counts_in_its_session_alone(api: Api, ann: Person, stored: Stored) -> None:
    other = await api.log_in(ann.email)
    path, email = f"/users/{ann.user_id}", {"new_email": "new@example.com"}
    wrong, right = {"current_password": WRONG}, {"current_password": PASSWORD}
    change = {"new_password": NEW_PASSWORD}
    answers = [
        await ann.post("/auth/change-password", json={**wrong, **change}),
        await ann.delete(path, json=wrong),
        await ann.post("/users/me/change-email", json={**wrong, **email}),
        await ann.delete(path, json=wrong),
        await ann.post("/auth/change-password", json={**wrong, **change}),
    ]
    assert [code(answer) for answer in answers] == [(403, "WRONG_PASSWORD")] * 5
    for answer in (
        await ann.delete(path, json=right), await ann.post("/auth/change-password", json={**right, **change}),
        await ann.post("/users/me/change-email", json={**right, **email}),
    ):  # fmt: skip
        assert code(answer) == LOCKED
        assert 880 < int(answer.headers["retry-after"]) <= 900
    assert await events(stored, "user.login_failed") == 5
    assert (await ann.get("/auth/me")).status_code == 200
    assert (await guess(api, ann.email, PASSWORD)).status_code == 200
    assert await count(stored) == 1
    assert (await other.post("/auth/change-password", json={**right, **change})).status_code == 204


@pytest.mark.covers("A092")
async def test_a_right_current_password_forgives(api: Api, ann: Person, stored: Stored) -> None:
    for _ in range(2):
        for _ in range(4):
            assert code(await ann.delete(f"/users/{ann.user_id}", json={"current_password": WRONG})) == (
                403, "WRONG_PASSWORD",
            )  # fmt: skip
        right = {"current_password": PASSWORD, "new_email": "new@example.com"}
        assert (await ann.post("/users/me/change-email", json=right)).status_code == 202
    assert await count(stored) == 0


# What is left behind


async def test_old_counts_leave_no_rows(start_app: StartApp, stored: Stored) -> None:
    moments: dict[str, tuple[datetime, datetime | None]] = {
        "old": (now() - timedelta(minutes=31), None), "older": (now() - timedelta(days=3), now() - timedelta(days=2)),
        "young": (now() - timedelta(minutes=14), None),
        "locked": (now() - timedelta(minutes=29), now() + timedelta(seconds=30)),
    }  # fmt: skip
    for name, (begun, until) in moments.items():
        await stored.rows("INSERT INTO login_failures VALUES (?, ?, ?, ?, ?)", name, "", 3, begun, until)
    await start_app()
    for _ in range(200):
        if await count(stored) == 2:
            break
        await asyncio.sleep(0.02)
    rows = await stored.rows("SELECT name_key FROM login_failures ORDER BY name_key")
    assert [row[0] for row in rows] == ["locked", "young"]
