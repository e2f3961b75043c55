"""Makes the mails that identity promised, at the moment of their delivery: only then a token exists, or an address is
looked up."""  # noqa: D205, D209 - one sentence

from collections.abc import Awaitable, Callable
from typing import Any

from duly.audit.events import Event, Origin
from duly.db.unit import Database, Unit
from duly.errors import NotFound
from duly.identity import accounts
from duly.identity.accounts import Account, AccountDraft, find_account, find_credentials
from duly.identity.context import Identity
from duly.identity.lockout import LOCK
from duly.identity.one_time import LIVES, Purpose
from duly.kit.clock import rfc3339
from duly.mail.letters import Letter, LetterWriter
from duly.mail.mailers import Mailer
from duly.outbox.relay import Message

Compose = Callable[[Unit, Message], Awaitable[Letter | None]]
PAGES: dict[Purpose, str] = {
    "reset_password": "reset-password", "verify_email": "verify-email", "confirm_email": "confirm-email",
}  # fmt: skip


class Postman:
    """Turns a message of the outbox into a letter and hands it to the mailer."""

    def __init__(self, database: Database, identity: Identity, writer: LetterWriter, mailer: Mailer) -> None:
        self._database = database
        self._identity = identity
        self._writer = writer
        self._mailer = mailer
        self._kinds: dict[str, Compose] = {
            "reset_password": self._reset_password,
            "verify_email": self._verify_email,
            "confirm_email": self._confirm_email,
            "registration": self._registration,
            "account_locked": self._account_locked,
            "password_changed": self._notice,
            "email_changed": self._notice,
            "new_device": self._notice,
        }

    async def deliver(self, message: Message) -> bool:
        """False when there is nobody to send it to. Raises what the mailer raises."""
        # The letter is made in a transaction, and sent when that is over.
        async with self._database.unit() as unit:
            letter = await self._kinds[message.kind](unit, message)
        if letter is None:
            return False
        await self._mailer.send(letter)
        return True

    async def send_test(self, recipient: str, *, letter_id: str) -> None:
        """At once, past the outbox, so that whoever asks hears what happened. Raises what the mailer raises."""
        await self._mailer.send(self._writer.write("test", letter_id=letter_id, recipient=recipient, name=None))

    async def check(self) -> tuple[str, str | None]:
        """The mailer's name, and what is wrong with it right now or None."""
        return self._mailer.name, await self._mailer.check()

    async def _reset_password(self, unit: Unit, message: Message) -> Letter | None:
        _, account = await find_credentials(unit, message.payload["recipient"])
        if message.attempt == 1:
            await self._identity.audit.record(
                unit, Event.PASSWORD_RESET_REQUESTED, origin=_origin(message), target=_target(account),
                outcome="success" if account else "failure",
            )  # fmt: skip
        if account is None or account.email is None or not account.is_active:
            return None
        return await self._with_link(unit, message, "reset_password", account, account.email)

    async def _verify_email(self, unit: Unit, message: Message) -> Letter | None:
        _, account = await find_credentials(unit, message.payload["recipient"])
        if account is None or account.email is None or not account.is_active or account.email_verified:
            return None
        return await self._with_link(unit, message, "verify_email", account, account.email)

    async def _confirm_email(self, unit: Unit, message: Message) -> Letter | None:
        new_email = message.payload["recipient"]
        _, holder = await find_credentials(unit, new_email)
        try:
            account = await find_account(unit, message.payload["user_id"])
        except NotFound:
            return None
        if holder is not None or not account.is_active:
            return None
        return await self._with_link(unit, message, "confirm_email", account, new_email)

    async def _registration(self, unit: Unit, message: Message) -> Letter | None:
        payload = message.payload
        email = payload["recipient"]
        _, account = await find_credentials(unit, email)
        # The account has the message's id: a second attempt knows what the first one made.
        if account is not None and account.id != message.id:
            return self._letter("already_registered", message, account, email)
        if account is None:
            draft = AccountDraft(email, payload["username"], payload["name"])
            if draft.username and (await find_credentials(unit, draft.username))[1] is not None:
                draft = AccountDraft(email, None, payload["name"])
            account = await accounts.add_account(
                unit, draft, hashed_password=payload["hashed_password"], user_id=message.id
            )
            await self._identity.audit.record(
                unit, Event.USER_REGISTERED, origin=_origin(message), actor=account.actor, target=_target(account)
            )
        return await self._with_link(unit, message, "verify_email", account, email)

    async def _account_locked(self, unit: Unit, message: Message) -> Letter | None:
        _, account = await find_credentials(unit, message.payload["recipient"])
        if account is None or account.email is None:
            return None
        minutes = int(LOCK.total_seconds()) // 60
        return self._letter("account_locked", message, account, account.email, minutes=minutes)

    async def _notice(self, unit: Unit, message: Message) -> Letter | None:
        payload = message.payload
        return self._letter(message.kind, message, None, payload["recipient"])

    async def _with_link(
        self, unit: Unit, message: Message, purpose: Purpose, account: Account, recipient: str
    ) -> Letter:
        token = await self._identity.tokens.mint(
            unit, purpose, user_id=account.id, message_id=message.id, email=recipient
        )
        link = self._writer.link(PAGES[purpose], token)
        hours = int(LIVES[purpose].total_seconds()) // 3600
        return self._letter(purpose, message, account, recipient, link=link, hours=hours)

    def _letter(self, kind: str, message: Message, account: Account | None, recipient: str, **values: Any) -> Letter:
        origin = _origin(message)
        return self._writer.write(
            kind, letter_id=message.id, recipient=recipient, name=account.name if account else None,
            at=rfc3339(message.created_at)[:16].replace("T", " ") + " UTC", ip_address=origin.ip_address,
            device=origin.device, **values,
        )  # fmt: skip


def _origin(message: Message) -> Origin:
    names = ("ip_address", "user_agent", "device", "request_id")
    return Origin(**{name: message.payload.get(name) for name in names})


def _target(account: Account | None) -> tuple[str, str] | None:
    return ("user", account.id) if account else None
