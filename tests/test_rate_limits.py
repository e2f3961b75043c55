"""How often a caller may ask, and what they are told when it was too often."""

import asyncio
import dataclasses
import itertools
import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from limits import RateLimitItemPerMinute

from duly.app import create_app
from duly.limits.windows import OwnWindows, Window
from duly.settings import Settings, SettingsFault
from tests.commands import refusal, run_duly
from tests.fixtures.accounts import check_refusal
from tests.fixtures.application import PASSWORD, Api, StartApp
from tests.fixtures.stored import Stored
from tests.test_client_networks import SAME

# Counting knows no database. What writes to one says so by leaving this out.
once = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
# The lane serves /tasks before any middleware to those who want no compression, and behind them to others.
each_way = pytest.mark.parametrize("encoding", ["identity", "gzip"])
STANDING = re.compile(r'"(\w+)";r=(\d+);t=(\d+)')
ME, TASKS = "/api/v1/auth/me", "/api/v1/tasks"
LOGIN = {"email": "nobody@example.com", "password": PASSWORD}
MEASURES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "login": [("/api/v1/auth/login", LOGIN), ("/api/users/login", {"identifier": "nobody", "password": PASSWORD})],
    "register": [("/api/v1/auth/register", {}), ("/api/users/register", {}), ("/api/admins/register", {})],
    "refresh": [("/api/v1/auth/refresh", {"refresh_token": "none"}), ("/api/users/refresh", {})],
    "mail": [
        ("/api/v1/auth/forgot-password", {"email": "nobody@example.com"}), ("/api/v1/auth/verify-email", {}),
        ("/api/password/forgot-password", {}), ("/api/v1/auth/reset-password", {}),
    ],
}  # fmt: skip


def standing(answer: httpx.Response) -> tuple[str, int, int]:
    """Policy, requests left and seconds from the `RateLimit` header."""
    found = STANDING.fullmatch(answer.headers["ratelimit"])
    assert found is not None, answer.headers
    return found[1], int(found[2]), int(found[3])


def check_too_many(answer: httpx.Response, policy: str) -> int:
    """What holds for every 429; the seconds to wait."""
    assert answer.status_code == 429, answer.text
    wait = int(answer.headers["retry-after"])
    assert wait >= 1
    assert standing(answer) == (policy, 0, wait)
    return wait


async def ask(api: Api, times: int, path: str = ME, **options: Any) -> list[int]:
    """The statuses of some GETs, one after the other."""
    return [(await api.client.get(path, **options)).status_code for _ in range(times)]


def seen_from(app: FastAPI, address: str) -> httpx.AsyncClient:
    """A client whose connection comes from `address`."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 50000))
    return httpx.AsyncClient(transport=transport, base_url="http://testserver", trust_env=False)


@once
@pytest.mark.covers("A104", "D025", "B055", "A091")
async def test_of_201_anonymous_requests_from_one_address_within_an_hour_the_last_is_turned_away(
    start_app: StartApp,
) -> None:
    api = await start_app(rate_limit_enabled=True)
    for number in range(200):
        answer = await api.client.get((ME, "/", "/api/v1/nowhere", TASKS)[number % 4])
        assert answer.status_code != 429, number
        assert answer.headers["ratelimit-policy"] == '"anonymous";q=200;w=3600'
        assert standing(answer)[:2] == ("anonymous", 199 - number)
        assert 3590 <= standing(answer)[2] <= 3600
    refused = await api.client.get(ME)
    assert 3500 < check_too_many(refused, "anonymous") <= 3600
    assert refused.headers["ratelimit-policy"] == '"anonymous";q=200;w=3600'
    assert refused.headers["content-type"] == "application/problem+json"
    body = refused.json()
    assert (body["status"], body["code"], body["title"]) == (429, "RATE_LIMITED", "Too many requests")
    assert body["request_id"] == refused.headers["x-request-id"]
    async with seen_from(api.app, "192.0.2.9") as other:
        assert standing(await other.get(ME))[:2] == ("anonymous", 199)


@once
@pytest.mark.covers("D068")
async def test_the_third_of_two_allowed_requests_is_refused_in_the_shape_of_the_accounts(start_app: StartApp) -> None:
    api = await start_app(rate_limit_enabled=True, rate_limit_anonymous="2/hour")
    assert await ask(api, 2, "/api/users/me") == [401, 401]
    for path in ("/api/users/me", "/api/admins/", "/api/password/nowhere"):
        refused = await api.client.get(path)
        check_refusal(refused, 429, "RateLimitError")
        check_too_many(refused, "anonymous")


@once
async def test_a_token_that_is_not_good_makes_nobody_a_user(start_app: StartApp) -> None:
    api = await start_app(rate_limit_enabled=True, rate_limit_anonymous="6/hour", rate_limit_user="50/hour")
    ann = await api.register()
    assert (await ann.post("/auth/logout")).status_code == 204
    signs = ["Bearer x", "Bearer a.b.c", "Basic eDp5", "Bearer", f"Bearer {ann.access_token}",
             f"Bearer {ann.access_token[:-2]}"]  # fmt: skip
    for left, (sign, path) in enumerate(zip(signs, itertools.cycle((TASKS, ME)), strict=False), start=1):
        answer = await api.client.get(path, headers={"Authorization": sign})
        assert (answer.status_code, standing(answer)[:2]) == (401, ("anonymous", 6 - left))
    check_too_many(await api.client.get(TASKS, headers={"Authorization": signs[1]}), "anonymous")
    check_too_many(await api.client.get(TASKS), "anonymous")


@once
@pytest.mark.parametrize("kind", MEASURES)
async def test_login_register_refresh_and_mail_have_limits_of_their_own(kind: str, start_app: StartApp) -> None:
    api = await start_app(
        rate_limit_enabled=True, rate_limit_anonymous="1/hour", **{f"rate_limit_{kind}": "3/minute;9/hour"}
    )
    places = itertools.cycle(MEASURES[kind])
    for left in (2, 1, 0):
        path, body = next(places)
        answer = await api.client.post(path, json=body)
        assert answer.status_code != 429
        assert answer.headers["ratelimit-policy"] == f'"{kind}";q=3;w=60, "{kind}";q=9;w=3600'
        assert standing(answer)[:2] == (kind, left)
    for path, body in MEASURES[kind]:
        assert 1 <= check_too_many(await api.client.post(path, json=body), kind) <= 60
    assert await ask(api, 2) == [401, 429]


@once
@pytest.mark.parametrize("rates", ["2/second;3/hour", "3/hour;2/second"])
async def test_several_windows_hold_at_once_and_none_counts_what_another_refuses(
    rates: str, start_app: StartApp
) -> None:
    api = await start_app(rate_limit_enabled=True, rate_limit_anonymous=rates)
    assert await ask(api, 2) == [401, 401]
    for _ in range(5):
        assert check_too_many(await api.client.get(ME), "anonymous") == 1
    await asyncio.sleep(1.05)
    third = await api.client.get(ME)
    assert (third.status_code, standing(third)[1]) == (401, 0)
    await asyncio.sleep(2.0)
    assert check_too_many(await api.client.get(ME), "anonymous") > 3500


@once
async def test_whoever_waits_as_told_is_let_in(start_app: StartApp) -> None:
    api = await start_app(rate_limit_enabled=True, rate_limit_anonymous="3/2 second")
    waits = []
    for _ in range(3):
        while (answer := await api.client.get(ME)).status_code != 429:
            pass
        waits.append(check_too_many(answer, "anonymous"))
        await asyncio.sleep(waits[-1])
        assert await ask(api, 1) == [401], waits


@once
@each_way
async def test_the_sessions_of_one_user_count_together_on_the_lane_and_off_it(
    encoding: str, start_app: StartApp
) -> None:
    api = await start_app(rate_limit_enabled=True, rate_limit_user="5/hour", rate_limit_anonymous="1/hour")
    ann, ben = await api.register(), await api.register()
    again = await api.log_in(ann.email)
    left = []
    for person, path in [(ann, "/tasks"), (again, "/auth/me"), (ann, "/tasks"), (again, "/tasks"), (ann, "/auth/me")]:
        answer = await person.get(path, headers={"Accept-Encoding": encoding})
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == '"user";q=5;w=3600'
        left.append(standing(answer)[:2])
    assert left == [("user", number) for number in (4, 3, 2, 1, 0)]
    for person, path in itertools.product((ann, again), ("/tasks", "/auth/me")):
        assert check_too_many(await person.get(path, headers={"Accept-Encoding": encoding}), "user") > 3500
    check_too_many(await ann.post("/tasks", json={"title": "Too much"}), "user")
    assert (await ben.get("/tasks")).status_code == 200
    assert await ask(api, 1) == [401]


@once
@each_way
@pytest.mark.parametrize("path", ["/tasks", "/auth/me"])
async def test_of_a_crowd_at_once_exactly_as_many_pass_as_may(path: str, encoding: str, start_app: StartApp) -> None:
    way = {"Accept-Encoding": encoding}
    api = await start_app(rate_limit_enabled=True, rate_limit_user="5/hour", rate_limit_anonymous="7/hour")
    ann = await api.register()
    statuses = [answer.status_code for answer in await asyncio.gather(*(ann.get(path, headers=way) for _ in range(30)))]
    assert sorted(statuses) == [200] * 5 + [429] * 25
    crowd = await asyncio.gather(*(api.client.get(f"/api/v1{path}", headers=way) for _ in range(30)))
    assert sorted(answer.status_code for answer in crowd) == [401] * 7 + [429] * 23


@once
@each_way
@pytest.mark.parametrize("at_once", [1, 40])
async def test_a_busy_user_who_is_counted_in_batches_gets_all_and_no_more(
    at_once: int, encoding: str, start_app: StartApp
) -> None:
    api = await start_app(rate_limit_enabled=True, rate_limit_user="800/hour")
    ann = await api.register()
    passed = 0
    for _ in range(840 // at_once):
        asked = (ann.get("/tasks?limit=1", headers={"Accept-Encoding": encoding}) for _ in range(at_once))
        answers = await asyncio.gather(*asked)
        passed += sum(answer.status_code == 200 for answer in answers)
    assert passed == 800


@once
async def test_what_is_left_of_a_batch_is_not_lost_when_its_owner_pauses(start_app: StartApp) -> None:
    api = await start_app(rate_limit_enabled=True, rate_limit_user="20000/hour")
    ann = await api.register()
    for _ in range(128):  # batches of 1, 2, 4 … 64, and the first of a hundred
        assert (await ann.get("/tasks?limit=1", headers={"Accept-Encoding": "identity"})).status_code == 200
    for used in (129, 130):
        await asyncio.sleep(1.05)
        assert standing(await ann.get("/tasks?limit=1"))[:2] == ("user", 20000 - used)


@once
async def test_health_checks_and_preflights_are_free(start_app: StartApp) -> None:
    origin = "https://app.example.com"
    api = await start_app(rate_limit_enabled=True, rate_limit_anonymous="1/hour", cors_origins=origin)
    ask_first = {"Origin": origin, "Access-Control-Request-Method": "GET"}
    for _ in range(3):
        for path in ("/health", "/health/live", "/health/ready", "/health/db", "/health/redis"):
            answer = await api.client.get(path)
            assert answer.status_code == 200
            assert "ratelimit" not in answer.headers
        assert (await api.client.options(TASKS, headers=ask_first)).status_code == 200
    assert await ask(api, 2) == [401, 429]
    assert await ask(api, 1, "/health/ready") == [200]
    assert (await api.client.options(TASKS, headers=ask_first)).status_code == 200


@once
async def test_a_browser_may_read_that_it_was_turned_away(start_app: StartApp) -> None:
    origin = "https://app.example.com"
    api = await start_app(rate_limit_enabled=True, rate_limit_anonymous="1/hour", rate_limit_user="1/hour",
                          cors_origins=origin)  # fmt: skip
    ann = await api.register()
    for ask_as, path in ((api.client.get, TASKS), (ann.get, "/tasks"), (ann.get, "/auth/me")):
        await ask_as(path, headers={"Origin": origin})
        refused = await ask_as(path, headers={"Origin": origin})
        assert refused.status_code == 429
        assert refused.headers["access-control-allow-origin"] == origin
        exposed = refused.headers["access-control-expose-headers"].lower()
        assert {"retry-after", "ratelimit", "ratelimit-policy"} <= set(exposed.split(", "))
        stranger = await ask_as(path, headers={"Origin": "https://evil.example"})
        assert stranger.status_code == 429
        assert "access-control-allow-origin" not in stranger.headers


@once
@pytest.mark.covers("A038")
async def test_only_a_trusted_proxy_says_who_its_caller_is(start_app: StartApp) -> None:
    for proxies in ({}, {"trusted_proxies": "10.0.0.0/8"}):
        api = await start_app(rate_limit_enabled=True, rate_limit_anonymous="3/hour", **proxies)
        forged = [{"X-Forwarded-For": f"203.0.113.{number}", "Forwarded": f"for=203.0.113.{number}",
                   "X-Real-IP": f"203.0.113.{number}"} for number in range(4)]  # fmt: skip
        assert [await ask(api, 1, headers=headers) for headers in forged] == [[401]] * 3 + [[429]]
    api = await start_app(rate_limit_enabled=True, rate_limit_anonymous="3/hour", trusted_proxies="127.0.0.1")
    for client in ("203.0.113.1", "203.0.113.2"):
        chains = [client, f"1.1.1.1, {client}", f"{client}, 127.0.0.1", f"9.9.9.9, {client}:4000, 127.0.0.1"]
        found = [await ask(api, 1, headers={"X-Forwarded-For": chain}) for chain in chains]
        assert found == [[401]] * 3 + [[429]], client


@once
@pytest.mark.covers("A038", "D025")
@pytest.mark.parametrize("behind_proxy", [False, True])
async def test_an_address_is_one_caller_in_every_spelling(behind_proxy: bool, start_app: StartApp) -> None:
    proxies = {"trusted_proxies": "127.0.0.1"} if behind_proxy else {}
    api = await start_app(rate_limit_enabled=True, rate_limit_anonymous="2/hour", **proxies)
    for spellings in ([str(address) for address in group] for group in SAME[:5]):
        found = []
        for address in itertools.islice(itertools.cycle(spellings), max(3, len(spellings))):
            if behind_proxy:
                found += await ask(api, 1, headers={"X-Forwarded-For": address})
            else:
                async with seen_from(api.app, address) as client:
                    found.append((await client.get(ME)).status_code)
        assert found == [401, 401] + [429] * (len(found) - 2), spellings


@once
async def test_the_limits_can_be_switched_off(start_app: StartApp) -> None:
    rates = {f"rate_limit_{name}": "1/hour" for name in ("anonymous", "user", "login", "register", "refresh", "mail")}
    api = await start_app(rate_limit_enabled=False, **rates)
    people = [await api.register(), await api.register()]
    people += [await api.log_in(people[0].email) for _ in range(2)]
    ways = [{"Accept-Encoding": encoding} for encoding in ("identity", "gzip")]
    answers = [await person.get("/tasks", headers=way) for person in people for way in ways]
    answers += [await person.get("/auth/me") for person in people]
    answers += [await api.client.get(ME) for _ in range(3)]
    answers += [await api.client.post(path, json=body) for path, body in MEASURES["mail"] * 2]
    assert all(answer.status_code != 429 and "ratelimit" not in answer.headers for answer in answers)


@pytest.mark.parametrize(
    "text", ["many", "20 per fortnight", "20", "0/hour", "-1/hour", "5/minute;0/hour", "5/minute;"]
)
def test_a_rate_that_cannot_be_read_stops_the_start(text: str, tmp_path: Any) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path, rate_limit_refresh=text)
    with pytest.raises(SettingsFault, match=f"^RATE_LIMIT_REFRESH: '{re.escape(text)}' is no rate; give one such"):
        create_app(settings)


async def test_the_start_names_each_setting_of_the_limits_that_is_wrong(tmp_path: Any) -> None:
    done = await run_duly(tmp_path, "serve", rate_limit_user="fast")
    assert refusal(done).startswith("RATE_LIMIT_USER: 'fast' is no rate; give one such as 200/hour")
    settings = Settings(
        _env_file=None, data_dir=tmp_path, rate_limit_user="x", rate_limit_mail="", redis_url="redis://h:x"
    )
    with pytest.raises(SettingsFault) as caught:
        create_app(settings)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        "REDIS_URL", "RATE_LIMIT_USER", "RATE_LIMIT_MAIL"
    ]  # fmt: skip


async def test_the_log_names_a_caller_once_in_each_window(start_app: StartApp, stored: Stored) -> None:
    api = await start_app(rate_limit_enabled=True, rate_limit_anonymous="4/3 second", rate_limit_user="1/hour")
    ann = await api.register()
    crowd = await asyncio.gather(*(ann.get("/tasks") for _ in range(10)), *(api.client.get(ME) for _ in range(10)))
    assert sum(answer.status_code == 429 for answer in crowd) == 9 + 6
    count = "SELECT count(*) FROM audit_log WHERE event = 'rate.limited'"
    assert await stored.value(count) == 2
    async with seen_from(api.app, "192.0.2.9") as other:
        assert [(await other.get(ME)).status_code for _ in range(5)] == [401] * 4 + [429]
    assert await stored.value(count) == 3
    await asyncio.sleep(3.1)
    while await ask(api, 1) == [401]:
        pass
    await ask(api, 3)
    await ann.get("/tasks")
    assert await stored.value(count) == 4


def test_the_seconds_that_are_told_are_enough_and_no_more() -> None:
    counts = itertools.product((1, 3, 7), (1, 10, 60), (0, 1, 3, 7), (0.0, 0.3, 0.99), (0, 1, 3, 7), (1, 2))
    for limit, seconds, previous, done, current, amount in counts:
        if current > limit or previous > limit or amount > limit:
            continue
        left = seconds * (1 - done)
        window = Window(limit, seconds, previous, left, current, left)
        wait = window.seconds_until(amount)
        assert later(window, wait + 0.001).remaining >= amount, (window, amount, wait)
        if wait > 1:
            assert later(window, wait - 1).remaining < amount, (window, amount, wait)


def later(window: Window, seconds: float) -> Window:
    """The same window after some time in which nobody came."""
    left = window.current_left - seconds
    if left > 0:
        return dataclasses.replace(window, previous_left=left, current_left=left)
    left += window.seconds
    if left <= 0:
        return Window(window.limit, window.seconds)
    return Window(window.limit, window.seconds, window.current, left, 0, left)


def test_what_strangers_can_make_a_process_remember_has_an_end() -> None:
    windows, item = OwnWindows(most=20), RateLimitItemPerMinute(5)
    for number in range(100):
        assert windows.add(item, "anonymous", str(number), cost=1).current == 1
    known = [number for number in range(100) if windows.look(item, "anonymous", str(number)).current]
    assert len(known) <= 20
    assert known[-1] == 99
