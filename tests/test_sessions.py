"""Sessions: what their tokens say, how refreshing rotates and forgives, and how each of them is seen and ended."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest

from duly.kit.clock import now, parse_rfc3339
from duly.kit.secrets import derive_key, keyed_hash
from tests.fixtures.application import PASSWORD, Api, Person, StartApp
from tests.fixtures.stored import Stored

Tokens = dict[str, Any]
WINDOW = timedelta(seconds=10)


async def refresh(api: Api, token: str) -> httpx.Response:
    return await api.client.post("/api/v1/auth/refresh", json={"refresh_token": token})


async def renew(api: Api, token: str) -> Tokens:
    answer = await refresh(api, token)
    assert answer.status_code == 200, answer.text
    found: Tokens = answer.json()
    return found


async def me(api: Api, access_token: str) -> int:
    headers = {"Authorization": f"Bearer {access_token}"}
    return (await api.client.get("/api/v1/auth/me", headers=headers)).status_code


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


def read(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


async def let_pass(stored: Stored, time: timedelta) -> None:
    """Make every replacement so much older."""
    for (replaced_at,) in await stored.rows("SELECT DISTINCT replaced_at FROM refresh_tokens"):
        if replaced_at is not None:
            moment = parse_rfc3339(replaced_at) if isinstance(replaced_at, str) else replaced_at
            await stored.rows("UPDATE refresh_tokens SET replaced_at = ? WHERE replaced_at = ?", moment - time, moment)


async def endings(stored: Stored) -> Sequence[str | None]:
    return [row[0] for row in await stored.rows("SELECT end_reason FROM sessions ORDER BY id")]


# What the tokens say


@pytest.mark.covers("A030", "B021", "D016", "D018", "D019")
async def test_the_tokens_claims_and_lives_are_the_documented_ones(api: Api, ann: Person, stored: Stored) -> None:
    claims = read(ann.access_token)
    assert set(claims) == {"iss", "aud", "sub", "sid", "jti", "iat", "exp", "typ"}
    assert (claims["iss"], claims["aud"], claims["typ"], claims["sub"]) == ("duly", "duly", "access", ann.user_id)
    assert claims["exp"] - claims["iat"] == 900
    assert abs(claims["iat"] - now().timestamp()) < 60
    assert jwt.get_unverified_header(ann.access_token)["alg"] == "HS256"
    assert claims["sid"] == await stored.value("SELECT id FROM sessions")
    begins = await stored.moment("SELECT created_at FROM refresh_tokens")
    ends = await stored.moment("SELECT expires_at FROM refresh_tokens")
    last = await stored.moment("SELECT expires_at FROM sessions")
    assert begins
    assert (ends, last) == (begins + timedelta(days=7), begins + timedelta(days=30))
    again = read((await api.log_in(ann.email)).access_token)
    assert all(again[name] != claims[name] for name in ("sid", "jti"))


@pytest.mark.covers("B044", "A014")
@pytest.mark.parametrize(
    ("settings", "seconds"),
    [({"jwt_expiration_hours": 2}, 7200), ({"jwt_expiration_hours": 0.5}, 1800), ({"access_token_minutes": 5}, 300)],
)
async def test_the_life_of_an_access_token_is_a_setting(
    start_app: StartApp, settings: dict[str, Any], seconds: int
) -> None:
    api = await start_app(**settings)
    ann = await api.register("ann@example.com")
    for tokens in ((await api.log_in(ann.email)).access_token, (await renew(api, ann.refresh_token))["access_token"]):
        assert read(tokens)["exp"] - read(tokens)["iat"] == seconds
    login = {"email": ann.email, "password": PASSWORD}
    assert (await api.client.post("/api/v1/auth/login", json=login)).json()["expires_in"] == seconds


async def test_no_token_is_kept_in_clear(api: Api, ann: Person, stored: Stored) -> None:
    pair = await renew(api, ann.refresh_token)
    await ann.post("/auth/logout")
    kept = [
        repr(await stored.rows(f"SELECT * FROM {table}"))
        for table in ("users", "sessions", "refresh_tokens", "blacklisted_tokens")
    ]
    for token in (ann.access_token, ann.refresh_token, pair["access_token"], pair["refresh_token"]):
        assert all(token not in table and token.rsplit(".", 1)[-1] not in table for table in kept)
    assert all(PASSWORD not in table for table in kept)


async def test_whoever_knows_a_token_but_not_the_servers_secret_cannot_tell_its_child(
    start_app: StartApp, stored: Stored
) -> None:
    children = []
    for secret in ("a-key-that-is-only-in-these-tests-1", "a-key-that-is-only-in-these-tests-2"):
        api = await start_app(secret_key=secret)
        await api.register()
        # The same known token on both servers, as each of them keeps it.
        kept = keyed_hash(derive_key(secret, "refresh-token-hash"), "known")
        await stored.rows("UPDATE refresh_tokens SET hash = ? WHERE hash NOT LIKE 'used%'", kept)
        children.append((await renew(api, "known"))["refresh_token"])
        await stored.rows("UPDATE refresh_tokens SET hash = 'used' || substr(hash, 5)")
    assert children[0] != children[1]


# Refreshing


@pytest.mark.covers("A031", "A050", "A065", "A135", "B045", "D020")
async def test_a_refresh_brings_a_new_pair_of_the_same_session(api: Api, ann: Person) -> None:
    answer = await refresh(api, ann.refresh_token)
    pair = answer.json()
    assert set(pair) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (pair["token_type"], pair["expires_in"]) == ("bearer", 900)
    assert answer.headers["cache-control"] == "no-store"
    assert pair["refresh_token"] != ann.refresh_token
    old, new = read(ann.access_token), read(pair["access_token"])
    assert (new["sid"], new["sub"]) == (old["sid"], old["sub"])
    assert new["jti"] != old["jti"]
    assert await me(api, pair["access_token"]) == 200
    assert await me(api, (await renew(api, pair["refresh_token"]))["access_token"]) == 200


async def test_64_refreshes_at_once_bring_one_live_pair(api: Api, ann: Person, stored: Stored) -> None:
    answers = await asyncio.gather(*(refresh(api, ann.refresh_token) for _ in range(64)))
    assert [answer.status_code for answer in answers] == [200] * 64
    pairs = {tuple(sorted(answer.json().items())) for answer in answers}
    assert len(pairs) == 1
    pair = dict(pairs.pop())
    assert await stored.value("SELECT count(*) FROM refresh_tokens") == 2
    assert await me(api, pair["access_token"]) == 200
    await renew(api, pair["refresh_token"])
    assert await endings(stored) == [None]


async def test_a_lost_answer_can_be_fetched_again_for_ten_seconds(api: Api, ann: Person, stored: Stored) -> None:
    pair = await renew(api, ann.refresh_token)
    await let_pass(stored, WINDOW - timedelta(seconds=4))
    assert await renew(api, ann.refresh_token) == pair
    assert await me(api, pair["access_token"]) == 200
    await renew(api, pair["refresh_token"])


@pytest.mark.covers("A135", "D020")
async def test_a_replay_after_that_ends_the_family_although_it_is_refused(
    api: Api, ann: Person, ben: Person, stored: Stored
) -> None:
    other = await api.log_in(ann.email)
    pair = await renew(api, ann.refresh_token)
    await let_pass(stored, WINDOW)
    answer = await refresh(api, ann.refresh_token)
    assert code(answer) == (401, "TOKEN_REUSED")
    assert answer.headers["www-authenticate"] == 'Bearer realm="duly", error="invalid_token"'
    # The refusal committed what it wrote: another connection sees it.
    sid = read(ann.access_token)["sid"]
    assert await stored.value("SELECT end_reason FROM sessions WHERE id = ?", sid) == "token_reused"
    assert await stored.moment("SELECT ended_at FROM sessions WHERE id = ?", sid) is not None
    assert await stored.value("SELECT session_id FROM blacklisted_tokens") == sid
    for token in (ann.access_token, pair["access_token"]):
        assert await me(api, token) == 401
    for token in (ann.refresh_token, pair["refresh_token"]):
        assert code(await refresh(api, token)) == (401, "SESSION_ENDED")
    # This family only: neither the other session of the same person nor anybody else's.
    for person in (other, ben):
        assert await me(api, person.access_token) == 200
        await renew(api, person.refresh_token)


async def test_a_token_older_than_the_previous_one_is_refused_at_once(api: Api, ann: Person, stored: Stored) -> None:
    first = await renew(api, ann.refresh_token)
    second = await renew(api, first["refresh_token"])
    assert code(await refresh(api, ann.refresh_token)) == (401, "TOKEN_REUSED")
    assert await endings(stored) == ["token_reused"]
    assert await me(api, second["access_token"]) == 401
    assert code(await refresh(api, second["refresh_token"])) == (401, "SESSION_ENDED")


async def test_the_previous_token_is_forgiven_for_the_newest_child_only(api: Api, ann: Person, stored: Stored) -> None:
    first = await renew(api, ann.refresh_token)
    second = await renew(api, first["refresh_token"])
    # The token that was just replaced is still forgiven, and brings the newest pair.
    assert await renew(api, first["refresh_token"]) == second
    assert await endings(stored) == [None]
    # Its own parent is no longer the previous one, though it was used less than ten seconds ago.
    assert code(await refresh(api, ann.refresh_token)) == (401, "TOKEN_REUSED")


async def test_replays_at_once_end_the_family_once(api: Api, ann: Person, stored: Stored) -> None:
    await renew(api, ann.refresh_token)
    await let_pass(stored, WINDOW)
    answers = await asyncio.gather(*(refresh(api, ann.refresh_token) for _ in range(16)))
    assert {code(answer) for answer in answers} <= {(401, "TOKEN_REUSED"), (401, "SESSION_ENDED")}
    assert await endings(stored) == ["token_reused"]
    assert await stored.value("SELECT count(*) FROM blacklisted_tokens") == 1


@pytest.mark.parametrize("token", ["x", "nonsense", "a" * 512, "\U0001f600" * 20, "' OR 1=1 --", "../../etc/passwd"])
async def test_a_token_that_never_was_is_refused(api: Api, token: str) -> None:
    assert code(await refresh(api, token)) == (401, "INVALID_REFRESH_TOKEN")


async def test_a_refresh_that_cannot_be_read_is_no_refresh(api: Api, ann: Person) -> None:
    wrong = [{"refresh_token": value} for value in (None, "", 5, "a" * 513, [ann.refresh_token])]
    for body in ({}, *wrong, {"refresh_token": ann.refresh_token, "all": True}, [ann.refresh_token], ann.refresh_token):
        answer = await api.client.post("/api/v1/auth/refresh", json=body)
        assert answer.status_code == 422, body
        assert ann.refresh_token not in answer.text
    await renew(api, ann.refresh_token)


async def test_a_refresh_token_expires(api: Api, ann: Person, stored: Stored) -> None:
    await stored.rows("UPDATE refresh_tokens SET expires_at = ?", now() - timedelta(seconds=1))
    assert code(await refresh(api, ann.refresh_token)) == (401, "REFRESH_TOKEN_EXPIRED")
    assert await me(api, ann.access_token) == 200


async def test_a_session_ends_at_the_latest_after_its_longest_life(start_app: StartApp, stored: Stored) -> None:
    api = await start_app(session_max_days=3, refresh_token_days=7)
    ann = await api.register("ann@example.com")
    last = await stored.moment("SELECT expires_at FROM sessions")
    begins = await stored.moment("SELECT created_at FROM sessions")
    assert begins
    assert last == begins + timedelta(days=3)
    pair = await renew(api, ann.refresh_token)
    # Refreshing moves neither the session's end nor that of a token beyond it.
    assert {row[0] for row in await stored.rows("SELECT expires_at FROM refresh_tokens")} == {
        row[0] for row in await stored.rows("SELECT expires_at FROM sessions")
    }
    await stored.rows("UPDATE sessions SET expires_at = ?", now() - timedelta(seconds=1))
    for token in (ann.refresh_token, pair["refresh_token"]):
        assert code(await refresh(api, token)) == (401, "SESSION_ENDED")
    assert (await ann.get("/auth/sessions")).json()["items"] == []


async def test_an_access_token_does_not_outlive_its_session(start_app: StartApp, stored: Stored) -> None:
    api = await start_app(session_max_days=300 / 86400)
    ann = await api.register("ann@example.com")
    last = await stored.moment("SELECT expires_at FROM sessions")
    assert last
    for answer in (await refresh(api, ann.refresh_token), await refresh(api, ann.refresh_token)):
        assert read(answer.json()["access_token"])["exp"] == int(last.timestamp())
        assert 0 < answer.json()["expires_in"] <= 300
    assert read(ann.access_token)["exp"] == int(last.timestamp())


@pytest.mark.covers("A035")
@pytest.mark.parametrize("change", ["is_active = FALSE", "deleted_at = created_at"])
async def test_the_session_of_a_user_who_was_deactivated_or_deleted_is_not_renewed(
    api: Api, ann: Person, ben: Person, stored: Stored, change: str
) -> None:
    pair = await renew(api, ann.refresh_token)
    await stored.rows(f"UPDATE users SET {change} WHERE id = ?", ann.user_id)
    for token in (ann.refresh_token, pair["refresh_token"]):
        assert code(await refresh(api, token)) == (401, "SESSION_ENDED")
    await renew(api, ben.refresh_token)


async def test_a_logout_meeting_a_refresh_leaves_nothing_alive(api: Api, stored: Stored) -> None:
    ann = await api.register()
    for _ in range(8):
        session = await api.log_in(ann.email)
        answer, logout = await asyncio.gather(refresh(api, session.refresh_token), session.post("/auth/logout"))
        assert logout.status_code == 204
        assert answer.status_code in {200, 401}
        assert await me(api, session.access_token) == 401
        if answer.status_code == 200:
            assert await me(api, answer.json()["access_token"]) == 401
            assert code(await refresh(api, answer.json()["refresh_token"])) == (401, "SESSION_ENDED")
    assert await stored.value("SELECT count(*) FROM sessions WHERE ended_at IS NULL") == 1


async def test_two_servers_with_one_secret_share_sessions(start_app: StartApp) -> None:
    first, second = await start_app(), await start_app()
    ann = await first.register("ann@example.com")
    assert await me(second, ann.access_token) == 200
    answers = await asyncio.gather(*(refresh(api, ann.refresh_token) for api in [first, second] * 8))
    assert [answer.status_code for answer in answers] == [200] * 16
    assert len({answer.text for answer in answers}) == 1


# Seeing and ending sessions

FIELDS = {"id", "created_at", "last_used_at", "expires_at", "ip_address", "user_agent", "device", "current"}
AGENTS = [
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Version/17.0 Mobile Safari/604.1",
     "Safari on iPhone"),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 CriOS/120.0 Mobile Safari/604.1",
     "Chrome on iPhone"),
    ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36 Edg/120.0",
     "Edge on Windows"),
    ("Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0", "Firefox on Linux"),
    ("Mozilla/5.0 (Macintosh; Intel Mac OS X 14_0) AppleWebKit/537.36 Chrome/120.0 Safari/537.36", "Chrome on macOS"),
    ("curl/8.5.0", "curl"), ("a program of its own", None), ("", None), ("(Linux) \u00e9", "Linux"),
]  # fmt: skip


@pytest.mark.covers("A038", "A137", "A052", "A021")
@pytest.mark.parametrize(("agent", "device"), AGENTS, ids=range(len(AGENTS)))
async def test_a_session_shows_the_device_it_was_opened_on(
    api: Api, ann: Person, agent: str, device: str | None
) -> None:
    body = {"email": ann.email, "password": PASSWORD}
    headers = {"User-Agent": agent.encode("latin-1")}
    login = await api.client.post("/api/v1/auth/login", json=body, headers=headers)
    assert login.status_code == 200
    newest = (await ann.get("/auth/sessions")).json()["items"][0]
    assert set(newest) == FIELDS
    assert (newest["ip_address"], newest["user_agent"], newest["device"]) == ("127.0.0.1", agent, device)
    assert newest["current"] is False


async def test_a_program_that_does_not_say_what_it_is_has_a_session_too(api: Api, ann: Person) -> None:
    body = {"email": ann.email, "password": PASSWORD}
    request = api.client.build_request("POST", "/api/v1/auth/login", json=body)
    del request.headers["User-Agent"]
    assert (await api.client.send(request)).status_code == 200
    newest = (await ann.get("/auth/sessions")).json()["items"][0]
    assert (newest["user_agent"], newest["device"]) == (None, None)


async def test_a_monstrous_agent_is_cut_and_cleaned(api: Api, ann: Person) -> None:
    headers = {"User-Agent": b"A\x7f\x9b" + b"b" * 3000}
    body = {"email": ann.email, "password": PASSWORD}
    await api.client.post("/api/v1/auth/login", json=body, headers=headers)
    newest = (await ann.get("/auth/sessions")).json()["items"][0]
    assert newest["user_agent"] == "A" + "b" * 511


@pytest.mark.covers("A038")
async def test_the_address_is_what_a_trusted_proxy_says_and_nobody_else(start_app: StartApp) -> None:
    for proxies, shown in (((), "127.0.0.1"), (("127.0.0.0/8",), "2001:db8::7")):
        api = await start_app(trusted_proxies=proxies)
        person = await api.register()
        body = {"email": person.email, "password": PASSWORD}
        await api.client.post("/api/v1/auth/login", json=body, headers={"X-Forwarded-For": "2001:db8::7"})
        assert (await person.get("/auth/sessions")).json()["items"][0]["ip_address"] == shown


@pytest.mark.covers("A052", "A068")
async def test_sessions_come_newest_first_in_pages_and_tell_which_one_asks(api: Api, ann: Person, ben: Person) -> None:
    people = [ann, *[await api.log_in(ann.email) for _ in range(4)]]
    ids = [read(person.access_token)["sid"] for person in people][::-1]
    for number, person in enumerate(people):
        page = (await person.get("/auth/sessions")).json()
        assert [item["id"] for item in page["items"]] == ids
        assert [item["current"] for item in page["items"]] == [at == 4 - number for at in range(5)]
        assert (page["total"], page["limit"], page["offset"], page["next_cursor"]) == (5, 50, 0, None)
    for offset, wanted in ((0, ids[:2]), (2, ids[2:4]), (4, ids[4:]), (6, [])):
        page = (await ann.get("/auth/sessions", params={"limit": 2, "offset": offset})).json()
        assert [item["id"] for item in page["items"]] == wanted
        assert (page["total"], page["limit"], page["offset"]) == (5, 2, offset)
    assert (await ben.get("/auth/sessions")).json()["total"] == 1
    for wrong in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"offset": -1}, {"page": 1}):
        assert (await ann.get("/auth/sessions", params=wrong)).status_code == 422


async def test_a_refresh_is_a_use(api: Api, ann: Person, stored: Stored) -> None:
    early = now() - timedelta(days=1)
    await stored.rows("UPDATE sessions SET last_used_at = ?, created_at = ?", early, early)
    await renew(api, ann.refresh_token)
    [session] = (await ann.get("/auth/sessions")).json()["items"]
    used, created = (datetime.fromisoformat(session[name]) for name in ("last_used_at", "created_at"))
    assert created == early
    assert used - created > timedelta(hours=23)
    assert session["created_at"].endswith("Z")


@pytest.mark.covers("A053", "A032")
async def test_one_session_can_be_ended_from_another(api: Api, ann: Person) -> None:
    other = await api.log_in(ann.email)
    sid = read(other.access_token)["sid"]
    answer = await ann.delete(f"/auth/sessions/{sid}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert code(await other.get("/auth/me")) == (401, "SESSION_ENDED")
    assert code(await refresh(api, other.refresh_token)) == (401, "SESSION_ENDED")
    assert sid not in [item["id"] for item in (await ann.get("/auth/sessions")).json()["items"]]
    assert code(await ann.delete(f"/auth/sessions/{sid}")) == (404, "NOT_FOUND")
    own = read(ann.access_token)["sid"]
    assert (await ann.delete(f"/auth/sessions/{own}")).status_code == 204
    assert code(await ann.get("/auth/me")) == (401, "SESSION_ENDED")


@pytest.mark.covers("A053", "C134")
async def test_another_persons_session_is_not_found_like_one_that_never_was(api: Api, ann: Person, ben: Person) -> None:
    sid = read(ben.access_token)["sid"]
    wrong = [sid, "0" * 36, "x", "a" * 64, "a" * 65, "a" * 3000, "%00", "%ff", "%F0%9F%98%80", "'%20OR%201=1", "%0a"]
    answers = []
    for session_id in wrong:
        answer = await ann.delete(f"/auth/sessions/{session_id}")
        assert code(answer) == (404, "NOT_FOUND"), session_id
        answers.append(answer.json()["detail"])
    assert len(set(answers)) == 1
    assert (await ben.get("/auth/me")).status_code == 200
    await renew(api, ben.refresh_token)
