"""Getting back in and proving an address, over HTTP, with mails that arrive at a real server."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.fixtures.application import PASSWORD, Api, Person, StartApp
from tests.fixtures.smtp import MailServer
from tests.fixtures.stored import Stored
from tests.mails import (
    CONFIRM,
    NEW_PASSWORD,
    PUBLIC_URL,
    RESET,
    VERIFY,
    ask,
    assert_bad_token,
    forget,
    settle,
    token_in,
)  # fmt: skip

PURPOSES = {"verify-email": VERIFY, "reset-password": RESET, "confirm-email": CONFIRM}


@pytest.fixture
async def api(start_app: StartApp, mail_server: MailServer) -> Api:
    return await start_app(**mail_server.settings, public_url=PUBLIC_URL)


async def reset(api: Api, token: str, password: str = NEW_PASSWORD) -> httpx.Response:
    return await ask(api, "reset-password", token=token, new_password=password)


async def log_in(api: Api, name: str, password: str) -> httpx.Response:
    return await ask(api, "login", identifier=name, password=password)


async def is_dead(api: Api, person: Person) -> bool:
    """Neither token of a session is good; refused as a session that has ended, not by chance."""
    me = await person.get("/auth/me")
    renewed = await ask(api, "refresh", refresh_token=person.refresh_token)
    return (me.status_code, renewed.status_code) == (401, 401)


async def change_address(person: Person, new_email: str, password: str = PASSWORD) -> httpx.Response:
    return await person.post("/users/me/change-email", json={"new_email": new_email, "current_password": password})


async def mailed_token(api: Api, mails: MailServer, person: Person, path: str) -> str:
    """A fresh token for what `path` does; the mail of the registration has the one for the address."""
    if path == "reset-password":
        return await forget(api, mails, person.email)
    if path == "verify-email":
        return token_in(await mails.wait_for(person.email, VERIFY))
    assert (await change_address(person, f"new-{person.email}")).status_code == 202
    return token_in(await mails.wait_for(f"new-{person.email}", CONFIRM))


async def use(api: Api, path: str, token: str) -> httpx.Response:
    return await reset(api, token) if path == "reset-password" else await ask(api, path, token=token)


@pytest.mark.covers("A046", "B018", "B024", "D036")
async def test_the_mail_of_a_registration_proves_the_address_once(api: Api, mail_server: MailServer) -> None:
    ann = await api.register(username="ann.lee", name="Ann")
    assert (await ann.get("/tasks")).status_code == 200
    assert (await ann.get("/auth/me")).json()["email_verified"] is False
    mail = await mail_server.wait_for(ann.email, VERIFY)
    assert f"{PUBLIC_URL}/verify-email?token=" in mail.text
    assert list(mail.recipients) == [ann.email]
    proven = await ask(api, "verify-email", token=token_in(mail))
    assert (proven.status_code, proven.content) == (204, b"")
    assert (await ann.get("/auth/me")).json()["email_verified"] is True
    assert_bad_token(await ask(api, "verify-email", token=token_in(mail)))


async def test_the_verification_can_be_asked_for_again_until_it_is_done(
    api: Api, mail_server: MailServer, ann: Person, stored: Stored
) -> None:
    first = token_in(await mail_server.wait_for(ann.email, VERIFY))
    assert (await ask(api, "resend-verification", email=ann.email.upper())).status_code == 202
    second = token_in(await mail_server.wait_for(ann.email, VERIFY, count=2))
    assert_bad_token(await ask(api, "verify-email", token=first))
    assert (await ask(api, "verify-email", token=second)).status_code == 204
    answer = await ask(api, "resend-verification", email=ann.email)
    unknown = await ask(api, "resend-verification", email="nobody@example.com")
    assert (answer.status_code, answer.content) == (202, unknown.content)
    await settle(stored)
    assert len(mail_server.to(ann.email)) == 2
    assert mail_server.to("nobody@example.com") == []


@pytest.mark.covers("A034", "B025", "D038", "D039")
async def test_a_forgotten_password_is_set_anew_and_every_session_ends(api: Api, mail_server: MailServer) -> None:
    ann, elsewhere = await api.register(), await api.register()
    phone = await api.log_in(ann.email)
    token = await forget(api, mail_server, ann.email)
    assert not await is_dead(api, phone)
    done = await reset(api, token)
    assert (done.status_code, done.content) == (204, b"")
    assert (await log_in(api, ann.email, PASSWORD)).status_code == 401
    assert (await log_in(api, ann.email, NEW_PASSWORD)).status_code == 200
    assert await is_dead(api, ann)
    assert await is_dead(api, phone)
    assert (await elsewhere.get("/auth/me")).status_code == 200
    assert_bad_token(await reset(api, token, "another-garden-5521"))
    assert (await log_in(api, ann.email, NEW_PASSWORD)).status_code == 200
    told = await mail_server.wait_for(ann.email, "Your password was changed")
    assert "?token=" not in told.text


@pytest.mark.covers("D038")
async def test_whether_an_address_is_known_shows_only_in_its_box(
    api: Api, mail_server: MailServer, ann: Person, stored: Stored
) -> None:
    known = await ask(api, "forgot-password", email=ann.email)
    unknown = await ask(api, "forgot-password", email="nobody@example.com")
    assert (known.status_code, unknown.status_code) == (202, 202)
    assert known.content == unknown.content
    personal = {"x-request-id", "server-timing", "date"}
    assert {k: v for k, v in known.headers.items() if k not in personal} == {
        k: v for k, v in unknown.headers.items() if k not in personal
    }
    await mail_server.wait_for(ann.email, RESET)
    await settle(stored)
    assert mail_server.to("nobody@example.com") == []


@pytest.mark.covers("D039")
@pytest.mark.parametrize("path", PURPOSES)
async def test_a_token_is_good_for_its_purpose_only_and_exactly_as_mailed(
    api: Api, mail_server: MailServer, ann: Person, path: str
) -> None:
    token = await mailed_token(api, mail_server, ann, path)
    altered = token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
    for bad in (altered, token.swapcase(), token[:-1], token + "A", token + "=", f" {token}", "x", "\u00e9" * 43):
        assert_bad_token(await use(api, path, bad))
    for other in PURPOSES.keys() - {path}:
        assert_bad_token(await use(api, other, token))
    for broken in ("", token + "\0", "a" * 513):
        assert (await use(api, path, broken)).status_code == 422
    assert (await use(api, path, token)).status_code == 204


@pytest.mark.covers("D039")
@pytest.mark.parametrize("path", PURPOSES)
async def test_a_token_expires(api: Api, mail_server: MailServer, ann: Person, stored: Stored, path: str) -> None:
    hours = 1 if path == "reset-password" else 24
    token = await mailed_token(api, mail_server, ann, path)
    purpose = path.replace("-", "_")
    expires_at = await stored.moment("SELECT expires_at FROM one_time_tokens WHERE purpose = ?", purpose)
    assert expires_at is not None
    left = expires_at - datetime.now(UTC)
    assert timedelta(hours=hours) - timedelta(seconds=60) < left <= timedelta(hours=hours)
    move = "UPDATE one_time_tokens SET expires_at = ? WHERE purpose = ?"
    await stored.rows(move, datetime.now(UTC) - timedelta(seconds=1), purpose)
    assert_bad_token(await use(api, path, token))
    await stored.rows(move, datetime.now(UTC) + timedelta(seconds=30), purpose)
    assert (await use(api, path, token)).status_code == 204


async def test_a_newer_mail_ends_the_token_of_the_older_one(
    api: Api, mail_server: MailServer, ann: Person, ben: Person
) -> None:
    bens = await forget(api, mail_server, ben.email)
    first = await forget(api, mail_server, ann.email)
    second = await forget(api, mail_server, ann.email, count=2)
    assert first != second
    assert_bad_token(await reset(api, first))
    assert (await reset(api, second)).status_code == 204
    assert (await reset(api, bens)).status_code == 204


async def test_tokens_end_with_a_change_of_the_password(api: Api, mail_server: MailServer, ann: Person) -> None:
    token = await forget(api, mail_server, ann.email)
    waiting = await mailed_token(api, mail_server, ann, "confirm-email")
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert (await ann.post("/auth/change-password", json=body)).status_code == 204
    assert_bad_token(await reset(api, token, "another-garden-5521"))
    assert_bad_token(await use(api, "confirm-email", waiting))
    assert (await log_in(api, ann.email, NEW_PASSWORD)).status_code == 200


async def test_tokens_end_with_a_change_of_the_address(api: Api, mail_server: MailServer, ann: Person) -> None:
    old_proof = await mailed_token(api, mail_server, ann, "verify-email")
    token = await forget(api, mail_server, ann.email)
    confirm = await mailed_token(api, mail_server, ann, "confirm-email")
    assert (await use(api, "confirm-email", confirm)).status_code == 204
    assert_bad_token(await reset(api, token))
    assert_bad_token(await use(api, "verify-email", old_proof))


async def test_a_token_for_an_address_that_is_no_longer_the_accounts_is_refused(
    api: Api, mail_server: MailServer, ann: Person, stored: Stored
) -> None:
    # As if the address had changed while its mail was made: the token came after the change had ended all others.
    token, proof = await forget(api, mail_server, ann.email), await mailed_token(api, mail_server, ann, "verify-email")
    await stored.rows("UPDATE users SET email = ? WHERE id = ?", "moved@example.com", ann.user_id)
    assert_bad_token(await reset(api, token))
    assert_bad_token(await use(api, "verify-email", proof))
    assert (await log_in(api, "moved@example.com", PASSWORD)).status_code == 200


@pytest.mark.parametrize("weak", ["short", "password1", "a" * 129, "aaaaaaaaaaaa"])
async def test_a_password_that_is_refused_does_not_use_the_token_up(
    api: Api, mail_server: MailServer, ann: Person, weak: str
) -> None:
    token = await forget(api, mail_server, ann.email)
    for refused in (weak, ann.email, ann.email.partition("@")[0]):
        answer = await reset(api, token, refused)
        assert (answer.status_code, answer.json()["code"]) == (422, "WEAK_PASSWORD")
        assert [fault["field"] for fault in answer.json()["errors"]] == ["new_password"]
    assert not await is_dead(api, ann)
    assert (await reset(api, token)).status_code == 204


async def test_a_changed_password_leaves_this_session_alone_and_is_told(
    api: Api, mail_server: MailServer, ann: Person
) -> None:
    phone = await api.log_in(ann.email)
    wrong = await ann.post("/auth/change-password", json={"current_password": "not-it", "new_password": NEW_PASSWORD})
    assert (wrong.status_code, wrong.json()["code"]) == (403, "WRONG_PASSWORD")
    weak = await ann.post("/auth/change-password", json={"current_password": PASSWORD, "new_password": "password1"})
    assert (weak.status_code, weak.json()["code"]) == (422, "WEAK_PASSWORD")
    assert (await phone.get("/auth/me")).status_code == 200
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert (await ann.post("/auth/change-password", json=body)).status_code == 204
    assert (await ann.get("/auth/me")).status_code == 200
    assert (await ask(api, "refresh", refresh_token=ann.refresh_token)).status_code == 200
    assert await is_dead(api, phone)
    await mail_server.wait_for(ann.email, "Your password was changed")


@pytest.mark.covers("A092")
async def test_a_reset_lifts_the_lock(api: Api, mail_server: MailServer, ann: Person, stored: Stored) -> None:
    for _ in range(5):
        assert (await log_in(api, ann.email, "wrong-guess-1")).status_code == 401
    locked = await log_in(api, ann.email, PASSWORD)
    assert (locked.status_code, locked.json()["code"]) == (423, "ACCOUNT_LOCKED")
    assert (await reset(api, await forget(api, mail_server, ann.email))).status_code == 204
    assert (await log_in(api, ann.email, NEW_PASSWORD)).status_code == 200
    events = await stored.rows("SELECT event FROM audit_log WHERE target_id = ? ORDER BY at, id", ann.user_id)
    assert {"user.locked", "password.reset_requested", "password.reset", "user.unlocked"} <= {row[0] for row in events}


async def test_an_address_changes_once_the_new_one_is_proven(
    api: Api, mail_server: MailServer, ann: Person, stored: Stored
) -> None:
    wrong = await change_address(ann, "ann.new@example.com", "not-it")
    assert (wrong.status_code, wrong.json()["code"]) == (403, "WRONG_PASSWORD")
    asked = await change_address(ann, "Ann.New@Example.com")
    assert asked.status_code == 202
    token = token_in(await mail_server.wait_for("ann.new@example.com", CONFIRM))
    assert (await ann.get("/auth/me")).json()["email"] == ann.email
    assert (await use(api, "confirm-email", token)).status_code == 204
    me = (await ann.get("/auth/me")).json()
    assert (me["email"], me["email_verified"]) == ("ann.new@example.com", True)
    assert (await log_in(api, "ann.new@example.com", PASSWORD)).status_code == 200
    assert (await log_in(api, ann.email, PASSWORD)).status_code == 401
    told = await mail_server.wait_for(ann.email, "was changed")
    assert "ann.new@example.com" not in told.text
    assert_bad_token(await use(api, "confirm-email", token))
    successor = await api.register(ann.email)
    assert successor.user_id != ann.user_id
    await settle(stored)
    assert len(mail_server.to("ann.new@example.com")) == 1


async def test_asking_for_a_taken_address_answers_alike_and_changes_nothing(
    api: Api, mail_server: MailServer, ann: Person, ben: Person, stored: Stored
) -> None:
    await mail_server.wait_for(ben.email, VERIFY)
    free, taken = await change_address(ann, "free@example.com"), await change_address(ann, ben.email)
    assert (free.status_code, taken.status_code) == (202, 202)
    assert free.content == taken.content
    await settle(stored)
    assert [mail.subject for mail in mail_server.to(ben.email) if "?token=" in mail.text] == [
        "Verify your e-mail address"
    ]
    assert (await ben.get("/auth/me")).json()["email"] == ben.email
    assert (await ann.get("/auth/me")).json()["email"] == ann.email


async def test_of_two_who_want_one_address_the_first_to_prove_it_has_it(
    api: Api, mail_server: MailServer, ann: Person, ben: Person
) -> None:
    assert (await change_address(ann, "wanted@example.com")).status_code == 202
    anns = token_in(await mail_server.wait_for("wanted@example.com", CONFIRM))
    assert (await change_address(ben, "wanted@example.com")).status_code == 202
    bens = token_in(await mail_server.wait_for("wanted@example.com", CONFIRM, count=2))
    assert (await use(api, "confirm-email", anns)).status_code == 204
    late = await use(api, "confirm-email", bens)
    assert (late.status_code, late.json()["code"]) == (409, "EMAIL_TAKEN")
    assert (await ben.get("/auth/me")).json()["email"] == ben.email


async def test_a_deleted_account_frees_its_address_and_ends_its_sessions(
    api: Api, mail_server: MailServer, ann: Person, stored: Stored
) -> None:
    phone = await api.log_in(ann.email)
    token = await forget(api, mail_server, ann.email)
    path = f"/users/{ann.user_id}"
    assert (await ann.delete(path)).status_code == 422
    assert (await ann.delete(path, json={"current_password": "not-it"})).status_code == 403
    gone = await ann.delete(path, json={"current_password": PASSWORD})
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await log_in(api, ann.email, PASSWORD)).status_code == 401
    assert await is_dead(api, ann)
    assert await is_dead(api, phone)
    assert_bad_token(await reset(api, token))
    assert await stored.value("SELECT count(*) FROM users WHERE id = ? AND deleted_at IS NOT NULL", ann.user_id) == 1
    successor = await api.register(ann.email)
    assert successor.user_id != ann.user_id
    assert (await reset(api, await forget(api, mail_server, ann.email, count=2))).status_code == 204
    assert (await log_in(api, ann.email, NEW_PASSWORD)).json()["user"]["id"] == successor.user_id


async def test_links_lead_to_the_public_address_whatever_the_request_says(
    api: Api, mail_server: MailServer, ann: Person
) -> None:
    hostile = {
        "Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http",
        "Forwarded": "host=evil.example;proto=http", "X-Original-Host": "evil.example", "Origin": "https://evil.example",
        "Referer": "https://evil.example/", "X-Forwarded-Prefix": "/evil.example", "X-Rewrite-Url": "//evil.example/",
    }  # fmt: skip
    for headers in (hostile, {"Host": "duly.example@evil.example"}, {"Host": "evil.example:443"}):
        await api.client.post("/api/v1/auth/forgot-password", json={"email": ann.email}, headers=headers)
    mail = await mail_server.wait_for(ann.email, RESET, count=3)
    for body in (mail.text, mail.html, *(f"{name}: {value}" for name, value in mail.message.items())):
        assert "evil.example" not in body
    assert f"{PUBLIC_URL}/reset-password?token=" in mail.text


UNREADABLE: list[Any] = [
    ["ann@example.com", "eve@example.com"], {"0": "eve@example.com"}, None, 7, True, "",
    "ann@example.com,eve@example.com", "ann@example.com;eve@example.com", "ann@example.com eve@example.com",
    "ann@example.com\r\nBcc: eve@example.com", "ann@example.com\nTo: eve@example.com", "ann@example.com%0d%0a\0",
    "ann@example.com\0@evil.example", "\0ann@example.com", "<ann@example.com>", "Ann <ann@example.com>",
    "ann@example.com>\r\nRCPT TO:<eve@example.com", "ann@[127.0.0.1]", "a@", "x y@z.de", f"{'a' * 65}@example.com",
    "ann@example.com\u2028eve@example.com", "ann@exam\u0000ple.com",
]  # fmt: skip


async def send(api: Api, path: str, body: bytes) -> httpx.Response:
    """What a client that is no library may send."""
    return await api.client.post(f"/api/v1/auth/{path}", content=body, headers={"Content-Type": "application/json"})


@pytest.mark.covers("B026", "D037")
async def test_what_is_no_address_is_refused_and_brings_no_mail_to_anybody(
    api: Api, mail_server: MailServer, stored: Stored
) -> None:
    for email in ("ann@example.com", "eve@example.com"):
        await api.register(email)
    await settle(stored)
    before = len(mail_server.messages)
    for path, rest in (("forgot-password", {}), ("resend-verification", {}), ("register", {"password": PASSWORD})):
        for unreadable in UNREADABLE:
            answer = await send(api, path, json.dumps({"email": unreadable, **rest}).encode())
            assert answer.status_code == 422, unreadable
    for malformed in (b'{"email":"ann@example.com","email":"eve@example.com"}', b'{"email":"\\ud800@example.com"}'):
        assert (await send(api, "forgot-password", malformed)).status_code == 400
    assert await stored.value("SELECT count(*) FROM outbox WHERE state = 'waiting'") == 0
    assert len(mail_server.messages) == before


@pytest.mark.covers("D038")
@pytest.mark.parametrize(
    "twin",
    [
        "\u0430nn@example.com",
        "ann@ex\u0430mple.com",
        "ann@example.c\u043em",
        "\u0131nn@example.com",
        "an\u0144n@example.com",
    ],
)
async def test_an_address_that_only_looks_alike_brings_nobody_a_token(
    api: Api, mail_server: MailServer, stored: Stored, twin: str
) -> None:
    ann = await api.register("ann@example.com")
    await settle(stored)
    before = len(mail_server.messages)
    assert (await ask(api, "forgot-password", email=twin)).status_code in {202, 422}
    await settle(stored)
    assert len(mail_server.messages) == before
    assert not await is_dead(api, ann)


@pytest.mark.covers("D038")
async def test_a_mail_goes_to_the_address_as_it_is_stored(api: Api, mail_server: MailServer) -> None:
    await api.register("ann@example.com")
    twins = ["ANN@EXAMPLE.COM", "\uff41nn@example.com", "ann@\uff45xample.com"]
    answers = await asyncio.gather(*(ask(api, "forgot-password", email=twin) for twin in twins))
    assert {answer.status_code for answer in answers} <= {202, 422}
    await mail_server.wait_for("ann@example.com", RESET)
    assert {tuple(mail.recipients) for mail in mail_server.messages} == {("ann@example.com",)}


@pytest.mark.covers("B027")
async def test_refusals_of_an_unknown_name_and_of_a_wrong_password_are_one_body(api: Api, ann: Person) -> None:
    answers = [await log_in(api, ann.email, "wrong-guess-1"), await log_in(api, "nobody@example.com", "wrong-guess-1")]
    bodies = [answer.json() | {"request_id": ""} for answer in answers]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert bodies[0] == bodies[1]


@pytest.mark.covers("D040")
async def test_what_people_call_themselves_is_text_in_a_mail(api: Api, mail_server: MailServer) -> None:
    ann = await api.register(name="<img src=x onerror=alert(1)>")
    await mail_server.wait_for(ann.email, VERIFY)
    await forget(api, mail_server, ann.email)
    for mail in mail_server.to(ann.email):
        assert mail.message.get_content_type() == "multipart/alternative"
        assert "<img" not in mail.html
        assert "&lt;img" in mail.html
