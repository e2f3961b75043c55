"""Registering, logging in and out, and what the caller sees of the account."""

import asyncio
import itertools
import re
import unicodedata
from typing import Any

import httpx
import pytest

from tests.fixtures.application import PASSWORD, Api, Person, StartApp
from tests.fixtures.stored import Stored

_numbers = itertools.count(1)
shared = pytest.mark.asyncio(loop_scope="module")
TOKENS = {"access_token", "refresh_token", "token_type", "expires_in"}
USER = {"id", "email", "username", "name", "role", "is_active", "email_verified", "created_at", "updated_at"}


async def register(api: Api, **fields: Any) -> httpx.Response:
    return await api.client.post("/api/v1/auth/register", json={"password": PASSWORD, **fields})


async def log_in(api: Api, **fields: Any) -> httpx.Response:
    return await api.client.post("/api/v1/auth/login", json={"password": PASSWORD, **fields})


def code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]


# Registering


@pytest.mark.covers("A045", "A046", "A088", "B018", "B024", "B067", "D011")
async def test_a_new_account_can_call_at_once(api: Api) -> None:
    answer = await register(api, email="ann@example.com", username="Ann", name="Ann A.")
    body = answer.json()
    assert (answer.status_code, set(body)) == (201, TOKENS | {"user"})
    assert (body["token_type"], body["expires_in"]) == ("bearer", 900)
    assert answer.headers["cache-control"] == "no-store"
    assert set(body["user"]) == USER
    shown = {name: body["user"][name] for name in USER - {"id", "created_at", "updated_at"}}
    assert shown == {
        "email": "ann@example.com", "username": "Ann", "name": "Ann A.", "role": "user", "is_active": True,
        "email_verified": False,
    }  # fmt: skip
    me = await api.person(body, "ann@example.com").get("/auth/me")
    assert (me.status_code, me.json()) == (200, body["user"])
    assert me.headers["cache-control"] == "no-store"


async def test_an_account_that_is_gone_is_not_shown(ann: Person, stored: Stored) -> None:
    await stored.rows("UPDATE users SET deleted_at = created_at")
    assert code(await ann.get("/auth/me")) == (404, "NOT_FOUND")


async def test_name_and_username_may_be_left_out(api: Api) -> None:
    user = (await register(api, email="ann@example.com")).json()["user"]
    assert (user["name"], user["username"]) == (None, None)
    user = (await register(api, email="ben@example.com", name=None, username=None)).json()["user"]
    assert (user["name"], user["username"]) == (None, None)


@pytest.mark.covers("A051", "B042")
async def test_the_unversioned_address_is_the_same(api: Api) -> None:
    answer = await api.client.post("/api/auth/register", json={"email": "ann@example.com", "password": PASSWORD})
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    for path in ("/api/auth/me", "/api/v1/auth/me"):
        assert (await api.client.get(path, headers=headers)).json() == answer.json()["user"]


async def test_of_64_at_once_with_one_address_one_wins(api: Api, stored: Stored) -> None:
    answers = await asyncio.gather(*(register(api, email="ann@example.com") for _ in range(64)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 63
    assert {code(answer) for answer in answers if answer.status_code == 409} == {(409, "EMAIL_TAKEN")}
    assert await stored.value("SELECT count(*) FROM users") == 1
    assert await stored.value("SELECT count(*) FROM sessions") == 1


async def test_of_many_at_once_with_one_username_one_wins(api: Api, stored: Stored) -> None:
    spellings = ["ann-b", "Ann-B", "ANN-B", "aNN-b"] * 3
    answers = await asyncio.gather(
        *(register(api, email=f"a{number}@example.com", username=name) for number, name in enumerate(spellings))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 11
    assert {code(answer) for answer in answers if answer.status_code == 409} == {(409, "USERNAME_TAKEN")}
    assert await stored.value("SELECT count(*) FROM users") == 1


NFC, NFD = (unicodedata.normalize(form, "zoë@example.com") for form in ("NFC", "NFD"))


@shared
@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ("Ann@Example.COM", "aNN@eXAMPLE.com", "ann@example.com"),
        ("  bob@example.com ", "bob@example.com", "bob@example.com"),
        (NFD, NFC.upper(), NFC),
        ("cy@bücher.example", "CY@XN--BCHER-KVA.example", "cy@bücher.example"),
        ("dan@xn--bcher-kva.example", "dan@BÜCHER.example", "dan@bücher.example"),
    ],
)
async def test_spellings_of_one_address_are_one_account(house: Api, first: str, second: str, kept: str) -> None:
    answer = await register(house, email=first)
    assert (answer.status_code, answer.json()["user"]["email"]) == (201, kept)
    for spelling in (first, second, kept):
        assert code(await register(house, email=spelling)) == (409, "EMAIL_TAKEN")
        assert (await log_in(house, email=spelling)).status_code == 200


@shared
async def test_an_address_that_grows_in_lower_case_still_fits(house: Api) -> None:
    email = "\u0130" * 32 + "@example.com"
    assert (await register(house, email=email)).json()["user"]["email"] == "i\u0307" * 32 + "@example.com"
    assert code(await register(house, email=email)) == (409, "EMAIL_TAKEN")
    assert (await log_in(house, email=email)).status_code == 200


@shared
async def test_a_username_is_unique_whatever_its_case_and_shown_as_chosen(house: Api) -> None:
    answer = await register(house, email="u1@example.com", username="Zed.Q")
    assert answer.json()["user"]["username"] == "Zed.Q"
    assert code(await register(house, email="u2@example.com", username="zED.q")) == (409, "USERNAME_TAKEN")
    assert (await log_in(house, username="ZED.Q")).status_code == 200


WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    *(({"email": email}, "email") for email in (
        "", " ", "ann", "ann@", "@example.com", "ann@@example.com", "ann@exa mple.com",
        "a b@example.com", "ann@example..com", "ann@-example.com", "ann@[127.0.0.1]", "ann@exam\nple.com",
        "ann@example.com\x00", "Ann <ann@example.com>", ".ann@example.com", "ann.@example.com", "a..b@example.com",
        f"{'a' * 243}@example.com", f"ann@{'a' * 64}.com", "ann@exam\u202eple.com", "ann@localhost", 5, None,
        ["ann@example.com"], {}, True,
    )),
    *(({"username": name}, "username") for name in (
        "", "ab", "a" * 33, "_ann", "-ann", ".ann", "ann b", "ann@b", "änn", "ann\n", "anna\u200b", "\uff41nna", 5, [],
        {}, True,
    )),
    *(({"password": password}, "password") for password in ("", None, 5, [], {}, "a" * 1025, "abc\x00defgh12")),
    *(({"name": name}, "name") for name in ("", "   ", "a" * 201, "A\x00B", "A\nB", 5, [])),
    *(({field: "x"}, field) for field in ("role", "is_active", "id", "hashed_password", "emails", "email_verified")),
]  # fmt: skip


@shared
@pytest.mark.parametrize(("fields", "field"), WRONG_FIELDS, ids=range(len(WRONG_FIELDS)))
@pytest.mark.covers("B026", "A066", "D037", "D067")
async def test_a_wrong_field_is_named_and_not_repeated(house: Api, fields: dict[str, Any], field: str) -> None:
    # A name for each case: too many failures with one name would lock it.
    nobody = f"nobody{next(_numbers)}@example.com"
    answer = await register(house, **{"email": nobody, **fields})
    body = answer.json()
    assert (answer.status_code, body["code"]) == (422, "VALIDATION_ERROR")
    assert [error["field"] for error in body["errors"]] == [field]
    value = fields[field]
    if isinstance(value, str) and len(value) > 3 and value not in "such as ann@example.com":
        assert value not in answer.text
    assert code(await log_in(house, email=nobody)) == (401, "INVALID_CREDENTIALS")


@shared
async def test_every_wrong_field_is_named_at_once(house: Api) -> None:
    answer = await register(house, email="no", username="x", name="", admin=True)
    assert {error["field"] for error in answer.json()["errors"]} == {"email", "username", "name", "admin"}
    missing = await house.client.post("/api/v1/auth/register", json={})
    assert {error["field"] for error in missing.json()["errors"]} == {"email", "password"}


async def test_registration_can_be_closed(start_app: StartApp, stored: Stored) -> None:
    closed = await start_app(registration="closed")
    assert code(await register(closed, email="ann@example.com")) == (403, "REGISTRATION_CLOSED")
    assert await stored.value("SELECT count(*) FROM users") == 0
    await (await start_app()).register("ann@example.com")
    assert (await log_in(closed, email="ann@example.com")).status_code == 200


# Passwords

COMPOSED = unicodedata.normalize("NFC", "éàüñôçêï")
WEAK = [
    ("a1b2c3d", "password_too_short"), (unicodedata.normalize("NFD", COMPOSED[:7]), "password_too_short"),
    ("x" * 129, "password_too_long"), ("😀" * 129, "password_too_long"),
    ("weak.person#@example.com", "password_is_email"), ("WEAK.Person#@Example.Com", "password_is_email"),
    ("weak.Person#", "password_is_email"),
]  # fmt: skip


@shared
@pytest.mark.parametrize(("password", "fault"), WEAK, ids=range(len(WEAK)))
@pytest.mark.covers("A093", "A081")
async def test_a_weak_password_is_refused_with_its_reason(house: Api, password: str, fault: str) -> None:
    number = next(_numbers)
    password = password.replace("#", str(number))
    answer = await register(house, email=f"weak.person{number}@example.com", password=password)
    assert code(answer) == (422, "WEAK_PASSWORD")
    [error] = answer.json()["errors"]
    assert (error["field"], error["type"]) == ("password", fault)
    answer = await log_in(house, email=f"weak.person{number}@example.com", password=password)
    assert code(answer) == (401, "INVALID_CREDENTIALS")


@shared
@pytest.mark.parametrize(
    "password", ["vK3-tQ9z", COMPOSED, "tangerine " * 12 + "orbit 92", "горшок-луна", "  spaced out  "]
)
async def test_any_other_password_opens_the_account_and_only_exactly_as_it_is(house: Api, password: str) -> None:
    person = await house.register(password=password)
    for spelling in {unicodedata.normalize(form, password) for form in ("NFC", "NFD")}:
        assert (await log_in(house, email=person.email, password=spelling)).status_code == 200
    for other in (password + " ", password.swapcase(), password[:-1], password.strip() + "x"):
        assert code(await log_in(house, email=person.email, password=other)) == (401, "INVALID_CREDENTIALS")


async def test_the_least_length_is_a_setting(start_app: StartApp) -> None:
    api = await start_app(password_min_length=12)
    assert code(await register(api, email="ann@example.com", password="vK3-tQ9z-mR")) == (422, "WEAK_PASSWORD")
    await api.register("ann@example.com", password="vK3-tQ9z-mR5")


async def stored_hash(stored: Stored) -> str:
    found: str = await stored.value("SELECT hashed_password FROM users")
    return found


@pytest.mark.covers("A029", "B020", "D003", "D016")
async def test_a_password_is_kept_as_argon2id_and_by_setting_as_bcrypt(start_app: StartApp, stored: Stored) -> None:
    api = await start_app()
    await api.register("ann@example.com")
    first = await stored_hash(stored)
    assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    # Logging in under another setting replaces the hash; under the same setting it stays.
    blow = await start_app(password_hasher="bcrypt", bcrypt_rounds=10)
    assert code(await log_in(blow, email="ann@example.com", password="wrong-orbit-92")) == (401, "INVALID_CREDENTIALS")
    assert await stored_hash(stored) == first
    await blow.log_in("ann@example.com")
    second = await stored_hash(stored)
    assert re.fullmatch(r"\$2b\$10\$[./A-Za-z0-9]{53}", second)
    await blow.log_in("ann@example.com")
    assert await stored_hash(stored) == second
    await api.log_in("ann@example.com")
    assert (await stored_hash(stored)).startswith("$argon2id$")
    await blow.register("ben@example.com")
    assert await stored.value("SELECT count(*) FROM users WHERE hashed_password LIKE '$2b$10$%'") == 1


# Logging in


@pytest.mark.covers("A034", "A088", "B018", "B025", "B067", "D011", "D018", "D019", "E099")
async def test_login_takes_address_username_or_either_as_json_or_as_a_form(api: Api) -> None:
    ann = await api.register("ann@example.com", username="ann-b")
    for fields in (
        {"email": "ann@example.com"}, {"username": "ann-b"}, {"identifier": "ann@example.com"}, {"identifier": "Ann-B"},
        {"email": "ann-b"}, {"username": "ANN@example.com"},
    ):  # fmt: skip
        answer = await log_in(api, **fields)
        assert (answer.status_code, set(answer.json())) == (200, TOKENS | {"user"}), fields
        assert answer.json()["user"]["id"] == ann.user_id
    for name in ("ann@example.com", "ANN-B"):
        form = {"grant_type": "password", "username": name, "password": PASSWORD, "scope": "", "client_id": "docs",
                "client_secret": ""}  # fmt: skip
        for fields in (form, {"username": name, "password": PASSWORD}):
            answer = await api.client.post("/api/v1/auth/login", data=fields)
            assert (answer.status_code, answer.json()["user"]["id"]) == (200, ann.user_id)
    assert answer.headers["cache-control"] == "no-store"
    assert (await api.person(answer.json(), "").get("/auth/me")).json()["id"] == ann.user_id


def without_request_id(response: httpx.Response) -> tuple[int, dict[str, Any], str]:
    body = response.json()
    assert body.pop("request_id")
    return response.status_code, body, response.headers["www-authenticate"]


@pytest.mark.covers("A035", "B067")
async def test_unknown_wrong_and_deactivated_look_alike(api: Api, stored: Stored) -> None:
    await api.register("ann@example.com", username="ann-b")
    await api.register("off@example.com", username="off-b")
    await api.register("gone@example.com")
    await stored.rows("UPDATE users SET is_active = FALSE WHERE email = ?", "off@example.com")
    await stored.rows("UPDATE users SET hashed_password = NULL WHERE email = ?", "gone@example.com")
    attempts: list[dict[str, str]] = [
        {"email": "ann@example.com", "password": "wrong-orbit-92"}, {"username": "ann-b", "password": PASSWORD + "x"},
        {"email": "nobody@example.com"}, {"username": "nobody"}, {"identifier": "no body"}, {"identifier": ""},
        {"email": "off@example.com"}, {"username": "off-b"}, {"email": "gone@example.com"}, {"email": "' OR 1=1 --@x"},
        {"identifier": "\u202e\U0001f600"}, {"email": "a" * 254},
    ]  # fmt: skip
    answers = [without_request_id(await log_in(api, **attempt)) for attempt in attempts]
    form = {"username": "ann-b", "password": "wrong-orbit-92"}
    answers.append(without_request_id(await api.client.post("/api/v1/auth/login", data=form)))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == 401
    assert answers[0][1]["code"] == "INVALID_CREDENTIALS"
    assert answers[0][2].startswith("Bearer ")
    assert await stored.value("SELECT count(*) FROM sessions") == 3


@shared
@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"password": PASSWORD}, {"body"}),
        ({"email": "a@example.com", "username": "a", "password": PASSWORD}, {"body"}),
        ({"email": None, "username": None, "password": PASSWORD}, {"body"}),
        ({"email": "a@example.com"}, {"password"}),
        ({"email": 5, "password": []}, {"email", "password"}),
        ({"email": "a" * 255, "password": "p" * 1025}, {"email", "password"}),
        ({"identifier": "a", "password": PASSWORD, "remember": True}, {"remember"}),
        ([], {"body"}), ("text", {"body"}), (5, {"body"}),
    ],
    ids=range(10),
)  # fmt: skip
async def test_credentials_in_no_proper_form_are_named(house: Api, body: Any, fields: set[str]) -> None:
    answer = await house.client.post("/api/v1/auth/login", json=body)
    assert answer.status_code == 422, answer.text
    assert {error["field"] for error in answer.json()["errors"]} == fields
    assert PASSWORD not in answer.text


@shared
@pytest.mark.parametrize(
    ("kind", "content", "status"),
    [
        ("application/json", b"", 400), ("application/json", b"null", 422), ("application/json", b"{", 400),
        ("application/json", b"\xff", 400),
        ("application/json", b'{"email":"a","email":"b","password":"c"}', 400),
        ("text/plain", b'{"email":"a","password":"c"}', 415), ("", b'{"email":"a","password":"c"}', 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("application/x-www-form-urlencoded", b"", 422),
        ("application/x-www-form-urlencoded", b"username=ann&username=ben&password=x", 422),
        ("application/x-www-form-urlencoded", b"username=ann&password=x&password=y", 422),
        ("application/x-www-form-urlencoded", b"username=ann&password=x&grant_type=refresh_token", 422),
        ("application/x-www-form-urlencoded", b"username=ann&password=x&role=admin", 422),
        ("application/x-www-form-urlencoded", b"&".join([b"username=ann"] * 50), 400),
        ("application/x-www-form-urlencoded; charset=utf-8", b"username=ann&password=%ff%00", 422),
        ("Application/JSON; charset=utf-8", b'{"email":"a","password":"c"}', 401),
    ],
    ids=range(16),
)  # fmt: skip
async def test_a_login_that_cannot_be_read(house: Api, kind: str, content: bytes, status: int) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = await house.client.post("/api/v1/auth/login", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


# Logging out


@pytest.mark.covers("A048", "A088", "B047")
async def test_logout_ends_one_session_only(api: Api, ann: Person) -> None:
    other = await api.log_in(ann.email)
    assert (await ann.post("/auth/logout")).status_code == 204
    assert code(await ann.get("/auth/me")) == (401, "SESSION_ENDED")
    refresh = await api.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})
    assert code(refresh) == (401, "SESSION_ENDED")
    assert (await other.get("/auth/me")).status_code == 200


@pytest.mark.covers("A049")
async def test_logout_can_end_every_session_of_the_caller_and_no_other(api: Api, ann: Person, ben: Person) -> None:
    others = [await api.log_in(ann.email) for _ in range(3)]
    assert (await ann.post("/auth/logout", json={"all_sessions": False})).status_code == 204
    assert (await others[0].get("/auth/me")).status_code == 200
    assert (await others[0].post("/auth/logout", json={"all_sessions": True})).status_code == 204
    for session in (ann, *others):
        assert code(await session.get("/auth/me")) == (401, "SESSION_ENDED")
        refresh = await api.client.post("/api/v1/auth/refresh", json={"refresh_token": session.refresh_token})
        assert code(refresh) == (401, "SESSION_ENDED")
    assert (await ben.get("/auth/me")).status_code == 200
    assert (await (await api.log_in(ann.email)).get("/auth/me")).status_code == 200


async def test_logouts_at_once_are_all_fine(api: Api, ann: Person) -> None:
    answers = await asyncio.gather(*(ann.post("/auth/logout") for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {204, 401}
    assert answers[0].status_code == 204


@pytest.mark.parametrize(
    "body", [{"all_sessions": "yes"}, {"all_sessions": 1}, {"all_sessions": None}, {"everywhere": True}, [], "all"]
)
async def test_a_logout_that_cannot_be_understood_ends_nothing(ann: Person, body: Any) -> None:
    assert (await ann.post("/auth/logout", json=body)).status_code == 422
    assert (await ann.get("/auth/me")).status_code == 200
