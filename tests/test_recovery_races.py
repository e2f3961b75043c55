"""Many at once: each one-time token opens one door, each refresh token has one successor, no login outlives a change.

ROUNDS is how often each race is run; the long form is `ROUNDS=100 pytest tests/test_recovery_races.py`.
"""

import asyncio
import os
import random
from collections import Counter

import httpx
import pytest

from tests.fixtures.application import PASSWORD, Api, Person, StartApp
from tests.fixtures.smtp import MailServer
from tests.fixtures.stored import Stored
from tests.mails import CONFIRM, NEW_PASSWORD, PUBLIC_URL, VERIFY, ask, assert_bad_token, forget, token_in

ROUNDS = int(os.environ.get("ROUNDS", "3"))
AT_ONCE = 64
# Logins and the change that they race against, each begun at a moment of its own within this time.
SPREAD_SECONDS = 0.15


@pytest.fixture
async def api(start_app: StartApp, mail_server: MailServer) -> Api:
    # 64 hashes wait for each other: on a busy machine that takes longer than a request may.
    return await start_app(**mail_server.settings, public_url=PUBLIC_URL, request_timeout_seconds=300)


async def ask_until_answered(api: Api, path: str, **body: str) -> httpx.Response:
    """As a client does that is told to come back: on a busy machine 64 at once wait longer than a statement may."""
    for _ in range(20):
        answer = await ask(api, path, **body)
        if answer.status_code != 503:
            return answer
        await asyncio.sleep(float(answer.headers["retry-after"]))
    return answer


def one_won(answers: list[httpx.Response]) -> None:
    """One 204, and for everybody else the refusal of a token that is not good."""
    assert Counter(answer.status_code for answer in answers) == {204: 1, 422: len(answers) - 1}
    for answer in answers:
        if answer.status_code != 204:
            assert_bad_token(answer)


@pytest.mark.covers("D039")
async def test_of_64_resets_with_one_token_one_counts(api: Api, mail_server: MailServer) -> None:
    for _ in range(ROUNDS):
        ann = await api.register()
        token = await forget(api, mail_server, ann.email)
        passwords = [f"walnut-comet-{number}-1787" for number in range(AT_ONCE)]
        answers = await asyncio.gather(
            *(ask_until_answered(api, "reset-password", token=token, new_password=password) for password in passwords)
        )
        one_won(answers)
        winner = next(password for password, answer in zip(passwords, answers, strict=True) if answer.is_success)
        assert (await ask(api, "login", email=ann.email, password=winner)).status_code == 200
        assert (await ask(api, "login", email=ann.email, password=PASSWORD)).status_code == 401


async def test_of_64_proofs_with_one_token_one_counts(api: Api, mail_server: MailServer, stored: Stored) -> None:
    for _ in range(ROUNDS):
        ann = await api.register()
        token = token_in(await mail_server.wait_for(ann.email, VERIFY))
        one_won(await asyncio.gather(*(ask_until_answered(api, "verify-email", token=token) for _ in range(AT_ONCE))))
        proofs = "SELECT count(*) FROM audit_log WHERE event = 'email.verified' AND target_id = ?"
        assert await stored.value(proofs, ann.user_id) == 1


async def test_of_64_confirmations_with_one_token_one_counts(api: Api, mail_server: MailServer) -> None:
    for _ in range(ROUNDS):
        ann = await api.register()
        body = {"new_email": f"new-{ann.email}", "current_password": PASSWORD}
        assert (await ann.post("/users/me/change-email", json=body)).status_code == 202
        token = token_in(await mail_server.wait_for(f"new-{ann.email}", CONFIRM))
        one_won(await asyncio.gather(*(ask_until_answered(api, "confirm-email", token=token) for _ in range(AT_ONCE))))
        await mail_server.wait_for(ann.email, "was changed")
        assert len([mail for mail in mail_server.to(ann.email) if "was changed" in mail.subject]) == 1


async def test_of_64_refreshes_with_one_token_all_get_the_one_live_successor(api: Api, stored: Stored) -> None:
    ann = await api.register()
    token = ann.refresh_token
    for number in range(ROUNDS):
        answers = await asyncio.gather(
            *(ask_until_answered(api, "refresh", refresh_token=token) for _ in range(AT_ONCE))
        )
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        pair = answers[0].json()
        assert pair["refresh_token"] != token
        me = await api.client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {pair['access_token']}"})
        assert me.status_code == 200
        live = "SELECT count(*), count(*) FILTER (WHERE replaced_at IS NULL) FROM refresh_tokens"
        assert await stored.rows(live) == [(number + 2, 1)]
        token = pair["refresh_token"]


async def log_in_soon(api: Api, ann: Person) -> httpx.Response:
    await asyncio.sleep(random.uniform(0, SPREAD_SECONDS))  # noqa: S311 - any moment will do
    return await ask(api, "login", email=ann.email, password=PASSWORD)


async def survivors(api: Api, answers: list[httpx.Response]) -> list[httpx.Response]:
    """The logins that succeeded and whose session is still good for anything."""
    alive = []
    for answer in answers:
        assert answer.status_code in {200, 401}, answer.text
        if answer.status_code == 200:
            body = answer.json()
            headers = {"Authorization": f"Bearer {body['access_token']}"}
            me = await api.client.get("/api/v1/auth/me", headers=headers)
            renewed = await ask(api, "refresh", refresh_token=body["refresh_token"])
            if (me.status_code, renewed.status_code) != (401, 401):
                alive.append(answer)
    return alive


async def test_no_login_that_is_under_way_survives_a_change_of_the_password(api: Api, stored: Stored) -> None:
    for _ in range(ROUNDS):
        ann = await api.register()
        body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        # No more than four: wrong ones would lock the name for this address.
        logins = [log_in_soon(api, ann) for _ in range(4)]
        changed, *answers = await asyncio.gather(ann.post("/auth/change-password", json=body), *logins)
        assert changed.status_code == 204
        assert await survivors(api, answers) == []
        assert (await ann.get("/auth/me")).status_code == 200
        live = "SELECT count(*) FROM sessions WHERE user_id = ? AND ended_at IS NULL"
        assert await stored.value(live, ann.user_id) == 1


async def test_no_login_that_is_under_way_survives_a_reset(api: Api, mail_server: MailServer, stored: Stored) -> None:
    for _ in range(ROUNDS):
        ann = await api.register()
        token = await forget(api, mail_server, ann.email)
        logins = [log_in_soon(api, ann) for _ in range(4)]
        done, *answers = await asyncio.gather(
            ask(api, "reset-password", token=token, new_password=NEW_PASSWORD), *logins
        )
        assert done.status_code == 204
        assert await survivors(api, answers) == []
        live = "SELECT count(*) FROM sessions WHERE user_id = ? AND ended_at IS NULL"
        assert await stored.value(live, ann.user_id) == 0
        assert (await ask(api, "login", email=ann.email, password=NEW_PASSWORD)).status_code == 200


async def test_no_login_that_is_under_way_survives_a_deletion(api: Api, stored: Stored) -> None:
    for _ in range(ROUNDS):
        ann = await api.register()
        logins = [log_in_soon(api, ann) for _ in range(4)]
        gone, *answers = await asyncio.gather(
            ann.delete(f"/users/{ann.user_id}", json={"current_password": PASSWORD}), *logins
        )
        assert gone.status_code == 204
        assert await survivors(api, answers) == []
        live = "SELECT count(*) FROM sessions WHERE user_id = ? AND ended_at IS NULL"
        assert await stored.value(live, ann.user_id) == 0


async def test_a_reset_and_a_change_at_once_leave_one_of_the_two_passwords(api: Api, mail_server: MailServer) -> None:
    for _ in range(ROUNDS):
        ann = await api.register()
        token = await forget(api, mail_server, ann.email)
        changing = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        reset, changed = await asyncio.gather(
            ask(api, "reset-password", token=token, new_password="another-garden-5521"),
            ann.post("/auth/change-password", json=changing),
        )
        opened = {
            password: (await ask(api, "login", email=ann.email, password=password)).status_code == 200
            for password in (PASSWORD, NEW_PASSWORD, "another-garden-5521")
        }
        # Whoever comes second finds the token, the session or the old password gone.
        assert (reset.status_code, changed.status_code) in {(204, 401), (204, 403), (422, 204)}, changed.text
        assert opened == {PASSWORD: False, NEW_PASSWORD: changed.is_success, "another-garden-5521": reset.is_success}
