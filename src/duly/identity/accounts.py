"""Accounts kept here: registering, finding, and what a valid account looks like."""

import re
import unicodedata
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from email_validator import EmailNotValidError, validate_email

from duly.audit.events import Actor
from duly.db.conflicts import UniqueViolation
from duly.db.statements import Row
from duly.db.unit import Reader, Unit
from duly.errors import Conflict, FieldFault, Invalid, NotFound
from duly.identity import queries
from duly.kit.clock import now
from duly.kit.ids import new_id

USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,31}")


@dataclass(frozen=True, slots=True)
class Account:
    """What the owner of an account may see of it."""

    id: str
    email: str | None
    username: str | None
    name: str | None
    role: str
    is_active: bool
    email_verified: bool
    created_at: datetime
    updated_at: datetime

    @property
    def actor(self) -> Actor:
        """The account as the one who does something."""
        return Actor(self.id, self.email or self.username or self.name)


@dataclass(frozen=True, slots=True)
class AccountDraft:
    """A new account. `email` is a valid address; the password is not in it, only its hash reaches the database."""

    email: str
    username: str | None = None
    name: str | None = None
    role: str = "user"


def fold_email(address: str) -> str:
    """The one spelling under which an address is stored and found: NFC, lower case, an IDNA domain as Unicode."""
    text = unicodedata.normalize("NFC", address.strip())
    try:
        return read_email(text).lower()
    except EmailNotValidError:
        return text.lower()  # no account has it, and it is looked for all the same


def read_email(address: str) -> str:
    """The address as it is written properly. Raises `EmailNotValidError`, which is a ValueError."""
    # Servers in a house may have a name without a dot, and `.test` is for those who test (RFC 2606). Strict is the
    # limit of 64 before the @ (RFC 5321 §4.5.3.1.1).
    return validate_email(
        address, check_deliverability=False, globally_deliverable=False, test_environment=True, strict=True
    ).normalized


def fold_username(username: str) -> str:
    """Usernames differ only when they look different: NFKC, case folded."""
    return unicodedata.normalize("NFKC", username.strip()).casefold()


def fold_identifier(name: str) -> str:
    """An address or a username in the spelling under which it is looked for."""
    return fold_email(name) if "@" in name else fold_username(name)


def check_draft(draft: AccountDraft) -> AccountDraft:
    """The draft with its names in their one spelling. Raises `Invalid` for a name that is no address or no username."""
    try:
        read_email(draft.email)
    except EmailNotValidError:
        raise _invalid("email", "Give an e-mail address such as ann@example.com.") from None
    if draft.username is not None and not USERNAME.fullmatch(draft.username):
        raise _invalid("username", "Use 3 to 32 letters, digits, dots, hyphens or underscores.")
    return replace(draft, email=fold_email(draft.email))


def _invalid(field: str, message: str) -> Invalid:
    return Invalid(f"The {field} cannot be used.", faults=[FieldFault(field, message, f"bad_{field}")])


async def refuse_taken(reader: Reader, draft: AccountDraft) -> None:
    """Refuse early, before a password is hashed for nothing; the unique constraints still have the last word."""
    key = fold_username(draft.username) if draft.username else None
    rows = await reader.fetch(queries.FIND_TAKEN, email=fold_email(draft.email), username_key=key)
    for email, _ in rows:
        raise taken("uq_users_email" if email == fold_email(draft.email) else "uq_users_username_key")


async def refuse_taken_username(reader: Reader, draft: AccountDraft) -> None:
    """Raises `Conflict` (`USERNAME_TAKEN`); says nothing of the address."""
    if draft.username is not None:
        key = fold_username(draft.username)
        if await reader.first(queries.FIND_CREDENTIALS_BY_USERNAME, identifier=key) is not None:
            raise taken("uq_users_username_key")


async def add_account(unit: Unit, draft: AccountDraft, *, hashed_password: str, user_id: str | None = None) -> Account:
    """Raises `Conflict` (`EMAIL_TAKEN`, `USERNAME_TAKEN`)."""
    moment = now()
    account = Account(
        id=user_id or new_id(),
        email=fold_email(draft.email),
        username=draft.username,
        name=draft.name,
        role=draft.role,
        is_active=True,
        email_verified=False,
        created_at=moment,
        updated_at=moment,
    )
    try:
        await unit.fetch(
            queries.INSERT_USER,
            id=account.id,
            email=account.email,
            username=account.username,
            username_key=fold_username(draft.username) if draft.username else None,
            name=account.name,
            role=account.role,
            hashed_password=hashed_password,
            created_at=moment,
            updated_at=moment,
        )
    except UniqueViolation as error:
        raise taken(error.constraint) from None
    return account


def taken(constraint: str) -> Conflict:
    """The refusal for a unique constraint of users."""
    if constraint == "uq_users_username_key":
        return Conflict("This username is taken. Choose another one.", code="USERNAME_TAKEN")
    return Conflict("An account with this e-mail address exists. Sign in instead.", code="EMAIL_TAKEN")


async def find_account(reader: Reader, user_id: str) -> Account:
    """Raises `NotFound` for an unknown or deleted user."""
    row = await reader.first(queries.FIND_USER, user_id=user_id)
    if row is None:
        raise NotFound("There is no such user.")
    return Account(*row)


async def find_credentials(reader: Reader, identifier: str) -> tuple[str | None, Account | None]:
    """The stored hash and the account for an e-mail address or a username; (None, None) when there is none."""
    by_email = "@" in identifier
    statement = queries.FIND_CREDENTIALS_BY_EMAIL if by_email else queries.FIND_CREDENTIALS_BY_USERNAME
    row: Row | None = await reader.first(statement, identifier=fold_identifier(identifier))
    if row is None:
        return None, None
    values: list[Any] = list(row)
    return values[0], Account(*values[1:])
