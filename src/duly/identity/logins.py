"""Signing up and signing in."""

from typing import Any

from duly.audit.events import Event, Origin
from duly.db.unit import Unit
from duly.errors import Forbidden, Unauthenticated
from duly.identity import accounts, queries
from duly.identity.accounts import Account, AccountDraft, find_credentials
from duly.identity.context import Identity
from duly.identity.principals import Principal
from duly.identity.sessions import TokenPair
from duly.identity.strength import check_password


async def register(
    identity: Identity, unit: Unit, draft: AccountDraft, password: str, *, origin: Origin
) -> tuple[Account, TokenPair] | None:
    """A new account with its first session; or None when a mail has to be answered first.

    With `REGISTRATION=verified` nothing is told about the address: taken or free, the same is done here, and the mail
    says the rest. Raises `Forbidden` (`REGISTRATION_CLOSED`), `Invalid` (`WEAK_PASSWORD`), `Conflict` (`EMAIL_TAKEN`,
    `USERNAME_TAKEN`).
    """
    if identity.registration == "closed":
        raise Forbidden("Registration is closed here. Ask an administrator for an account.", code="REGISTRATION_CLOSED")
    await check_draft_password(identity, draft, password)
    if identity.registration == "verified":
        await accounts.refuse_taken_username(unit, draft)
        hashed = await identity.hasher.hash(password)
        email = accounts.fold_email(draft.email)
        await identity.outbox.add(
            unit, "registration", email, username=draft.username, name=draft.name, hashed_password=hashed,
            **shown(origin),
        )  # fmt: skip
        return None
    account = await add_account(identity, unit, draft, password)
    await identity.audit.record(
        unit, Event.USER_REGISTERED, origin=origin, actor=account.actor, target=("user", account.id)
    )
    await identity.outbox.add(unit, "verify_email", account.email or "", user_id=account.id)
    pair = await identity.sessions.open(unit, account.id, origin=origin)
    return account, pair


async def check_draft_password(identity: Identity, draft: AccountDraft, password: str) -> None:
    """Raises `Invalid` (`WEAK_PASSWORD`)."""
    names = (draft.email, draft.username, draft.name)
    await check_password(identity.hasher, password, names=names, minimum=identity.password_minimum)


async def add_account(identity: Identity, unit: Unit, draft: AccountDraft, password: str) -> Account:
    """Hash and insert. Raises `Conflict`."""
    await accounts.refuse_taken(unit, draft)
    # Hashed before the first write: nothing slow happens inside the transaction.
    hashed = await identity.hasher.hash(password)
    return await accounts.add_account(unit, draft, hashed_password=hashed)


async def log_in(
    identity: Identity, unit: Unit, name: str, password: str, *, origin: Origin, role: str | None = None
) -> tuple[Account, TokenPair]:
    """The account that the password opens, and a new session; an unknown name costs the time of a known one.

    Raises `Unauthenticated` (`INVALID_CREDENTIALS`), alike for an unknown name, a wrong password and a deactivated
    account; `Locked`, also for names that nobody has; `Forbidden` for a right password without the `role`, or whose
    address is not verified where that is asked for. A hash of an older kind is replaced by the way.
    """
    stored, account = await find_credentials(unit, name)
    name_key = identity.lockout.name_key(account.id if account else None, accounts.fold_identifier(name))
    place = identity.lockout.place_of(origin)
    await identity.lockout.check(unit, name_key, place)
    verdict = await identity.hasher.verify(password, stored)
    if account is None or stored is None or not verdict.ok or not account.is_active:
        await count_failure(identity, unit, account, name_key, place, origin=origin, name=name)
        raise _wrong()
    await unit.begin()
    # What was guessed at the same time counts too: a right guess among too many wrong ones opens nothing, and is told
    # what they are told.
    await identity.lockout.check(unit, name_key, place)
    if role is not None and account.role != role:
        await identity.audit.record(
            unit, Event.ACCESS_DENIED, origin=origin, actor=account.actor, outcome="failure", wanted=role
        )
        raise Forbidden("This account is no administrator's. Sign in at /api/users/login.", keeps_writes=True)
    if identity.registration == "verified" and not account.email_verified and account.role != "admin":
        raise Forbidden("The e-mail address is not verified yet. Use the link in the mail, or ask for a new one.",
                        code="EMAIL_NOT_VERIFIED")  # fmt: skip
    current = await unit.first(queries.LOCK_CREDENTIALS, user_id=account.id)
    if current is None or current[0] != stored:
        raise _wrong()  # the password was changed, or the account was closed, while this one was checked
    await identity.lockout.forgive(unit, name_key, place)
    if verdict.replacement is not None:
        await unit.fetch(queries.REPLACE_HASH, user_id=account.id, old_hash=stored, new_hash=verdict.replacement)
        await identity.audit.record(
            unit, Event.PASSWORD_REHASHED, origin=origin, actor=account.actor, target=("user", account.id)
        )
    await _tell_of_new_device(identity, unit, account, origin)
    pair = await identity.sessions.open(unit, account.id, origin=origin)
    await identity.audit.record(
        unit, Event.USER_LOGGED_IN, origin=origin, actor=account.actor, target=("user", account.id)
    )
    return account, pair


async def check_current_password(
    identity: Identity, unit: Unit, actor: Principal, password: str, *, origin: Origin
) -> Account:
    """What a sensitive change asks for once more. A wrong one counts like a failed login, in this session alone.

    Raises `Forbidden` (`WRONG_PASSWORD`, or `NO_PASSWORD` for an outside issuer's user) and `Locked`.
    """
    row = await unit.first(queries.FIND_CREDENTIALS_BY_ID, user_id=actor.user_id)
    if row is None or row[0] is None:
        raise Forbidden("This account has no password here. Change it where you sign in.", code="NO_PASSWORD")
    account = Account(*row[1:])
    name_key = identity.lockout.name_key(account.id, "")
    place = identity.lockout.place_of_session(actor.session_id)
    await identity.lockout.check(unit, name_key, place, everywhere=False)
    verdict = await identity.hasher.verify(password, row[0])
    if not verdict.ok:
        await count_failure(identity, unit, account, name_key, place, origin=origin, everywhere=False)
        raise Forbidden("The current password is wrong.", code="WRONG_PASSWORD", keeps_writes=True)
    await unit.begin()
    await identity.lockout.check(unit, name_key, place, everywhere=False)
    current = await unit.first(queries.LOCK_CREDENTIALS, user_id=account.id)
    if current is None or current[0] != row[0]:
        raise Forbidden("The current password is wrong.", code="WRONG_PASSWORD")
    await identity.lockout.forgive(unit, name_key, place)
    return account


async def count_failure(
    identity: Identity, unit: Unit, account: Account | None, name_key: str, place: str, *, origin: Origin,
    name: str = "", everywhere: bool = True,
) -> None:  # fmt: skip
    """The same writes for a name that somebody has and for one that nobody has. Raises as `Lockout.fail` does."""
    target = ("user", account.id) if account else None
    failure = await identity.lockout.fail(unit, name_key, place, everywhere=everywhere)
    await identity.audit.record(
        unit, Event.USER_LOGIN_FAILED, origin=origin, target=target, outcome="failure", name_key=name_key[:16]
    )
    if failure.locked_here or failure.locked_everywhere:
        here = "one network" if everywhere else "one session"
        scope = "everywhere" if failure.locked_everywhere else here
        await identity.audit.record(
            unit,
            Event.USER_LOCKED,
            origin=origin,
            target=target,
            outcome="failure",
            name_key=name_key[:16],
            scope=scope,
        )
    if failure.locked_everywhere:
        # Whether anybody has the name is found out when the mail is made, so that it shows in no time here.
        await identity.outbox.add(unit, "account_locked", accounts.fold_identifier(name)[:254])


async def _tell_of_new_device(identity: Identity, unit: Unit, account: Account, origin: Origin) -> None:
    rows = await unit.fetch(queries.KNOWN_DEVICES, user_id=account.id)
    known = {row[0] for row in rows}
    if known and origin.device not in known and account.email is not None:
        await identity.outbox.add(unit, "new_device", account.email, limited=True, **shown(origin))


async def log_out_everywhere(identity: Identity, unit: Unit, actor: Principal, *, origin: Origin) -> None:
    """End every session of the caller."""
    account = await accounts.find_account(unit, actor.user_id)
    ended = await identity.sessions.end_all(unit, actor.user_id, reason="logged_out_everywhere")
    await identity.audit.record(
        unit, Event.USER_LOGGED_OUT_EVERYWHERE, origin=origin, actor=account.actor, target=("user", account.id),
        sessions=ended,
    )  # fmt: skip


def shown(origin: Origin) -> dict[str, Any]:
    """An origin as a part of a message that is made later."""
    return {
        "ip_address": origin.ip_address, "user_agent": origin.user_agent, "device": origin.device,
        "request_id": origin.request_id,
    }  # fmt: skip


def _wrong() -> Unauthenticated:
    return Unauthenticated(
        "The name or the password is wrong. Check both, or reset the password.",
        code="INVALID_CREDENTIALS",
        challenge=False,
        keeps_writes=True,
    )
