"""No request waits for a mail server, and every mail that was promised arrives, once there is one."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.fixtures.application import PASSWORD, Api, StartApp
from tests.fixtures.server import StartServer, free_port
from tests.fixtures.smtp import MailServer, Mode
from tests.fixtures.stored import Stored
from tests.mails import NEW_PASSWORD, PUBLIC_URL, RESET, VERIFY, ask, assert_bad_token, settle, token_in

PERSONAL = {"x-request-id", "date", "server-timing"}
STATES = "SELECT state FROM outbox WHERE kind = ?"


@pytest.fixture
async def api(start_app: StartApp, mail_server: MailServer) -> Api:
    return await start_app(**mail_server.settings, public_url=PUBLIC_URL)


def shape(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """Everything of an answer that could tell something."""
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in PERSONAL}
    return answer.status_code, headers, answer.content


async def make_due(stored: Stored) -> None:
    """As if the pause before the next attempt were over."""
    await stored.rows("UPDATE outbox SET due_at = ? WHERE state = 'waiting'", datetime.now(UTC) - timedelta(seconds=1))


async def tried(stored: Stored, kind: str, attempts: int = 1) -> None:
    """Until a message of this kind was tried so often and noted why it failed."""
    sql = "SELECT count(*) FROM outbox WHERE kind = ? AND attempts >= ? AND last_error IS NOT NULL"
    for _ in range(500):
        if await stored.value(sql, kind, attempts):
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"never tried: {await stored.rows('SELECT kind, state, attempts, last_error FROM outbox')}")


async def reached(mail_server: MailServer) -> None:
    """Until somebody has connected to it."""
    for _ in range(500):
        if mail_server.connections:
            return
        await asyncio.sleep(0.02)
    pytest.fail("nobody connected to the mail server")


async def begun(stored: Stored) -> None:
    """Until somebody has taken the one mail in order to send it."""
    for _ in range(3000):
        if await stored.rows("SELECT state, attempts FROM outbox") == [("waiting", 1)]:
            return
        await asyncio.sleep(0.02)
    pytest.fail("nobody took the mail")


@pytest.mark.covers("D036", "D041")
@pytest.mark.parametrize("mode", ["ok", "refuse", "hang", "451"])
async def test_the_state_of_the_mail_server_shows_in_no_answer(api: Api, mail_server: MailServer, mode: Mode) -> None:
    ann = await api.register()
    await mail_server.wait_for(ann.email, VERIFY)
    seen = {}
    for state in ("ok", mode):
        mail_server.mode = state
        for email in (ann.email, f"nobody-{mode}@example.com"):
            for path in ("forgot-password", "resend-verification"):
                answer = await ask(api, path, email=email)
                assert answer.status_code == 202
                seen[state, path, email] = shape(answer)
    assert len({str(answer) for answer in seen.values()}) == 1


@pytest.mark.covers("D036", "D124")
async def test_an_answer_comes_while_the_mail_server_keeps_the_mail_waiting(
    api: Api, mail_server: MailServer, stored: Stored
) -> None:
    mail_server.mode = "hang"
    ann = await api.register()
    await reached(mail_server)
    # The relay stands in the middle of a mail, and everything else goes on: not one answer needs the server.
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert (await ann.post("/auth/change-password", json=body)).status_code == 204
    for path in ("forgot-password", "resend-verification", "forgot-password"):
        assert (await ask(api, path, email=ann.email)).status_code == 202
    assert (await api.log_in(ann.email, NEW_PASSWORD)).user_id == ann.user_id
    assert mail_server.messages == []
    assert await stored.rows("SELECT DISTINCT state FROM outbox") == [("waiting",)]
    mail_server.mode = "ok"
    for subject in (VERIFY, RESET, "Your password was changed"):
        await mail_server.wait_for(ann.email, subject, seconds=30)


async def test_a_reset_that_was_asked_for_before_the_password_changed_brings_no_token_after_it(
    api: Api, mail_server: MailServer, stored: Stored
) -> None:
    ann = await api.register()
    mail_server.mode = "451"
    assert (await ask(api, "forgot-password", email=ann.email)).status_code == 202
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    assert (await ann.post("/auth/change-password", json=body)).status_code == 204
    assert await stored.rows("SELECT state, payload FROM outbox WHERE kind = 'reset_password'") == [("dropped", None)]
    mail_server.mode = "ok"
    await mail_server.wait_for(ann.email, "Your password was changed", seconds=30)
    assert await stored.value("SELECT count(*) FROM one_time_tokens WHERE purpose = 'reset_password'") == 0


@pytest.mark.covers("D041", "D124")
@pytest.mark.parametrize("mode", ["451", "gone"])
async def test_every_mail_arrives_once_the_server_takes_mail_again(
    api: Api, mail_server: MailServer, stored: Stored, mode: Mode
) -> None:
    port = mail_server.port
    if mode == "451":
        mail_server.mode = "451"
    else:
        await mail_server.stop()
    people = [await api.register() for _ in range(3)]
    for person in people:
        assert (await ask(api, "forgot-password", email=person.email)).status_code == 202
    await tried(stored, "reset_password")
    assert mail_server.messages == []
    if mode == "451":
        mail_server.mode = "ok"
    else:
        await mail_server.start(port)
    await make_due(stored)
    for person in people:
        await mail_server.wait_for(person.email, VERIFY)
        token = token_in(await mail_server.wait_for(person.email, RESET))
        assert (await ask(api, "reset-password", token=token, new_password=NEW_PASSWORD)).status_code == 204
    await settle(stored)
    assert {len(mail_server.to(person.email)) for person in people} == {3}


async def test_a_mail_that_is_tried_again_brings_the_same_token(
    api: Api, mail_server: MailServer, stored: Stored
) -> None:
    ann = await api.register()
    await mail_server.wait_for(ann.email, VERIFY)
    mail_server.mode = "451"
    await ask(api, "forgot-password", email=ann.email)
    await tried(stored, "reset_password", 1)
    hashes = await stored.rows("SELECT hash FROM one_time_tokens WHERE purpose = 'reset_password'")
    await make_due(stored)
    await tried(stored, "reset_password", 2)
    mail_server.mode = "ok"
    await make_due(stored)
    token = token_in(await mail_server.wait_for(ann.email, RESET))
    assert await stored.rows("SELECT hash FROM one_time_tokens WHERE purpose = 'reset_password'") == hashes
    assert len(hashes) == 1
    assert (await ask(api, "reset-password", token=token, new_password=NEW_PASSWORD)).status_code == 204


async def test_pauses_between_attempts_grow(api: Api, mail_server: MailServer, stored: Stored) -> None:
    mail_server.mode = "451"
    caused = datetime.now(UTC)
    await api.register()
    for attempt in (1, 2, 3, 4):
        await tried(stored, "verify_email", attempt)
        # A slow machine may have come to the next one by itself.
        attempts = await stored.value("SELECT attempts FROM outbox WHERE kind = 'verify_email'")
        due_at = await stored.moment("SELECT due_at FROM outbox WHERE kind = 'verify_email'")
        assert due_at is not None
        expected = timedelta(seconds=2 ** (attempts - 1))
        assert due_at - caused >= 0.8 * expected
        assert due_at - datetime.now(UTC) <= 1.2 * expected
        await stored.rows("UPDATE outbox SET last_error = NULL")
        caused = datetime.now(UTC)
        await make_due(stored)


async def test_a_mail_that_the_server_refuses_for_good_is_dead_and_stays_visible(
    api: Api, mail_server: MailServer, stored: Stored
) -> None:
    mail_server.mode = "refuse"
    await api.register("ann@example.com")
    await settle(stored)
    [row] = await stored.rows("SELECT state, attempts, last_error, payload FROM outbox")
    assert row[:3] == ("dead", 1, "the mail server refused the recipient (550 5.1.1)")
    # Kept, so that it can be sent after all, and encrypted like one that waits.
    assert row[3]
    assert "ann@example.com" not in row[3]


async def test_an_hour_brings_at_most_three_mails_of_a_kind_to_an_address_and_the_answers_do_not_tell(
    api: Api, mail_server: MailServer, stored: Stored
) -> None:
    ann, ben = await api.register(), await api.register()
    spellings = [ann.email, ann.email.upper(), f" {ann.email}", ann.email, ann.email]
    answers = [await ask(api, "forgot-password", email=email) for email in spellings]
    answers += [await ask(api, "forgot-password", email="nobody@example.com") for _ in range(5)]
    assert len({str(shape(answer)) for answer in answers}) == 1
    assert answers[0].status_code == 202
    assert (await ask(api, "forgot-password", email=ben.email)).status_code == 202
    await mail_server.wait_for(ben.email, RESET)
    await settle(stored)
    assert len([mail for mail in mail_server.to(ann.email) if RESET in mail.subject]) == 3
    # The one of the registration and two more.
    for _ in range(4):
        assert (await ask(api, "resend-verification", email=ann.email)).status_code == 202
    await settle(stored)
    assert len([mail for mail in mail_server.to(ann.email) if VERIFY in mail.subject]) == 3
    an_hour_ago = datetime.now(UTC) - timedelta(minutes=61)
    await stored.rows("UPDATE outbox SET created_at = ? WHERE kind = 'reset_password'", an_hour_ago)
    assert (await ask(api, "forgot-password", email=ann.email)).status_code == 202
    await mail_server.wait_for(ann.email, RESET, count=4)


async def test_of_many_requests_at_once_no_more_than_three_bring_a_mail(
    api: Api, mail_server: MailServer, stored: Stored
) -> None:
    ann = await api.register()
    answers = await asyncio.gather(*(ask(api, "forgot-password", email=ann.email) for _ in range(32)))
    assert {answer.status_code for answer in answers} == {202}
    await settle(stored)
    assert len([mail for mail in mail_server.to(ann.email) if RESET in mail.subject]) == 3


async def test_of_mails_that_are_made_at_once_one_has_a_token_that_is_good(
    api: Api, mail_server: MailServer, stored: Stored
) -> None:
    ann = await api.register()
    await mail_server.wait_for(ann.email, VERIFY)
    mail_server.mode = "451"
    for _ in range(3):
        await ask(api, "forgot-password", email=ann.email)
    await tried(stored, "reset_password")
    mail_server.mode = "ok"
    await make_due(stored)
    await settle(stored)
    mails = [mail for mail in mail_server.to(ann.email) if RESET in mail.subject]
    assert len({token_in(mail) for mail in mails}) == 3
    assert await stored.value("SELECT count(*) FROM one_time_tokens WHERE purpose = 'reset_password'") == 1
    answers = [await ask(api, "reset-password", token=token_in(mail), new_password=NEW_PASSWORD) for mail in mails]
    assert sorted(answer.status_code for answer in answers) == [204, 422, 422]


async def test_a_message_that_cannot_be_made_is_put_off_and_holds_up_no_other(
    api: Api, mail_server: MailServer, stored: Stored
) -> None:
    mail_server.mode = "451"
    ann = await api.register()
    await ask(api, "forgot-password", email=ann.email)
    await tried(stored, "verify_email")
    await tried(stored, "reset_password")
    # As after a step back from a version that knows more kinds.
    await stored.rows("UPDATE outbox SET kind = 'of_the_future', last_error = NULL WHERE kind = 'verify_email'")
    mail_server.mode = "ok"
    await make_due(stored)
    await mail_server.wait_for(ann.email, RESET)
    await tried(stored, "of_the_future", 2)
    [row] = await stored.rows("SELECT state, last_error FROM outbox WHERE kind = 'of_the_future'")
    assert row == ("waiting", "KeyError")
    due_at = await stored.moment("SELECT due_at FROM outbox WHERE kind = 'of_the_future'")
    assert due_at is not None
    assert due_at < datetime.now(UTC) + timedelta(seconds=10)


async def everything(stored: Stored) -> str:
    """All that the database holds, as text."""
    if stored.url.startswith("sqlite"):
        names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    else:
        names = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    tables = [row[0] for row in await stored.rows(names)]
    assert {"outbox", "one_time_tokens", "audit_log"} <= set(tables)
    return str([await stored.rows(f'SELECT * FROM "{table}"') for table in tables])


async def test_tokens_are_kept_as_hashes_and_messages_encrypted_until_they_are_gone(
    api: Api, mail_server: MailServer, stored: Stored
) -> None:
    ann = await api.register("ann@example.com")
    await mail_server.wait_for(ann.email, VERIFY)
    await settle(stored)
    mail_server.mode = "451"
    assert (await ask(api, "forgot-password", email=ann.email)).status_code == 202
    body = {"new_email": "secret-new@example.com", "current_password": PASSWORD}
    assert (await ann.post("/users/me/change-email", json=body)).status_code == 202
    await tried(stored, "reset_password")
    await tried(stored, "confirm_email")
    waiting = await stored.rows("SELECT payload, recipient_key FROM outbox WHERE state = 'waiting'")
    assert len(waiting) == 2
    for payload, recipient_key in waiting:
        for word in ("ann@example.com", "secret-new", "recipient", "testclient", "127.0.0.1"):
            assert word not in payload
            assert word not in recipient_key
    before = await everything(stored)
    mail_server.mode = "ok"
    await make_due(stored)
    tokens = [token_in(await mail_server.wait_for(ann.email, subject)) for subject in (VERIFY, RESET)]
    tokens.append(token_in(await mail_server.wait_for("secret-new@example.com")))
    await settle(stored)
    assert await stored.rows("SELECT DISTINCT state, payload FROM outbox") == [("sent", None)]
    after = await everything(stored)
    for token in tokens:
        assert len(token) == 43
        assert token not in before
        assert token not in after
    assert (await ask(api, "reset-password", token=tokens[1], new_password=NEW_PASSWORD)).status_code == 204
    assert tokens[1] not in await everything(stored)


@pytest.mark.covers("D041")
async def test_a_mail_survives_the_kill_of_the_server_and_its_token_works(
    start_server: StartServer, mail_server: MailServer, database_url: str, stored: Stored
) -> None:
    settings = {
        **mail_server.settings, "database_url": database_url, "public_url": PUBLIC_URL, "secret_key": "k3Y-" * 12,
    }  # fmt: skip
    mail_server.mode = "451"
    server = await asyncio.to_thread(start_server, free_port(), **settings)
    async with httpx.AsyncClient(base_url=f"{server.base_url}/api/v1/auth/", trust_env=False, timeout=20) as client:
        account = {"email": "ann@example.com", "password": PASSWORD}
        assert (await client.post("register", json=account)).status_code == 201
        assert (await client.post("forgot-password", json={"email": "ann@example.com"})).status_code == 202
        await tried(stored, "reset_password")
    server.kill()
    for said in ("mail server refused the recipient (451 4.3.0)", "reset_password"):
        assert said in server.log()
    mail_server.mode = "ok"
    again = await asyncio.to_thread(start_server, free_port(), **settings)
    # A lease that the dead process held is over within 90 seconds; time is moved here.
    await make_due(stored)
    await mail_server.wait_for("ann@example.com", VERIFY, seconds=20)
    token = token_in(await mail_server.wait_for("ann@example.com", RESET, seconds=20))
    async with httpx.AsyncClient(base_url=f"{again.base_url}/api/v1/auth/", trust_env=False, timeout=20) as client:
        reset = {"token": token, "new_password": NEW_PASSWORD}
        assert (await client.post("reset-password", json=reset)).status_code == 204
        assert_bad_token(await client.post("reset-password", json=reset))
        login = await client.post("login", json={"email": "ann@example.com", "password": NEW_PASSWORD})
        assert login.status_code == 200
    await mail_server.wait_for("ann@example.com", "Your password was changed", seconds=20)
    for log in (server.log(), again.log()):
        assert token not in log
        assert not re.search(r"token=[\w-]{20}", log)


async def test_a_mail_of_a_server_that_died_while_sending_is_sent_by_the_next(
    start_server: StartServer, mail_server: MailServer, database_url: str, stored: Stored
) -> None:
    settings = {
        **mail_server.settings, "database_url": database_url, "public_url": PUBLIC_URL, "secret_key": "k3Y-" * 12,
    }  # fmt: skip
    mail_server.mode = "hang"
    server = await asyncio.to_thread(start_server, free_port(), **settings)
    async with httpx.AsyncClient(base_url=f"{server.base_url}/api/v1/auth/", trust_env=False, timeout=20) as client:
        account = {"email": "ann@example.com", "password": PASSWORD}
        assert (await client.post("register", json=account)).status_code == 201
    # That it connected says less: each start asks once whether the mail server is there.
    await begun(stored)
    server.kill()
    mail_server.mode = "ok"
    await asyncio.to_thread(start_server, free_port(), **settings)
    [row] = await stored.rows("SELECT state, attempts FROM outbox")
    assert row == ("waiting", 1)
    due_at = await stored.moment("SELECT due_at FROM outbox")
    assert due_at is not None
    assert due_at < datetime.now(UTC) + timedelta(seconds=90)
    await make_due(stored)
    token_in(await mail_server.wait_for("ann@example.com", VERIFY, seconds=20))


@pytest.fixture
async def verified(start_app: StartApp, mail_server: MailServer) -> Api:
    """Where an account begins with an answered mail."""
    return await start_app(**mail_server.settings, public_url=PUBLIC_URL, registration="verified")


async def test_a_registration_that_must_be_verified_does_not_tell_whether_the_address_is_taken(
    verified: Api, mail_server: MailServer, stored: Stored
) -> None:
    api, ann = verified, {"email": "ann@example.com", "password": PASSWORD}
    free = await ask(api, "register", **ann)
    await mail_server.wait_for("ann@example.com", VERIFY)
    taken = await ask(api, "register", **ann, name="Somebody else")
    await mail_server.wait_for("ann@example.com", "You already have an account")
    other = await ask(api, "register", email="ben@example.com", password=PASSWORD)
    assert free.status_code == 202
    assert shape(free) == shape(taken) == shape(other)
    await settle(stored)
    assert await stored.value("SELECT count(*) FROM users") == 2
    [told] = [mail for mail in mail_server.to("ann@example.com") if "already" in mail.subject]
    assert "?token=" not in told.text
    assert "Somebody else" not in told.text


@pytest.mark.covers("D038")
async def test_before_the_proof_only_the_right_password_learns_that_it_is_missing(
    verified: Api, mail_server: MailServer
) -> None:
    ann = {"email": "ann@example.com", "password": PASSWORD}
    assert (await ask(verified, "register", **ann)).status_code == 202
    token = token_in(await mail_server.wait_for("ann@example.com", VERIFY))
    wrong = await ask(verified, "login", email="ann@example.com", password="wrong-guess-1")
    unknown = await ask(verified, "login", email="nobody@example.com", password="wrong-guess-1")
    assert (wrong.status_code, unknown.status_code) == (401, 401)
    assert wrong.json() | {"request_id": ""} == unknown.json() | {"request_id": ""}
    early = await ask(verified, "login", **ann)
    assert (early.status_code, early.json()["code"]) == (403, "EMAIL_NOT_VERIFIED")
    assert (await ask(verified, "verify-email", token=token)).status_code == 204
    opened = await ask(verified, "login", **ann)
    assert opened.status_code == 200
    assert opened.json()["user"]["email_verified"] is True


async def test_registrations_at_once_make_one_account_and_every_mail_is_right(
    verified: Api, mail_server: MailServer, stored: Stored
) -> None:
    answers = await asyncio.gather(
        *(ask(verified, "register", email="ann@example.com", password=PASSWORD) for _ in range(3))
    )
    assert len({str(shape(answer)) for answer in answers}) == 1
    await mail_server.wait_for("ann@example.com", VERIFY)
    assert await stored.value("SELECT count(*) FROM users") == 1
    await make_due(stored)
    await mail_server.wait_for("ann@example.com", "You already have an account", count=2)
    await settle(stored)
    assert len(mail_server.to("ann@example.com")) == 3


async def test_a_mail_that_the_server_takes_slowly_holds_up_no_other(api: Api, mail_server: MailServer) -> None:
    mail_server.held.add("ann@example.com")
    await api.register("ann@example.com")
    await reached(mail_server)
    for number in range(3):
        ben = await api.register(f"ben{number}@example.com")
        await mail_server.wait_for(ben.email, VERIFY, seconds=10)
    assert mail_server.to("ann@example.com") == []
    mail_server.held.clear()
    await mail_server.wait_for("ann@example.com", VERIFY)
    assert len(mail_server.messages) == 4
