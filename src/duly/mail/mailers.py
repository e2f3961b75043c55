"""How mail leaves: by SMTP, onto the console of a developer, or not yet."""

import asyncio
import contextlib
import re
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

import aiosmtplib

from duly.mail.letters import Letter, read_sender, to_message
from duly.outbox.relay import DeliveryFailed, Undeliverable

SMTP_SECONDS = 20.0
CHECK_SECONDS = 2.0
QUIT_SECONDS = 1.0
STEPS = 3
ENHANCED_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b")
Security = Literal["none", "starttls", "tls"]


class Mailer(Protocol):
    """Sends one letter."""

    name: str

    async def send(self, letter: Letter) -> None:
        """Raises `DeliveryFailed` when it may work later, `Undeliverable` when it never will."""
        ...

    async def check(self) -> str | None:
        """What is wrong with it right now, or None."""
        ...


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mail is handed over. `security` is `none`, `starttls` (RFC 3207) or `tls` (RFC 8314)."""

    host: str
    port: int
    username: str | None
    password: str | None
    sender: str
    security: Security


class SmtpMailer:
    """Hands mail to one server; each letter has a connection of its own, 20 seconds for each step, and a minute for all
    of them: less than a lease of the relay.
    """  # noqa: D205 - the rule is one sentence

    name = "smtp"

    def __init__(
        self, server: SmtpServer, *, seconds: float = SMTP_SECONDS, tls_context: ssl.SSLContext | None = None
    ) -> None:
        """`tls_context` is for a server whose certificate the system does not trust. Raises ValueError for a sender
        that is no address.
        """  # noqa: D205 - two options
        read_sender(server.sender)
        self._server = server
        self._seconds = seconds
        self._tls_context = tls_context

    async def send(self, letter: Letter) -> None:
        """See `Mailer`. A 5xx answer to the recipient is final; everything else may be the server's bad day."""
        try:
            message = to_message(letter, self._server.sender)
        except ValueError as error:
            raise Undeliverable(f"the mail cannot be put into a header: {type(error).__name__}") from None
        try:
            async with self._connected(self._seconds) as client:
                await client.send_message(message)
        except aiosmtplib.SMTPRecipientsRefused as error:
            reason = f"the mail server refused the recipient ({', '.join(map(_status, error.recipients))})"
            if all(500 <= refused.code <= 599 for refused in error.recipients):
                raise Undeliverable(reason) from None
            raise DeliveryFailed(reason) from None
        except aiosmtplib.SMTPNotSupported:
            raise Undeliverable("the mail server takes no address that is not ASCII (SMTPUTF8)") from None
        except aiosmtplib.SMTPResponseException as error:
            raise DeliveryFailed(f"the mail server answered {_status(error)} ({type(error).__name__})") from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise DeliveryFailed(f"the mail server cannot be used: {_names(error)}") from None

    async def check(self) -> str | None:
        """Connect, greet, sign in and leave."""
        try:
            async with self._connected(min(self._seconds, CHECK_SECONDS)):
                return None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            return _names(error)

    @contextlib.asynccontextmanager
    async def _connected(self, seconds: float) -> AsyncIterator[aiosmtplib.SMTP]:
        """Leaves politely but briefly: what the server does with QUIT changes nothing about a mail that it took."""
        client = self._client(seconds)
        try:
            async with asyncio.timeout(STEPS * seconds):
                await client.connect()
                yield client
            with contextlib.suppress(aiosmtplib.SMTPException):
                await client.quit(timeout=min(seconds, QUIT_SECONDS))
        finally:
            client.close()

    def _client(self, seconds: float) -> aiosmtplib.SMTP:
        server = self._server
        return aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.security == "tls",
            start_tls=server.security == "starttls",
            tls_context=self._tls_context,
            timeout=seconds,
        )


def _status(answer: aiosmtplib.SMTPResponseException) -> str:
    """The numbers of an answer (RFC 5321 §4.2, RFC 3463), without its words, which may hold an address."""
    enhanced = ENHANCED_STATUS.match(answer.message)
    return f"{answer.code} {enhanced[0]}" if enhanced else str(answer.code)


def _names(error: BaseException) -> str:
    """What an error and its cause are called; their words may hold what the client sent."""
    cause = error.__cause__
    return type(error).__name__ + (f", {type(cause).__name__}" if cause else "")


class ConsoleMailer:
    """For development without a mail server: the text of each mail is printed, links and all."""

    name = "console"

    async def send(self, letter: Letter) -> None:
        """Past the log, which would mask the token in the link."""
        print(f"\n--- mail to {letter.recipient}: {letter.subject} ---\n{letter.text}--- end of mail ---",  # noqa: T201
              file=sys.stderr, flush=True)  # fmt: skip

    async def check(self) -> str | None:
        """Always there."""
        return None


class MissingMailer:
    """Outside development without a mail server: every mail waits, and is given up after three days."""

    name = "none"

    async def send(self, letter: Letter) -> None:
        """Raises `DeliveryFailed`."""
        raise DeliveryFailed("SMTP_HOST is not set")

    async def check(self) -> str | None:
        """Say what is missing."""
        return "SMTP_HOST is not set"
