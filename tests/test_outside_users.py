"""People whom an outside issuer vouches for: how their row appears, who they are here, and how they are kept out."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from duly.audit.log import AuditLog
from duly.db.database import open_database
from duly.errors import Unauthenticated
from duly.identity.issuer_settings import issuers_from
from duly.identity.issuers import TrustedIssuers
from duly.identity.jwks import Pauses
from duly.identity.outside_users import OutsideUsers
from duly.identity.revocations import Revocations
from duly.kit.ciphers import FieldCipher
from duly.settings import Settings, SettingsFault
from duly.web.guard import Guard
from tests.better_auth.issuing import JwksServer, SigningKey, claims_for, jwks_server, seal
from tests.better_auth.running import BetterAuth, better_auth_server
from tests.fixtures.application import Api, Person, StartApp, running
from tests.fixtures.stored import Stored
from tests.fixtures.wire import wire_to

SECRET = "the-secret-that-both-sides-of-these-tests-share"
FIRST, SECOND = SigningKey("first"), SigningKey("second")
ACCOUNTS = ("/api/v1/auth/", "/api/v1/users/me/change-email", "/api/users/", "/api/admins/", "/api/password/")
SUBJECT = "W1CWZbbZ08jBd1SXMtzRojLYRAVIzV8a"
AUDIT = AuditLog(FieldCipher([b"f" * 32]), b"a" * 32)


@pytest.fixture(scope="module")
def better_auth() -> Iterator[BetterAuth]:
    yield from better_auth_server()


@pytest.fixture
def issuer() -> Iterator[JwksServer]:
    with jwks_server() as server:
        server.publish(FIRST)
        yield server


@pytest.fixture
async def door(start_app: StartApp, issuer: JwksServer) -> Api:
    """An application with accounts of its own that trusts the issuer's keys, and a secret."""
    return await start_app(better_auth_url=issuer.origin, better_auth_secret=SECRET)


def by_secret(subject: object = SUBJECT, **claims: object) -> str:
    """What a hand-written route of a frontend signs: HS256, no issuer, no audience."""
    plain = claims_for("", **{"iss": None, "aud": None, "sub": subject, **claims})
    return seal({"alg": "HS256"}, plain, SECRET.encode(), "HS256")


def by_key(issuer: JwksServer, subject: object = SUBJECT, **claims: object) -> str:
    return FIRST.sign(claims_for(issuer.origin, sub=subject, **claims))


def someone(api: Api, token: str) -> Person:
    return Person(api.client, "", "", token, "")


def signed(token: str) -> dict[str, Any]:
    """As much of a request as the guard looks at."""
    headers = [(b"authorization", f"Bearer {token}".encode())]
    return {"type": "http", "headers": headers, "client": None, "state": {"request_id": "r"}}


async def user_id(api: Api, token: str) -> str:
    answer = await someone(api, token).get("/auth/me")
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["id"]
    return found


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# Who somebody is here


@pytest.mark.covers("C040", "C041", "E042", "E043", "E114", "C119")
async def test_a_row_appears_at_the_first_token_with_the_subject_as_its_id(
    door: Api, issuer: JwksServer, stored: Stored
) -> None:
    for token, issued_by, subject in (
        (by_secret(), "better-auth", SUBJECT), (by_key(issuer, "Ärger 7/é"), issuer.origin, "Ärger 7/é"),
        (by_secret("x" * 255), "better-auth", "x" * 255),
    ):  # fmt: skip
        me = (await someone(door, token).get("/auth/me")).json()
        assert (me["id"], me["name"], me["email"], me["role"]) == (subject, "Ann", None, "user")
        row = await stored.rows("SELECT id, issuer, subject, hashed_password FROM users WHERE subject = ?", subject)
        assert list(row) == [(subject, issued_by, subject, None)]
    assert await stored.value("SELECT count(*) FROM users") == 3


async def test_many_first_tokens_at_once_make_one_row(door: Api, issuer: JwksServer, stored: Stored) -> None:
    tokens = [by_key(issuer, jti=f"t{number}") for number in range(24)]
    assert set(await asyncio.gather(*(user_id(door, token) for token in tokens))) == {SUBJECT}
    assert await stored.value("SELECT count(*) FROM users") == 1


@pytest.mark.covers("E098", "C134")
async def test_a_subject_that_is_a_local_users_id_gets_an_id_of_its_own(
    door: Api, issuer: JwksServer, stored: Stored
) -> None:
    ann = await door.register("ann@example.com")
    task = await ann.add_task("Ann's own")
    impostor = someone(door, by_key(issuer, ann.user_id, email="ann@example.com", emailVerified=True))
    own = await user_id(door, impostor.access_token)
    assert own != ann.user_id
    assert await user_id(door, by_key(issuer, ann.user_id, jti="another")) == own
    assert (await impostor.get("/tasks")).json()["items"] == []
    assert (await impostor.get(f"/tasks/{task['id']}")).status_code == 404
    assert (await impostor.get("/auth/sessions")).json()["items"] == []
    await impostor.post("/auth/logout", json={"all_sessions": True})
    assert (await ann.get("/tasks")).json()["total"] == 1
    assert await stored.value("SELECT subject FROM users WHERE id = ?", own) == ann.user_id


@pytest.mark.covers("E098")
async def test_one_subject_of_two_issuers_is_two_people(start_app: StartApp, issuer: JwksServer) -> None:
    with jwks_server() as other:
        other.publish(SECOND)
        entry = {"issuer": "https://id.example", "jwks_url": f"{other.origin}/keys", "audiences": ["duly"]}
        api = await start_app(better_auth_url=issuer.origin, better_auth_secret=SECRET, trusted_issuers=(entry,))
        tokens = [
            by_key(issuer), by_secret(),
            SECOND.sign(claims_for("https://id.example", aud="duly", sub=SUBJECT)),
        ]  # fmt: skip
        ids = [await user_id(api, token) for token in tokens]
        assert len(set(ids)) == 3
        assert ids[0] == SUBJECT
        for token, own in zip(tokens, ids, strict=True):
            assert await user_id(api, token) == own
            await someone(api, token).add_task(own)
        for token, own in zip(tokens, ids, strict=True):
            assert [item["title"] for item in (await someone(api, token).get("/tasks")).json()["items"]] == [own]


@pytest.mark.parametrize("word", ["v1", "auth", "users", "admins", "password", "tasks"])
async def test_a_word_of_our_addresses_is_no_users_id(door: Api, stored: Stored, word: str) -> None:
    own = await user_id(door, by_secret(word))
    assert own != word
    assert await user_id(door, by_secret(word, name="Again")) == own
    assert await stored.value("SELECT subject FROM users WHERE id = ?", own) == word


async def test_what_does_not_fit_or_is_no_text_is_left_out(door: Api) -> None:
    for number, name in enumerate((None, 5, "", "  ", "A\x00B", ["Ann"])):
        me = await someone(door, by_secret(f"u{number}", name=name)).get("/auth/me")
        assert (me.status_code, me.json()["name"]) == (200, None)
    for subject, name in (("long", "n" * 200), ("longer", "n" * 201)):
        me = await someone(door, by_secret(subject, name=name)).get("/auth/me")
        assert (me.status_code, me.json()["name"]) == (200, name if len(name) == 200 else None)
    for subject in ("", None, 5, "x" * 256, "a\x00b", " "):
        assert code(await someone(door, by_secret(subject)).get("/auth/me")) == (401, "INVALID_TOKEN")
    assert code(await someone(door, by_secret(jti=5)).get("/auth/me")) == (401, "INVALID_TOKEN")


@pytest.mark.covers("E096", "B028", "C134")
async def test_two_people_of_one_issuer_do_not_meet(door: Api, issuer: JwksServer) -> None:
    ann, ben = someone(door, by_key(issuer, "ann")), someone(door, by_secret("ben"))
    task = await ann.add_task("Only Ann's")
    assert (await ben.get("/tasks")).json()["items"] == []
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        body = {} if method in {"GET", "DELETE"} else {"json": {"title": "Ben's"}}
        assert (await ben.request(method, f"/tasks/{task['id']}", **body)).status_code == 404  # type: ignore[arg-type]
    assert (await ann.get(f"/tasks/{task['id']}")).json() == task


async def test_a_session_of_the_issuer_is_not_ours_to_end(door: Api, issuer: JwksServer) -> None:
    ann = someone(door, by_key(issuer))
    assert (await ann.get("/auth/sessions")).json()["items"] == []
    for body in ({}, {"all_sessions": True}):
        assert (await ann.post("/auth/logout", json=body)).status_code == 204
    assert (await ann.get("/auth/me")).status_code == 200


# Keeping somebody out


async def refused_from_the_next_second_on(person: Person, changed: float) -> None:
    while time.monotonic() < changed + 1.1:
        answer = await person.get("/tasks")
        if answer.status_code == 401:
            break
        assert answer.status_code == 200
        await asyncio.sleep(0.05)
    assert code(await person.get("/auth/me")) == (401, "ACCOUNT_INACTIVE")
    assert code(await person.get("/tasks")) == (401, "ACCOUNT_INACTIVE")


@pytest.mark.parametrize("change", ["is_active = FALSE", "deleted_at = created_at"])
@pytest.mark.covers("A035")
async def test_a_user_who_is_deactivated_or_deleted_is_out_within_about_a_second(
    door: Api, stored: Stored, change: str
) -> None:
    ann, ben = someone(door, by_secret("ann")), someone(door, by_secret("ben"))
    for person in (ann, ben):
        assert (await person.get("/auth/me")).status_code == 200
    await stored.rows(f"UPDATE users SET {change} WHERE id = 'ann'")
    await refused_from_the_next_second_on(ann, time.monotonic())
    # A fresh token of the issuer does not help, nor does asking again and again.
    for number in range(3):
        fresh = someone(door, by_secret("ann", jti=f"fresh-{number}"))
        assert code(await fresh.get("/auth/me")) == (401, "ACCOUNT_INACTIVE")
    assert (await ben.get("/auth/me")).status_code == 200
    await stored.rows("UPDATE users SET is_active = TRUE, deleted_at = NULL WHERE id = 'ann'")
    deadline = time.monotonic() + 5
    while (await ann.get("/auth/me")).status_code != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.covers("C128", "D070")
async def test_while_nobody_can_look_nobody_passes(start_app: StartApp, database_url: str) -> None:
    async with wire_to(database_url) as (wire, wired_url):
        api = await start_app(database_url=wired_url, better_auth_secret=SECRET)
        ann = someone(api, by_secret("ann"))
        assert (await ann.post("/tasks", json={"title": 5})).status_code == 422
        wire.cut()
        deadline = time.monotonic() + 10
        while (answer := await ann.post("/tasks", json={"title": 5})).status_code != 503:
            assert (answer.status_code, time.monotonic() < deadline) == (422, True)
            await asyncio.sleep(0.05)
        assert code(await someone(api, by_secret("new")).get("/auth/me")) == (503, "DATABASE_UNAVAILABLE")


async def test_a_withdrawn_key_ends_the_tokens_that_were_verified_with_it(
    database_url: str, issuer: JwksServer
) -> None:
    issuer.publish(FIRST, SECOND)
    database = await open_database(Settings(_env_file=None, database_url=database_url))
    trusted = TrustedIssuers(issuers_from(issuer.origin, None, []), pauses=Pauses(refresh=0.0))
    guard = Guard(
        database=database, access=None, issuer="duly", outside=trusted, audit=AUDIT, revocations=Revocations(),
        outside_seconds=0.05,
    )  # fmt: skip
    scope = signed(by_key(issuer))
    assert (await guard.authenticate(scope)).user_id == SUBJECT
    assert (await guard.authenticate(scope)).subject == SUBJECT
    issuer.publish(SECOND)
    deadline = time.monotonic() + 10
    with contextlib.suppress(Unauthenticated):
        while time.monotonic() < deadline:
            await guard.authenticate(scope)
            await asyncio.sleep(0.02)
    with pytest.raises(Unauthenticated):
        await guard.authenticate(scope)
    await trusted.close()
    await database.close()


async def test_what_is_remembered_of_people_is_bounded(database_url: str) -> None:
    database = await open_database(Settings(_env_file=None, database_url=database_url))
    trusted = TrustedIssuers(issuers_from(None, SECRET, []))
    people = OutsideUsers(database, AUDIT, most=2)
    claims = [await trusted.verify(by_secret(f"u{number}")) for number in range(5)]
    for _ in range(2):
        assert [await people.find_or_add(one) for one in claims] == ["u0", "u1", "u2", "u3", "u4"]
        assert len(people) == 2
    await trusted.close()
    await database.close()


async def test_a_guard_that_trusts_nobody_lets_nobody_in(database_url: str) -> None:
    database = await open_database(Settings(_env_file=None, database_url=database_url))
    guard = Guard(database=database, access=None, issuer="duly", outside=None, audit=AUDIT, revocations=Revocations())
    with pytest.raises(Unauthenticated):
        await guard.authenticate(signed(by_secret()))
    await database.close()


async def test_a_server_that_stops_does_not_leave_a_fetch_behind(
    database_url: str, issuer: JwksServer, tmp_path: Path
) -> None:
    settings = Settings(
        _env_file=None, database_url=database_url, data_dir=tmp_path, better_auth_url=issuer.origin, log_level="warning"
    )
    async with running(settings) as api:
        issuer.delay = 2
        unknown = someone(api, SECOND.sign(claims_for(issuer.origin)))
        asking = asyncio.create_task(unknown.get("/tasks"))
        deadline = time.monotonic() + 10
        while len(issuer.paths) < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    assert "fetch-jwks" not in {task.get_name() for task in asyncio.all_tasks()}
    assert code(await asking) == (401, "INVALID_TOKEN")


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_an_issuer_that_cannot_be_one_stops_the_start(start_app: StartApp) -> None:
    for url in ("http://h:port", "app.example.com"):
        with pytest.raises(SettingsFault, match=r"^BETTER_AUTH_URL: must be"):
            await start_app(better_auth_url=url)
    with pytest.raises(SettingsFault, match=r"^LOCAL_ACCOUNTS: is off and no issuer is trusted"):
        await start_app(local_accounts=False)


# Without accounts of our own


@pytest.mark.covers("E091", "E093")
async def test_without_local_accounts_no_account_endpoint_is_left(start_app: StartApp, issuer: JwksServer) -> None:
    full = await start_app(better_auth_url=issuer.origin)
    bare = await start_app(better_auth_url=issuer.origin, local_accounts=False)
    paths, left = full.app.openapi()["paths"], bare.app.openapi()["paths"]
    accounts = {path for path in paths if path.startswith(ACCOUNTS)}
    assert len(accounts) >= 20
    assert set(paths) - set(left) == accounts
    document = (await bare.client.get("/openapi.json")).json()
    said = json.dumps([document["paths"], document["components"]])
    for word in (
        "/auth/", "RegisterRequest", "LoginRequest", "LoginForm", "RefreshRequest", "refresh_token", "oauth2",
        "Accounts", "ChangeEmail", "ResetPassword", "MessageResponse", "apiKey",
    ):  # fmt: skip
        assert word not in said, word
    token = by_key(issuer)
    for path in accounts:
        for prefix in ("/api/v1/", "/api/"):
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                answer = await someone(bare, token).client.request(
                    method, path.replace("/api/v1/", prefix).replace("{session_id}", "x"),
                    headers={"Authorization": f"Bearer {token}"},
                )  # fmt: skip
                assert answer.status_code == 404, path
                assert answer.json().get("code", answer.json().get("error")) in {"NOT_FOUND", "NotFoundError"}, path
    assert (await someone(bare, token).add_task("Still works"))["user_id"] == SUBJECT
    assert (await bare.client.get("/api/v1/tasks")).status_code == 401


async def test_without_local_accounts_a_local_token_is_worth_nothing(start_app: StartApp, issuer: JwksServer) -> None:
    full = await start_app(better_auth_url=issuer.origin)
    bare = await start_app(better_auth_url=issuer.origin, local_accounts=False)
    ann = await full.register("ann@example.com")
    assert (await ann.get("/tasks")).status_code == 200
    assert code(await bare.client.get("/api/v1/tasks", headers=ann.headers)) == (401, "INVALID_TOKEN")


@pytest.mark.covers("E042")
async def test_neither_secret_signs_for_the_other(start_app: StartApp) -> None:
    api = await start_app(better_auth_secret=SECRET, secret_key=SECRET[::-1])
    ours = {"iss": "duly", "aud": "duly", "sid": "s", "jti": "t", "typ": "access"}
    for secret in (SECRET, SECRET[::-1]):
        token = seal({"alg": "HS256"}, claims_for("", **ours), secret.encode(), "HS256")
        assert code(await someone(api, token).get("/auth/me")) == (401, "INVALID_TOKEN")
    foreign = seal({"alg": "HS256"}, claims_for("", iss=None, aud=None), SECRET[::-1].encode(), "HS256")
    assert code(await someone(api, foreign).get("/auth/me")) == (401, "INVALID_TOKEN")
    expired = by_secret(exp=int(time.time()) - 60)
    assert code(await someone(api, expired).get("/auth/me")) == (401, "TOKEN_EXPIRED")


# The real Better Auth


@pytest.mark.covers("A055", "C040", "C119", "E098", "E114")
async def test_a_person_of_a_real_better_auth_server_keeps_tasks_here(
    start_app: StartApp, better_auth: BetterAuth, stored: Stored, dialect: str
) -> None:
    api = await start_app(
        better_auth_url=better_auth.origin, better_auth_secret=SecretStr(better_auth.secret), local_accounts=False
    )
    signed_up = better_auth.sign_up_fully(f"ann.{dialect}@example.com")
    ann = someone(api, signed_up.jwt)
    task: dict[str, Any] = await ann.add_task("From the frontend", priority="high")
    assert task["user_id"] == signed_up.user_id
    again = someone(api, better_auth.new_jwt(signed_up.session_token))
    assert (await again.get(f"/tasks/{task['id']}")).json() == task
    assert (await again.patch(f"/tasks/{task['id']}", json={"completed": True})).status_code == 200
    ben = someone(api, better_auth.sign_up(f"ben.{dialect}@example.com"))
    assert (await ben.get("/tasks")).json()["items"] == []
    assert (await ben.get(f"/tasks/{task['id']}")).status_code == 404
    for other in (signed_up.session_token, signed_up.session_cookie, signed_up.mailed_token):
        assert (await someone(api, other).get("/tasks")).status_code == 401
    rows = await stored.rows("SELECT id, issuer, email FROM users ORDER BY created_at")
    assert rows[0] == (signed_up.user_id, better_auth.origin, None)
    assert len(rows) == 2
