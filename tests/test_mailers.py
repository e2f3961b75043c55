"""Mail delivery: what each answer of a real mail server leads to."""

import asyncio
import contextlib
import datetime as dt
import email.policy
import socket
import ssl
import time
from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.parser import BytesParser
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from duly.mail.letters import Letter, LetterWriter, to_message
from duly.mail.mailers import QUIT_SECONDS, SMTP_SECONDS, STEPS, SmtpMailer, SmtpServer
from duly.outbox.relay import LEASE, DeliveryFailed, Undeliverable
from tests.listeners import stop_listening

SENDER = "Duly <tasks@duly.example>"
TOKEN = "qGm5t3Jc0mPp7vTJ0nS3Yw0kq1h0u9x5B2oXfYbQe4I"
PASSWORD = "correct-horse-1"
QUICK = 0.4


def reset_letter(recipient: str = "ann@example.com") -> Letter:
    writer = LetterWriter("https://duly.example")
    return writer.write(
        "reset_password", letter_id="0198-1", recipient=recipient, name="Zoë", at="2026-11-21 18:00 UTC", hours=1,
        ip_address=None, device=None, link=writer.link("reset-password", TOKEN),
    )  # fmt: skip


def body(message: EmailMessage, subtype: str) -> str:
    part = message.get_body((subtype,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


class Box:
    """Takes mail, and answers as it is told: by step, words or seconds to wait."""

    def __init__(self, **answers: str | float) -> None:
        self.envelopes: list[Envelope] = []
        self.commands: list[str] = []
        self.is_over = asyncio.Event()
        self._answers = answers

    async def _answer(self, step: str, otherwise: str) -> str:
        self.commands.append(step)
        answer = self._answers.get(step, otherwise)
        if isinstance(answer, float):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.is_over.wait(), answer)
            answer = otherwise
        return answer

    async def handle_MAIL(self, _: SMTP, __: Any, envelope: Envelope, address: str, options: list[str]) -> str:  # noqa: N802
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return await self._answer("mail", "250 OK")

    async def handle_RCPT(self, _: SMTP, __: Any, envelope: Envelope, address: str, ___: list[str]) -> str:  # noqa: N802
        envelope.rcpt_tos.append(address.encode(errors="surrogateescape").decode())  # RFC 6531: UTF-8
        return await self._answer("rcpt", "250 OK")

    async def handle_DATA(self, _: SMTP, __: Any, envelope: Envelope) -> str:  # noqa: N802
        self.envelopes.append(envelope)
        return await self._answer("data", "250 OK")

    async def handle_QUIT(self, _: SMTP, __: Any, ___: Envelope) -> str:  # noqa: N802
        return await self._answer("quit", "221 Bye")

    def message(self) -> EmailMessage:
        [envelope] = self.envelopes
        assert isinstance(envelope.content, bytes)
        read = BytesParser(policy=email.policy.default).parsebytes(envelope.content)
        assert isinstance(read, EmailMessage)
        return read


def server(port: int, **fields: Any) -> SmtpServer:
    given = {"host": "127.0.0.1", "username": None, "password": None, "sender": SENDER, "security": "none"}
    return SmtpServer(port=port, **(given | fields))


@contextlib.asynccontextmanager
async def listening(box: Box, *, tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[int]:
    """A mail server on a free port; `tls` from the first byte."""
    loop = asyncio.get_running_loop()
    given: dict[str, Any] = {"hostname": "mx.example", "enable_SMTPUTF8": True, "loop": loop} | options
    before = asyncio.all_tasks()
    listener = await loop.create_server(lambda: SMTP(box, **given), "127.0.0.1", 0, ssl=tls)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        await stop_listening(listener)
        box.is_over.set()
        if conversations := asyncio.all_tasks() - before:
            await asyncio.wait(conversations, timeout=2)


async def outcome(mailer: SmtpMailer, letter: Letter | None = None) -> str:
    """`sent`, or the error's name and text, which shows nothing that is secret."""
    letter = letter or reset_letter()
    try:
        await mailer.send(letter)
    except (DeliveryFailed, Undeliverable) as error:
        said = f"{type(error).__name__}: {error}"
    else:
        said = "sent"
    assert not [word for word in (TOKEN, PASSWORD, letter.recipient, "@", "example") if word in said], said
    return said


@pytest.mark.parametrize("sender", ["Duly", "", "Duly <tasks>", "Duly <@example.com>"])
@pytest.mark.covers("D049")
def test_a_sender_that_is_no_address_is_told_at_the_start(sender: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        SmtpMailer(server(1, sender=sender))


@pytest.mark.covers("D041")
async def test_a_letter_that_cannot_be_a_mail_is_given_up_at_once() -> None:
    letter = reset_letter("ann@example.com\r\nBcc: eve@example.com")
    said = await outcome(SmtpMailer(server(unused_port())), letter)
    assert said == "Undeliverable: the mail cannot be put into a header: ValueError"


@pytest.mark.covers("D036", "D040")
async def test_an_accepted_mail_arrives_as_it_was_written() -> None:
    box, letter = Box(), reset_letter()
    async with listening(box) as port:
        assert await outcome(SmtpMailer(server(port)), letter) == "sent"
    [envelope] = box.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("tasks@duly.example", ["ann@example.com"])
    assert "SMTPUTF8" not in envelope.mail_options
    assert body(box.message(), "plain") == letter.text
    assert body(box.message(), "html") == letter.html
    assert box.message()["Subject"] == letter.subject
    assert box.commands == ["mail", "rcpt", "data", "quit"]


@pytest.mark.parametrize(
    ("recipient", "sent_to", "needs_utf8"),
    [("zoë@example.com", "zoë@example.com", True), ("ann@straße.example", "ann@xn--strae-oqa.example", False),
     ("zoë@bücher.example", "zoë@xn--bcher-kva.example", True)],
)  # fmt: skip
async def test_addresses_that_are_not_ascii_arrive(recipient: str, sent_to: str, needs_utf8: bool) -> None:
    box, letter = Box(), reset_letter(recipient)
    async with listening(box) as port:
        assert await outcome(SmtpMailer(server(port)), letter) == "sent"
    assert box.envelopes[0].rcpt_tos == [sent_to]
    assert ("SMTPUTF8" in box.envelopes[0].mail_options) is needs_utf8
    assert f"\r\nTo: {sent_to}\r\n".encode() in (box.envelopes[0].content or b"")
    assert body(box.message(), "plain") == letter.text
    assert to_message(letter, SENDER).as_bytes().isascii() is not needs_utf8


async def test_a_server_without_smtputf8_never_takes_such_an_address() -> None:
    box, letter = Box(), reset_letter("zoë@example.com")
    async with listening(box, enable_SMTPUTF8=False) as port:
        said = await outcome(SmtpMailer(server(port)), letter)
    assert said == "Undeliverable: the mail server takes no address that is not ASCII (SMTPUTF8)"
    assert box.commands == []


@pytest.mark.covers("D041")
@pytest.mark.parametrize(
    ("step", "answer", "said"),
    [
        ("rcpt", "550 5.1.1 <ann@example.com>: no such user", "Undeliverable: the mail server refused the recipient"
                                                              " (550 5.1.1)"),
        ("rcpt", "553 ann@example.com?", "Undeliverable: the mail server refused the recipient (553)"),
        ("rcpt", "451 4.7.1 ann@example.com is greylisted", "DeliveryFailed: the mail server refused the recipient"
                                                            " (451 4.7.1)"),
        ("rcpt", "421 ann@example.com later", "DeliveryFailed: the mail server refused the recipient (421)"),
        ("data", "451 later ann@example.com", "DeliveryFailed: the mail server answered 451 (SMTPDataError)"),
        ("data", "554 5.7.1 spam", "DeliveryFailed: the mail server answered 554 5.7.1 (SMTPDataError)"),
        ("mail", "530 5.7.0 sign in", "DeliveryFailed: the mail server answered 530 5.7.0 (SMTPSenderRefused)"),
    ],
)  # fmt: skip
async def test_a_refusal_of_the_recipient_is_final_and_no_other_is(step: str, answer: str, said: str) -> None:
    box = Box(**{step: answer})
    async with listening(box) as port:
        assert await outcome(SmtpMailer(server(port))) == said


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.covers("D041")
async def test_a_server_that_is_not_there_may_be_there_later() -> None:
    mailer = SmtpMailer(server(unused_port()))
    said = "SMTPConnectError, ConnectionRefusedError"
    assert await outcome(mailer) == f"DeliveryFailed: the mail server cannot be used: {said}"
    assert await mailer.check() == said


@pytest.mark.covers("D041")
@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
async def test_a_server_that_takes_the_connection_and_says_nothing_is_given_up(security: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mailer = SmtpMailer(server(silent.getsockname()[1], security=security), seconds=QUICK)
        began = time.monotonic()
        assert (await outcome(mailer)).startswith("DeliveryFailed: the mail server cannot be used: SMTPConnectTimeout")
        assert QUICK * 0.9 < time.monotonic() - began < QUICK * 10
        assert "Timeout" in (await mailer.check() or "")


@pytest.mark.parametrize("step", ["mail", "rcpt", "data"])
async def test_a_server_that_hangs_at_a_step_is_given_up(step: str) -> None:
    async with listening(Box(**{step: QUICK * 4})) as port:
        began = time.monotonic()
        said = await outcome(SmtpMailer(server(port), seconds=QUICK))
        assert said.startswith("DeliveryFailed: the mail server cannot be used: SMTPReadTimeoutError")
        assert time.monotonic() - began < QUICK * 10


async def test_a_server_that_is_slow_at_every_step_is_given_up_before_another_relay_tries() -> None:
    seconds = 1.5

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes the mail, each answer just in time: 4.8 times what one may take."""
        with contextlib.suppress(OSError):
            writer.write(b"220 mx.example\r\n")
            while line := await reader.readline():
                if line[:4] in {b"EHLO", b"MAIL", b"RCPT", b"DATA"} or line == b".\r\n":
                    await asyncio.sleep(seconds * 0.8)
                    writer.write(b"354 Go on\r\n" if line[:4] == b"DATA" else b"250 OK\r\n")
        writer.close()

    before = asyncio.all_tasks()
    listener = await asyncio.start_server(answer_late, "127.0.0.1", 0)
    async with listener:
        mailer = SmtpMailer(server(listener.sockets[0].getsockname()[1]), seconds=seconds)
        began = time.monotonic()
        # Three steps' time for all of them: 60 seconds in production, where a lease lasts 90.
        assert await outcome(mailer) == "DeliveryFailed: the mail server cannot be used: TimeoutError, CancelledError"
        assert time.monotonic() - began < seconds * 10
        await asyncio.wait(asyncio.all_tasks() - before, timeout=2 * seconds)


def test_a_letter_takes_less_time_than_a_lease_lasts() -> None:
    assert LEASE.total_seconds() * 0.8 > STEPS * SMTP_SECONDS + QUIT_SECONDS


@pytest.mark.parametrize("answer", [30.0, "451 no", "nonsense"])
async def test_what_a_server_does_with_quit_does_not_send_a_mail_twice(answer: str | float) -> None:
    box = Box(quit=answer)
    async with listening(box) as port:
        began = time.monotonic()
        assert await outcome(SmtpMailer(server(port))) == "sent"
        assert time.monotonic() - began < 3
    assert len(box.envelopes) == 1


@pytest.mark.covers("D036")
async def test_others_go_on_while_a_server_takes_its_time() -> None:
    async with listening(Box(data=0.5)) as port:
        sending = asyncio.create_task(outcome(SmtpMailer(server(port))))
        longest = 0.0
        while not sending.done():
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - began)
        assert await sending == "sent"
    assert longest < 0.3


# Security of the connection


class Certificate:
    """For 127.0.0.1, signed by itself."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail server")])
        start = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
        builder = x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), start, start + dt.timedelta(days=1)
        )
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        pem, encoding = folder / "certificate.pem", serialization.Encoding.PEM
        pem.write_bytes(
            builder.sign(key, hashes.SHA256()).public_bytes(encoding)
            + key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        self.shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.shown.load_cert_chain(pem)
        self.trusting = ssl.create_default_context(cafile=str(pem))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("certificate"))


@contextlib.asynccontextmanager
async def secured(security: str, box: Box, certificate: Certificate, **options: Any) -> AsyncIterator[int]:
    if security == "tls":
        async with listening(box, tls=certificate.shown, **options) as port:
            yield port
    else:
        options |= {"tls_context": certificate.shown, "require_starttls": True}
        async with listening(box, **options) as port:
            yield port


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_certificate_that_nobody_trusts_gets_no_mail(security: str, certificate: Certificate) -> None:
    box = Box()
    async with secured(security, box, certificate) as port:
        mailer = SmtpMailer(server(port, security=security, username="duly", password=PASSWORD))
        said = await outcome(mailer)
        assert said.startswith("DeliveryFailed: the mail server cannot be used: ")
        assert "SSLCertVerificationError" in said
        assert "SSLCertVerificationError" in (await mailer.check() or "")
    assert box.commands == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_certificate_for_another_name_gets_no_mail(security: str, certificate: Certificate) -> None:
    box = Box()
    async with secured(security, box, certificate) as port:
        place = server(port, security=security, host="localhost")
        said = await outcome(SmtpMailer(place, tls_context=certificate.trusting))
    assert "SSLCertVerificationError" in said
    assert box.commands == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_trusted_certificate_gets_the_mail(security: str, certificate: Certificate) -> None:
    box = Box()
    async with secured(security, box, certificate) as port:
        mailer = SmtpMailer(server(port, security=security), tls_context=certificate.trusting)
        assert await outcome(mailer) == "sent"
        assert await mailer.check() is None
    assert len(box.envelopes) == 1


async def test_without_starttls_on_offer_nothing_is_sent_in_clear() -> None:
    box, asked = Box(), []

    def authenticate(*given: Any) -> AuthResult:
        asked.append(given)
        return AuthResult(success=True)

    async with listening(box, authenticator=authenticate, auth_require_tls=False) as port:
        mailer = SmtpMailer(server(port, security="starttls", username="duly", password=PASSWORD))
        assert await outcome(mailer) == "DeliveryFailed: the mail server cannot be used: SMTPException"
        assert await mailer.check() == "SMTPException"
    assert (box.commands, asked) == ([], [])


@pytest.mark.covers("D041")
@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
async def test_the_mail_server_is_signed_in_to(security: str, certificate: Certificate) -> None:
    asked: list[bool] = []

    def authenticate(_: Any, __: Any, ___: Any, ____: str, given: Any) -> AuthResult:
        right = given == LoginPassword(b"duly", PASSWORD.encode())
        asked.append(right)
        return AuthResult(success=right, handled=False)

    box = Box()
    options: dict[str, Any] = {"authenticator": authenticate, "auth_require_tls": False}
    context = None if security == "none" else certificate.trusting
    opened = listening(box, **options) if security == "none" else secured(security, box, certificate, **options)
    async with opened as port:
        for password, said, problem in (
            (PASSWORD, "sent", None),
            (f"{PASSWORD}x", "DeliveryFailed: the mail server answered 535 5.7.8 (SMTPAuthenticationError)",
             "SMTPAuthenticationError"),
        ):  # fmt: skip
            place = server(port, security=security, username="duly", password=password)
            mailer = SmtpMailer(place, tls_context=context)
            assert await outcome(mailer) == said
            assert await mailer.check() == problem
    assert len(box.envelopes) == 1
    assert asked[:2] == [True, True]
    assert not any(asked[2:])
