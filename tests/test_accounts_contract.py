"""Users and passwords of the accounts contract: every scenario of a client that keeps users and admins apart."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest

from duly.kit.clock import now, parse_rfc3339
from tests.fixtures.accounts import Accounts, Member, check_refusal, faulty_fields
from tests.fixtures.application import PASSWORD, StartApp
from tests.fixtures.smtp import MailServer, Mode
from tests.fixtures.stored import Stored

NEW = "lighthouse-marmalade-7"
LINK = re.compile(r"https?://[^\s\"<>]+/(?:reset-password|confirm-email|verify-email)\?token=([\w-]+)")
TOKEN_KEYS = ["access_token", "refresh_token", "token_type", "expires_in"]


def token_in(text: str) -> str:
    found = LINK.search(text)
    assert found, text
    return found[1]


async def age(stored: Stored, column: str, table: str, time_passed: timedelta) -> None:
    """Move a moment of every row into the past."""
    for (kept,) in await stored.rows(f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL"):
        moment = parse_rfc3339(kept) if isinstance(kept, str) else kept
        await stored.rows(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", moment - time_passed, moment)


async def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for what happens by itself. Fails when time is up."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        await asyncio.sleep(0.02)


# Register, log in, refresh


@pytest.mark.covers("D100")
async def test_register_takes_address_username_and_password(accounts: Accounts) -> None:
    answer = await accounts.post(
        "/users/register", json={"email": "Ann@Example.com", "username": "Ann", "password": PASSWORD, "name": "Ann"}
    )
    assert answer.status_code == 201
    assert list(answer.json()) == ["user", *TOKEN_KEYS]
    user = answer.json()["user"]
    assert (user["email"], user["username"], user["name"]) == ("ann@example.com", "Ann", "Ann")
    assert (user["role"], user["is_active"], user["email_verified"]) == ("user", True, False)
    assert "password" not in answer.text
    assert (await accounts.get("/users/me", accounts.member(answer, 201))).json() == user


@pytest.mark.covers("D100", "D067", "D037")
async def test_each_field_of_a_registration_is_required_and_checked(accounts: Accounts, stored: Stored) -> None:
    wrong: tuple[tuple[str, Any], ...] = (
        ("email", None), ("username", None), ("password", None), ("email", "not-an-address"), ("username", "a b"),
        ("username", "ab"), ("password", "short"), ("password", "password1"), ("role", "admin"),
    )  # fmt: skip
    for field, value in wrong:
        draft = accounts.draft(**{field: value})
        if value is None:
            del draft[field]
        assert faulty_fields(await accounts.post("/users/register", json=draft)) == {field}
    assert await stored.value("SELECT count(*) FROM users") == 0


@pytest.mark.covers("D100", "D072")
async def test_a_taken_address_or_username_is_a_conflict(accounts: Accounts, user: Member) -> None:
    for taken in ({"email": user.email.upper()}, {"username": user.username.upper()}):
        answer = await accounts.post("/users/register", json=accounts.draft(**taken))
        assert next(iter(taken.values())) not in check_refusal(answer, 409, "ConflictError")["message"]
    drafts = [accounts.draft(username="OneOfMany") for _ in range(8)]
    answers = await asyncio.gather(*(accounts.post("/users/register", json=draft) for draft in drafts))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 7]


@pytest.mark.covers("D100", "D064")
async def test_closed_registration_says_so_and_verified_registration_tells_nothing(
    start_app: StartApp, mail_server: MailServer
) -> None:
    closed = Accounts(await start_app(registration="closed"))
    check_refusal(await closed.post("/users/register", json=closed.draft()), 403, "AuthorizationError")
    verified = Accounts(await start_app(registration="verified", **mail_server.settings))
    draft = verified.draft()
    first = await verified.post("/users/register", json=draft)
    mail = await mail_server.wait_for(draft["email"])
    again = await verified.post("/users/register", json=draft | {"username": "another"})
    assert (first.status_code, list(first.json())) == (202, ["message"])
    assert (again.status_code, again.content) == (202, first.content)
    proof = await verified.post("/v1/auth/verify-email", json={"token": token_in(mail.text)})
    assert proof.status_code == 204
    await verified.log_in(draft["username"])


@pytest.mark.covers("D101", "D018", "D019")
async def test_login_answers_an_access_token_of_15_minutes_and_a_refresh_token_of_7_days(
    accounts: Accounts, user: Member, stored: Stored
) -> None:
    await stored.rows("DELETE FROM refresh_tokens")
    answer = await accounts.post("/users/login", json={"email": user.email, "password": PASSWORD})
    assert answer.status_code == 200
    assert list(answer.json()) == ["user", *TOKEN_KEYS]
    assert (answer.json()["token_type"], answer.json()["expires_in"]) == ("bearer", 900)
    claims = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 900
    begins = await stored.moment("SELECT created_at FROM refresh_tokens")
    ends = await stored.moment("SELECT expires_at FROM refresh_tokens")
    assert begins
    assert ends
    assert (ends - begins).total_seconds() == 604_800


@pytest.mark.covers("D101", "D063")
async def test_login_takes_any_of_three_names_and_refuses_all_others_alike(accounts: Accounts, user: Member) -> None:
    for name in ({"email": user.email}, {"username": user.username}, {"identifier": user.email.upper()}):
        answer = await accounts.post("/users/login", json={**name, "password": PASSWORD})
        assert answer.json()["user"]["id"] == user.id
    refused = [
        await accounts.post("/users/login", json={"username": name, "password": NEW})
        for name in (user.username, user.email, "nobody")
    ]
    messages = {check_refusal(answer, 401, "AuthenticationError")["message"] for answer in refused}
    assert len(messages) == 1
    both = {"email": user.email, "username": user.username, "password": PASSWORD}
    for body in (both, {"password": PASSWORD}):
        assert faulty_fields(await accounts.post("/users/login", json=body))


@pytest.mark.covers("D101")
async def test_five_wrong_passwords_lock_the_account_in_the_contracts_shape(accounts: Accounts, user: Member) -> None:
    for _ in range(5):
        await accounts.post("/users/login", json={"email": user.email, "password": NEW})
    answer = await accounts.post("/users/login", json={"email": user.email, "password": PASSWORD})
    check_refusal(answer, 423, "AccountLockedError")
    assert 0 < int(answer.headers["retry-after"]) <= 900


@pytest.mark.covers("D102", "D020")
async def test_refreshing_brings_a_working_pair_and_ends_the_old_refresh_token(
    accounts: Accounts, user: Member, stored: Stored
) -> None:
    answer = await accounts.post("/users/refresh", json={"refresh_token": user.refresh_token})
    assert (answer.status_code, list(answer.json())) == (200, TOKEN_KEYS)
    renewed = Member(user.account, answer.json()["access_token"], answer.json()["refresh_token"])
    assert (await accounts.get("/users/me", renewed)).json()["id"] == user.id
    assert renewed.refresh_token != user.refresh_token
    await age(stored, "replaced_at", "refresh_tokens", timedelta(seconds=11))
    old = await accounts.post("/users/refresh", json={"refresh_token": user.refresh_token})
    check_refusal(old, 401, "AuthenticationError")
    # Somebody has a token twice: whoever it is, the session is over.
    for member in (user, renewed):
        check_refusal(await accounts.get("/users/me", member), 401, "AuthenticationError")
    last = await accounts.post("/users/refresh", json={"refresh_token": renewed.refresh_token})
    check_refusal(last, 401, "AuthenticationError")


@pytest.mark.covers("D021", "D063", "D028", "D031", "D033", "D106", "D042")
async def test_each_protected_route_wants_a_token_before_it_looks_at_the_body(accounts: Accounts, user: Member) -> None:
    forged = Member(user.account, user.access_token[:-6] + "AAAAAA", "")
    for method, path in (
        ("GET", "/users/me"), ("PUT", "/users/me"), ("POST", "/users/change-password"), ("POST", "/admins/register"),
        ("GET", "/admins/me"), ("GET", "/admins/users"), ("POST", "/password/test-email"),
    ):  # fmt: skip
        broken: dict[str, Any] = (
            {"content": b'{"a', "headers": {"Content-Type": "application/json"}} if method != "GET" else {}
        )
        answer = await accounts.call(method, path, **broken)
        check_refusal(answer, 401, "AuthenticationError")
        assert answer.headers["www-authenticate"] == 'Bearer realm="duly"'
        answer = await accounts.call(method, path, forged, **broken)
        check_refusal(answer, 401, "AuthenticationError")
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


# The own account


@pytest.mark.covers("D028", "D029")
async def test_a_user_reads_and_renames_themselves(accounts: Accounts, user: Member) -> None:
    assert (await accounts.get("/users/me", user)).json() == user.account
    answer = await accounts.put("/users/me", user, json={"name": "Ann  Smith", "username": "ann.smith"})
    assert answer.status_code == 200
    assert answer.json() | {"updated_at": ""} == user.account | {
        "name": "Ann  Smith", "username": "ann.smith", "updated_at": "",
    }  # fmt: skip
    assert (await accounts.get("/users/me", user)).json() == answer.json()
    assert (await accounts.put("/users/me", user, json={"name": None})).json()["name"] is None
    assert (await accounts.put("/users/me", user, json={})).json()["username"] == "ann.smith"


@pytest.mark.covers("D029", "D067")
async def test_a_user_as_read_can_be_sent_back_whole_and_gains_no_right(accounts: Accounts, user: Member) -> None:
    me = (await accounts.get("/users/me", user)).json()
    wanted = me | {"name": "Ann", "role": "admin", "is_active": False, "email_verified": True, "id": "x"}
    answer = await accounts.put("/users/me", user, json=wanted)
    assert answer.status_code == 200, answer.text
    assert answer.json() | {"updated_at": ""} == me | {"name": "Ann", "updated_at": ""}
    assert faulty_fields(await accounts.put("/users/me", user, json={"title": "Dr"})) == {"title"}
    other = await accounts.register()
    taken = await accounts.put("/users/me", user, json={"username": other.username})
    check_refusal(taken, 409, "ConflictError")


@pytest.mark.covers("D030", "D037")
async def test_a_new_address_needs_the_password_and_is_the_users_once_its_mail_is_answered(
    accounts: Accounts, user: Member, mail_server: MailServer
) -> None:
    new = "ann.new@example.com"
    assert faulty_fields(await accounts.put("/users/me", user, json={"email": "ann.new@"})) == {"email"}
    assert faulty_fields(await accounts.put("/users/me", user, json={"email": None})) == {"email"}
    assert faulty_fields(await accounts.put("/users/me", user, json={"email": new})) == {"current_password"}
    wrong = await accounts.put("/users/me", user, json={"name": "X", "email": new, "current_password": NEW})
    check_refusal(wrong, 403, "AuthorizationError")
    answer = await accounts.put("/users/me", user, json={"name": "Ann", "email": new, "current_password": PASSWORD})
    assert (answer.status_code, answer.json()["email"], answer.json()["name"]) == (200, user.email, "Ann")
    mail = await mail_server.wait_for(new)
    assert not [found for found in mail_server.to(user.email) if token_in(mail.text) in found.text]
    await accounts.log_in(user.email)
    proof = await accounts.post("/v1/auth/confirm-email", json={"token": token_in(mail.text)})
    assert proof.status_code == 204
    assert (await accounts.log_in(new)).account["email_verified"] is True
    old = await accounts.post("/users/login", json={"email": user.email, "password": PASSWORD})
    check_refusal(old, 401, "AuthenticationError")


@pytest.mark.covers("D030")
async def test_an_address_in_use_is_refused_and_nothing_else_of_the_request_is_done(
    accounts: Accounts, user: Member, mail_server: MailServer
) -> None:
    other = await accounts.register()
    wanted = {"name": "Changed", "email": other.email, "current_password": PASSWORD}
    check_refusal(await accounts.put("/users/me", user, json=wanted), 409, "ConflictError")
    wrong = await accounts.put("/users/me", user, json=wanted | {"email": "x@example.com", "current_password": NEW})
    check_refusal(wrong, 403, "AuthorizationError")
    assert (await accounts.get("/users/me", user)).json() == user.account
    same = {"email": user.email.upper(), "name": "Ann"}
    assert (await accounts.put("/users/me", user, json=same)).json()["name"] == "Ann"


@pytest.mark.covers("D031", "D067")
async def test_the_password_changes_only_for_who_knows_it(accounts: Accounts, user: Member) -> None:
    other = await accounts.log_in(user.email)
    wrong = await accounts.post(
        "/users/change-password", user, json={"current_password": NEW, "new_password": NEW + "x"}
    )
    check_refusal(wrong, 403, "AuthorizationError")
    weak = await accounts.post(
        "/users/change-password", user, json={"current_password": PASSWORD, "new_password": "password1"}
    )
    assert faulty_fields(weak) == {"new_password"}
    answer = await accounts.post(
        "/users/change-password", user, json={"current_password": PASSWORD, "new_password": NEW}
    )
    assert (answer.status_code, list(answer.json())) == (200, ["message"])
    check_refusal(
        await accounts.post("/users/login", json={"email": user.email, "password": PASSWORD}),
        401,
        "AuthenticationError",
    )
    await accounts.log_in(user.email, NEW)
    assert (await accounts.get("/users/me", user)).status_code == 200
    check_refusal(await accounts.get("/users/me", other), 401, "AuthenticationError")


@pytest.mark.covers("D032")
async def test_a_deleted_user_is_gone_for_everybody_and_the_row_stays_with_a_mark(
    accounts: Accounts, user: Member, admin: Member, stored: Stored
) -> None:
    answer = await accounts.call("DELETE", f"/v1/users/{user.id}", admin)
    assert answer.status_code == 204, answer.text
    check_refusal(await accounts.get("/users/me", user), 401, "AuthenticationError")
    login = await accounts.post("/users/login", json={"email": user.email, "password": PASSWORD})
    check_refusal(login, 401, "AuthenticationError")
    assert [item["id"] for item in (await accounts.get("/admins/users", admin)).json()["items"]] == [admin.id]
    assert await stored.moment("SELECT deleted_at FROM users WHERE id = ?", user.id)
    await accounts.register(email=user.email, username=user.username)


# Passwords that were forgotten


@pytest.mark.covers("D038", "D036", "D037")
async def test_a_forgotten_password_is_answered_alike_and_mailed_to_the_known_address_alone(
    accounts: Accounts, user: Member, mail_server: MailServer
) -> None:
    unknown = await accounts.post("/password/forgot-password", json={"email": "nobody@example.com"})
    known = await accounts.post("/password/forgot-password", json={"email": user.email.upper()})
    assert (known.status_code, list(known.json())) == (202, ["message"])
    assert (unknown.status_code, unknown.content) == (202, known.content)
    await mail_server.wait_for(user.email, "reset")
    assert mail_server.to("nobody@example.com") == []
    assert faulty_fields(await accounts.post("/password/forgot-password", json={"email": "ann@"})) == {"email"}


@pytest.mark.covers("D039", "D040")
async def test_the_mailed_token_resets_the_password_once_and_ends_every_session(
    accounts: Accounts, user: Member, mail_server: MailServer
) -> None:
    await accounts.post("/password/forgot-password", json={"email": user.email})
    mail = await mail_server.wait_for(user.email, "reset")
    token = token_in(mail.text)
    assert token_in(mail.html) == token
    assert "<html" in mail.html.lower()
    altered = token[:-1] + ("A" if token[-1] != "A" else "B")
    for bad in (altered, "x", token.swapcase()):
        answer = await accounts.post("/password/reset-password", json={"token": bad, "new_password": NEW})
        assert faulty_fields(answer) == {"token"}
    weak = await accounts.post("/password/reset-password", json={"token": token, "new_password": "password1"})
    assert faulty_fields(weak) == {"new_password"}
    answers = await asyncio.gather(
        *(accounts.post("/password/reset-password", json={"token": token, "new_password": NEW}) for _ in range(4))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 422, 422, 422]
    check_refusal(await accounts.get("/users/me", user), 401, "AuthenticationError")
    check_refusal(
        await accounts.post("/users/refresh", json={"refresh_token": user.refresh_token}), 401, "AuthenticationError"
    )
    await accounts.log_in(user.email, NEW)


@pytest.mark.covers("D039")
async def test_a_reset_token_is_dead_after_an_hour(
    accounts: Accounts, user: Member, mail_server: MailServer, stored: Stored
) -> None:
    await accounts.post("/password/forgot-password", json={"email": user.email})
    token = token_in((await mail_server.wait_for(user.email, "reset")).text)
    ends = await stored.moment("SELECT expires_at FROM one_time_tokens WHERE purpose = 'reset_password'")
    assert ends
    assert 3500 < (ends - now()).total_seconds() <= 3600
    await age(stored, "expires_at", "one_time_tokens", timedelta(hours=1))
    answer = await accounts.post("/password/reset-password", json={"token": token, "new_password": NEW})
    assert faulty_fields(answer) == {"token"}
    await accounts.log_in(user.email)


@pytest.mark.covers("D040")
async def test_a_users_text_is_escaped_in_the_html_of_a_mail(accounts: Accounts, mail_server: MailServer) -> None:
    member = await accounts.register(name='<img src=x onerror="x"> & co')
    await accounts.post("/password/forgot-password", json={"email": member.email})
    mail = await mail_server.wait_for(member.email, "reset")
    assert "<img" not in mail.html
    assert ("<img" in mail.text) == ("&lt;img" in mail.html)


@pytest.mark.covers("D041", "D036")
@pytest.mark.parametrize("mode", ["refuse", "451", "hang"])
async def test_a_mail_server_that_fails_changes_no_answer_and_is_logged_without_the_token(
    accounts: Accounts, user: Member, mail_server: MailServer, caplog: pytest.LogCaptureFixture, mode: Mode
) -> None:
    await mail_server.wait_for(user.email)
    usual = await accounts.post("/password/forgot-password", json={"email": "nobody@example.com"})
    mail_server.mode = mode
    with caplog.at_level(logging.INFO, "duly.outbox"):
        began = time.monotonic()
        answer = await accounts.post("/password/forgot-password", json={"email": user.email})
        took = time.monotonic() - began
        assert (answer.status_code, answer.content) == (202, usual.content)
        assert took < 2
        assert (await accounts.get("/users/me", user)).status_code == 200
        if mode != "hang":
            await until(lambda: "reset_password" in caplog.text)
            assert {"refuse": "550", "451": "451"}[mode] in caplog.text
    mail_server.mode = "ok"
    assert "token=" not in caplog.text
    assert user.email not in caplog.text
    if mode != "refuse":
        mail = await mail_server.wait_for(user.email, "reset")
        assert token_in(mail.text) not in caplog.text
