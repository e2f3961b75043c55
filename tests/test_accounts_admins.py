"""Administrators of the accounts contract: who may become one, what they see, and what is useless to everybody else."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.fixtures.accounts import (
    REGISTRATION,
    REGISTRATION_TOKEN,
    Accounts,
    Member,
    check_refusal,
    faulty_fields,
)
from tests.fixtures.application import PASSWORD, StartApp
from tests.fixtures.smtp import MailServer, Mode
from tests.fixtures.stored import Stored

TOKEN_KEYS = ["access_token", "refresh_token", "token_type", "expires_in"]


async def events(stored: Stored, event: str) -> Sequence[tuple[str, str | None, str]]:
    """Actor, target and details of each event of this kind, oldest first."""
    return [
        (row[0], row[1], row[2])
        for row in await stored.rows(
            "SELECT actor_id, target_id, details FROM audit_log WHERE event = ? ORDER BY id", event
        )
    ]


# Becoming one


@pytest.mark.covers("D103", "D011")
async def test_the_first_administrator_comes_in_with_the_registration_token_once(
    accounts: Accounts, stored: Stored
) -> None:
    answer = await accounts.post("/admins/register", json=accounts.draft(name="Root"), headers=REGISTRATION)
    assert (answer.status_code, list(answer.json())) == (201, ["admin", *TOKEN_KEYS])
    root = accounts.member(answer, 201)
    assert (root.account["role"], root.account["name"], root.account["is_active"]) == ("admin", "Root", True)
    assert (await accounts.get("/admins/me", root)).json() == root.account
    assert (await accounts.log_in(root.username, at="/admins")).id == root.id
    again = await accounts.post("/admins/register", json=accounts.draft(), headers=REGISTRATION)
    check_refusal(again, 403, "AuthorizationError")
    assert await stored.value("SELECT count(*) FROM users") == 1
    assert await events(stored, "admin.registered") == [(root.id, root.id, '{"by": "registration_token"}')]


@pytest.mark.covers("D103")
async def test_registering_administrators_is_never_open(accounts: Accounts, user: Member, start_app: StartApp) -> None:
    draft = accounts.draft()
    check_refusal(await accounts.post("/admins/register", json=draft), 401, "AuthenticationError")
    check_refusal(await accounts.post("/admins/register", user, json=draft), 403, "AuthorizationError")
    for token in ("", "x", REGISTRATION_TOKEN[:-1], REGISTRATION_TOKEN + "x", REGISTRATION_TOKEN.upper(), "ä" * 46):
        wrong = {"X-Admin-Registration-Token": token.encode()}
        answer = await accounts.post("/admins/register", json=draft, headers=wrong)
        check_refusal(answer, 401, "AuthenticationError")
        # A body that is wrong is not even looked at.
        answer = await accounts.post("/admins/register", json=[], headers=wrong)
        check_refusal(answer, 401, "AuthenticationError")
    assert (await accounts.post("/users/register", json=draft | {"role": "admin"})).status_code == 422
    without = Accounts(await start_app())
    for headers in (REGISTRATION, {"X-Admin-Registration-Token": ""}, {"X-Admin-Registration-Token": "None"}):
        answer = await without.post("/admins/register", json=draft, headers=headers)
        check_refusal(answer, 401, "AuthenticationError")
    await accounts.register_admin()


@pytest.mark.covers("D103")
async def test_the_registration_token_opens_nothing_where_an_administrator_came_in_another_way(
    accounts: Accounts, user: Member, stored: Stored
) -> None:
    await stored.rows("UPDATE users SET role = 'admin'")
    answer = await accounts.post("/admins/register", json=accounts.draft(), headers=REGISTRATION)
    check_refusal(answer, 403, "AuthorizationError")
    assert (await accounts.get("/admins/me", user)).status_code == 200


@pytest.mark.covers("D103")
async def test_a_registration_that_is_refused_does_not_use_the_token_up(accounts: Accounts, user: Member) -> None:
    for fields, field in (({"email": "x"}, "email"), ({"password": "password1"}, "password")):
        answer = await accounts.post("/admins/register", json=accounts.draft(**fields), headers=REGISTRATION)
        assert faulty_fields(answer) == {field}
    taken = await accounts.post("/admins/register", json=accounts.draft(email=user.email), headers=REGISTRATION)
    check_refusal(taken, 409, "ConflictError")
    await accounts.register_admin()


@pytest.mark.covers("D103")
async def test_of_64_first_administrators_at_once_one_gets_in(start_app: StartApp, stored: Stored) -> None:
    settings = {"admin_registration_token": REGISTRATION_TOKEN, "rate_limit_enabled": False}
    replicas = [Accounts(await start_app(**settings)) for _ in range(2)]
    answers = await asyncio.gather(
        *(
            replicas[number % 2].post("/admins/register", json=replicas[0].draft(), headers=REGISTRATION)
            for number in range(64)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201, *[403] * 63]
    assert await stored.value("SELECT count(*) FROM users") == 1
    assert await stored.value("SELECT count(*) FROM sessions") == 1
    assert len(await events(stored, "admin.registered")) == 1
    # Even where every administrator is gone, the token stays used.
    await stored.rows("UPDATE users SET role = 'user'")
    late = await replicas[0].post("/admins/register", json=replicas[0].draft(), headers=REGISTRATION)
    check_refusal(late, 403, "AuthorizationError")
    assert await stored.value("SELECT count(*) FROM users") == 1


@pytest.mark.covers("D103", "D104")
async def test_an_administrator_registers_another_who_can_log_in(
    accounts: Accounts, admin: Member, stored: Stored
) -> None:
    draft = accounts.draft()
    check_refusal(
        await accounts.post("/admins/register", admin, json=draft | {"email": admin.email}), 409, "ConflictError"
    )
    second = accounts.member(await accounts.post("/admins/register", admin, json=draft), 201)
    assert second.account["role"] == "admin"
    for name in ({"email": second.email}, {"username": second.username}, {"identifier": second.username.upper()}):
        answer = await accounts.post("/admins/login", json={**name, "password": PASSWORD})
        assert (answer.status_code, list(answer.json())) == (200, ["admin", *TOKEN_KEYS])
        assert answer.json()["admin"]["id"] == second.id
    assert (await events(stored, "admin.registered"))[-1] == (admin.id, second.id, '{"by": "administrator"}')
    await accounts.register_admin(second)


# Signing in


@pytest.mark.covers("D104", "D064")
async def test_users_and_wrong_passwords_are_refused_at_the_administrators_login(
    accounts: Accounts, admin: Member, user: Member, stored: Stored
) -> None:
    sessions = await stored.value("SELECT count(*) FROM sessions")
    for name in (user.email, user.username):
        right = await accounts.post("/admins/login", json={"identifier": name, "password": PASSWORD})
        check_refusal(right, 403, "AuthorizationError")
    for name in (user.email, admin.email, "nobody"):
        wrong = await accounts.post("/admins/login", json={"identifier": name, "password": PASSWORD + "x"})
        check_refusal(wrong, 401, "AuthenticationError")
    assert await stored.value("SELECT count(*) FROM sessions") == sessions


@pytest.mark.covers("D105", "D020")
async def test_an_administrators_refresh_token_works_and_a_users_is_refused_and_not_spent(
    accounts: Accounts, admin: Member, user: Member
) -> None:
    answer = await accounts.post("/admins/refresh", json={"refresh_token": admin.refresh_token})
    assert (answer.status_code, list(answer.json())) == (200, TOKEN_KEYS)
    renewed = Member(admin.account, answer.json()["access_token"], answer.json()["refresh_token"])
    assert (await accounts.get("/admins/me", renewed)).status_code == 200
    for token in (user.refresh_token, "x", user.access_token):
        refused = await accounts.post("/admins/refresh", json={"refresh_token": token[:500]})
        check_refusal(refused, 401, "AuthenticationError")
    # Here it would be taken for stolen if the refusal above had used it up.
    answer = await accounts.post("/users/refresh", json={"refresh_token": user.refresh_token})
    assert answer.status_code == 200
    child = answer.json()["refresh_token"]
    # The one just replaced is forgiven at /users for a lost answer, and is as useless here as ever.
    refused = await accounts.post("/admins/refresh", json={"refresh_token": user.refresh_token})
    check_refusal(refused, 401, "AuthenticationError")
    assert (await accounts.post("/users/refresh", json={"refresh_token": child})).status_code == 200


@pytest.mark.covers("D106", "D064", "D033")
async def test_a_users_token_opens_no_administrators_route(
    accounts: Accounts, admin: Member, user: Member, stored: Stored
) -> None:
    routes = (("GET", "/admins/me"), ("GET", "/admins/users"), ("POST", "/password/test-email"))
    for method, path in routes:
        check_refusal(await accounts.call(method, path, user), 403, "AuthorizationError")
        assert (await accounts.call(method, path, admin)).status_code == 200
    denied = await stored.rows("SELECT actor_id, details FROM audit_log WHERE event = 'access.denied' ORDER BY id")
    assert [row[0] for row in denied] == [user.id] * 3
    assert all(path in row[1] for (_, path), row in zip(routes, denied, strict=True))


@pytest.mark.covers("D106")
async def test_the_tokens_of_an_administrator_who_is_none_any_more_are_useless(
    accounts: Accounts, admin: Member
) -> None:
    second = await accounts.register_admin(admin)
    answer = await accounts.call("PATCH", f"/v1/users/{second.id}", admin, json={"role": "user"})
    assert answer.status_code == 200, answer.text
    assert (await accounts.get("/admins/me", second)).status_code in {401, 403}
    refused = await accounts.post("/admins/refresh", json={"refresh_token": second.refresh_token})
    check_refusal(refused, 401, "AuthenticationError")
    login = await accounts.post("/admins/login", json={"email": second.email, "password": PASSWORD})
    check_refusal(login, 403, "AuthorizationError")


# The list of users


@pytest.mark.covers("D033", "D034")
async def test_pages_hold_everybody_once_newest_first(accounts: Accounts, admin: Member, stored: Stored) -> None:
    made = [admin.id] + [(await accounts.register()).id for _ in range(6)]
    found: list[str] = []
    for page in (1, 2, 3):
        answer = await accounts.get(f"/admins/users?page={page}&page_size=3", admin)
        body = answer.json()
        assert list(body) == ["items", "total", "page", "page_size", "pages"]
        assert (body["total"], body["page"], body["page_size"], body["pages"]) == (7, page, 3, 3)
        found += [item["id"] for item in body["items"]]
    assert found == made[::-1]
    beyond = (await accounts.get("/admins/users?page=4&page_size=3", admin)).json()
    assert (beyond["items"], beyond["total"], beyond["pages"]) == ([], 7, 3)
    whole = (await accounts.get("/admins/users", admin)).json()
    assert (whole["page"], whole["page_size"], whole["pages"], len(whole["items"])) == (1, 20, 1, 7)
    assert whole["items"][-1] == (await accounts.get("/admins/me", admin)).json()
    assert (await events(stored, "users.listed"))[0] == (
        admin.id, None, '{"is_active": null, "page": 1, "page_size": 3}',
    )  # fmt: skip


@pytest.mark.covers("D034", "D035", "D067")
async def test_a_query_out_of_bounds_is_refused_by_name(accounts: Accounts, admin: Member) -> None:
    for query, field in (
        ("page_size=0", "query.page_size"), ("page_size=101", "query.page_size"), ("page_size=1_0", "query.page_size"),
        ("page=0", "query.page"), ("page=-1", "query.page"), ("page=9999999", "query.page"), ("page=x", "query.page"),
        ("is_active=maybe", "query.is_active"), ("is_active=1", "query.is_active"), ("limit=5", "query"),
    ):  # fmt: skip
        assert faulty_fields(await accounts.get(f"/admins/users?{query}", admin)) == {field}
    assert (await accounts.get("/admins/users?page=1000000&page_size=100", admin)).json()["items"] == []


@pytest.mark.covers("D035")
async def test_the_list_can_be_of_the_active_or_the_others_alone(accounts: Accounts, admin: Member) -> None:
    asleep, awake = await accounts.register(), await accounts.register()
    answer = await accounts.call("PATCH", f"/v1/users/{asleep.id}", admin, json={"is_active": False})
    assert answer.status_code == 200, answer.text
    for query, expected in (
        ("?is_active=true", {admin.id, awake.id}),
        ("?is_active=false", {asleep.id}),
        ("", {admin.id, awake.id, asleep.id}),
    ):
        body = (await accounts.get(f"/admins/users{query}", admin)).json()
        assert ({item["id"] for item in body["items"]}, body["total"]) == (expected, len(expected))
    login = await accounts.post("/users/login", json={"email": asleep.email, "password": PASSWORD})
    check_refusal(login, 401, "AuthenticationError")


# The test mail


@pytest.mark.covers("D042", "D036", "D040")
async def test_the_test_mail_arrives_at_the_administrator_or_where_it_is_sent(
    accounts: Accounts, admin: Member, mail_server: MailServer
) -> None:
    for body, recipient in (
        ({}, admin.email),
        ({"json": {}}, admin.email),
        ({"json": {"to": None}}, admin.email),
        ({"json": {"to": "Postmaster@example.org"}}, "postmaster@example.org"),
    ):
        mail_server.messages.clear()
        answer = await accounts.post("/password/test-email", admin, **body)
        assert (answer.status_code, list(answer.json())) == (200, ["message"])
        mail = await mail_server.wait_for(recipient, "test")
        assert mail.sender == "tasks@example.com"
        assert mail.html
        assert mail.text
    for wrong in ({"to": "x"}, {"to": "a@example.com\r\nBcc: b@example.com"}, {"to": ["a@example.com"]}):
        assert faulty_fields(await accounts.post("/password/test-email", admin, json=wrong)) == {"to"}


@pytest.mark.covers("D042", "D041")
async def test_a_test_mail_that_is_not_taken_is_a_mail_error_with_the_servers_answer(
    accounts: Accounts, admin: Member, mail_server: MailServer, caplog: pytest.LogCaptureFixture
) -> None:
    refusals: tuple[tuple[Mode, str], ...] = (("refuse", "550"), ("451", "451"))
    for mode, said in refusals:
        mail_server.mode = mode
        answer = await accounts.post("/password/test-email", admin, json={"to": "somebody@example.com"})
        assert said in check_refusal(answer, 502, "MailError")["message"]
        assert "somebody" not in answer.text
        assert said in caplog.text
    await mail_server.stop()
    answer = await accounts.post("/password/test-email", admin)
    check_refusal(answer, 502, "MailError")
    assert (await accounts.get("/admins/me", admin)).status_code == 200
