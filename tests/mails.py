"""What tests read in mails, and how they wait until none is under way."""

import asyncio
import re
import time

import httpx
import pytest

from tests.fixtures.application import Api
from tests.fixtures.smtp import MailServer, ReceivedMail
from tests.fixtures.stored import Stored

PUBLIC_URL = "https://duly.example"
NEW_PASSWORD = "walnut-comet-1787"
VERIFY, RESET, CONFIRM = "Verify your", "Reset your", "Confirm your new"
_LINK = re.compile(r"https?://\S+\?token=([\w-]{20,})")


def token_in(mail: ReceivedMail) -> str:
    """The token of the one link, which text and HTML have alike, at the address that people know."""
    [token] = _LINK.findall(mail.text)
    assert f"{PUBLIC_URL}/" in mail.text
    assert token in mail.html
    return str(token)


async def ask(api: Api, path: str, **body: str) -> httpx.Response:
    """POST below /auth, without a token."""
    return await api.client.post(f"/api/v1/auth/{path}", json=body)


async def forget(api: Api, mails: MailServer, email: str, *, count: int = 1) -> str:
    """The token of the newest mail after asking for one more; `count` is how many have come by then."""
    assert (await ask(api, "forgot-password", email=email)).status_code == 202
    return token_in(await mails.wait_for(email, RESET, count=count))


async def settle(stored: Stored, *, seconds: float = 10) -> None:
    """Until nothing waits to be delivered: what has not come by then never will."""
    deadline = time.monotonic() + seconds
    while await stored.value("SELECT count(*) FROM outbox WHERE state = 'waiting'"):
        if time.monotonic() > deadline:
            pytest.fail(f"still waiting: {await stored.rows('SELECT kind, attempts, last_error FROM outbox')}")
        await asyncio.sleep(0.02)


def assert_bad_token(answer: httpx.Response) -> None:
    """The one refusal of every token that is not good."""
    assert (answer.status_code, answer.json()["code"]) == (422, "BAD_TOKEN"), answer.text
