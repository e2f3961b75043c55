"""Getting back in, and proving an address: forgotten passwords, verification, and the change of an address."""

from datetime import datetime

from duly.audit.events import Event, Origin
from duly.db.conflicts import UniqueViolation
from duly.db.unit import Unit
from duly.errors import NotFound
from duly.identity import accounts, user_queries
from duly.identity.accounts import Account, find_account, fold_email
from duly.identity.context import Identity
from duly.identity.logins import check_current_password, shown
from duly.identity.one_time import bad_token
from duly.identity.principals import Principal
from duly.identity.strength import check_password
from duly.kit.clock import now


async def request_reset(identity: Identity, unit: Unit, email: str, *, origin: Origin) -> None:
    """Promise a mail. Whether anybody has the address is found out when the mail is made: here all are alike."""
    await identity.outbox.add(unit, "reset_password", fold_email(email), **shown(origin))


async def reset_password(identity: Identity, unit: Unit, token: str, new_password: str, *, origin: Origin) -> None:
    """Set a new password with the mailed token; every session ends, and a lock is lifted.

    Raises `Invalid` (`BAD_TOKEN`, `WEAK_PASSWORD`). A password that is refused does not use the token up.
    """
    user_id, email = await identity.tokens.find(unit, "reset_password", token)
    account = await find_account(unit, user_id)
    if account.email != email:
        raise bad_token()  # the address changed while the mail was made: its box is no longer the owner's
    hashed = await _hash_new(identity, account, new_password)
    await identity.tokens.use(unit, "reset_password", token)
    await _set_password(identity, unit, account, hashed, event=Event.PASSWORD_RESET, origin=origin)
    await identity.sessions.end_all(unit, user_id, reason="password_reset")
    if await identity.lockout.lift(unit, identity.lockout.name_key(user_id, "")):
        await identity.audit.record(
            unit, Event.USER_UNLOCKED, origin=origin, actor=account.actor, target=("user", user_id)
        )


async def change_password(
    identity: Identity, unit: Unit, actor: Principal, *, current: str, new: str, origin: Origin
) -> None:
    """The caller's other sessions end. Raises as `check_current_password` does, and `Invalid` (`WEAK_PASSWORD`)."""
    # Hashed before the check, so that the check and the change are one transaction without anything slow in it.
    hashed = await _hash_new(identity, await find_account(unit, actor.user_id), new)
    account = await check_current_password(identity, unit, actor, current, origin=origin)
    await _set_password(identity, unit, account, hashed, event=Event.PASSWORD_CHANGED, origin=origin)
    await identity.sessions.end_all(unit, account.id, reason="password_changed", but=actor.session_id)


async def _hash_new(identity: Identity, account: Account, new_password: str) -> str:
    names = (account.email, account.username, account.name)
    await check_password(
        identity.hasher, new_password, names=names, minimum=identity.password_minimum, field="new_password"
    )
    return await identity.hasher.hash(new_password)


async def _set_password(
    identity: Identity, unit: Unit, account: Account, hashed: str, *, event: Event, origin: Origin
) -> None:
    """The hash first: a login under way waits for it, and then finds that its password is the old one."""
    if await unit.first(user_queries.SET_PASSWORD, user_id=account.id, new_hash=hashed, now=now()) is None:
        raise NotFound("There is no such user.")
    await identity.tokens.void(unit, account.id)
    await identity.audit.record(unit, event, origin=origin, actor=account.actor, target=("user", account.id))
    if account.email is not None:
        # A mail that still waits would bring a token that is younger than the password.
        await identity.outbox.withdraw(unit, "reset_password", account.email)
        await identity.outbox.add(unit, "password_changed", account.email, limited=False, **shown(origin))


async def request_verification(identity: Identity, unit: Unit, email: str) -> None:
    """Promise another mail with a link that proves the address; alike for every address."""
    await identity.outbox.add(unit, "verify_email", fold_email(email))


async def verify_email(identity: Identity, unit: Unit, token: str, *, origin: Origin) -> None:
    """The address is the owner's. Raises `Invalid` (`BAD_TOKEN`), also when the address has changed since."""
    user_id, email = await identity.tokens.use(unit, "verify_email", token)
    account = await find_account(unit, user_id)
    if account.email != email:
        raise bad_token()
    await _update(unit, user_id, email_verified=True)
    await identity.audit.record(
        unit, Event.EMAIL_VERIFIED, origin=origin, actor=account.actor, target=("user", user_id)
    )


async def request_email_change(
    identity: Identity, unit: Unit, actor: Principal, *, new_email: str, current_password: str, origin: Origin,
    tells_taken: bool = False,
) -> None:  # fmt: skip
    """Promise a mail to the new address; the account keeps the old one until that is answered.

    Raises as `check_current_password` does; `Conflict` (`EMAIL_TAKEN`) only when `tells_taken`.
    """
    account = await check_current_password(identity, unit, actor, current_password, origin=origin)
    folded = fold_email(new_email)
    if tells_taken and folded != account.email:
        await accounts.refuse_taken(unit, accounts.AccountDraft(folded))
    await identity.outbox.add(unit, "confirm_email", folded, user_id=account.id)
    await identity.audit.record(
        unit, Event.EMAIL_CHANGE_REQUESTED, origin=origin, actor=account.actor, target=("user", account.id)
    )


async def confirm_email(identity: Identity, unit: Unit, token: str, *, origin: Origin) -> Account:
    """The new address is proven and becomes the account's; the old one is told.

    Raises `Invalid` (`BAD_TOKEN`), and `Conflict` (`EMAIL_TAKEN`) when somebody else has it by now.
    """
    user_id, email = await identity.tokens.use(unit, "confirm_email", token)
    account = await find_account(unit, user_id)
    try:
        changed = await _update(unit, user_id, email=email, email_verified=True)
    except UniqueViolation as error:
        raise accounts.taken(error.constraint) from None
    await identity.tokens.void(unit, user_id)
    await identity.audit.record(unit, Event.EMAIL_CHANGED, origin=origin, actor=account.actor, target=("user", user_id))
    if account.email is not None:
        await identity.outbox.withdraw(unit, "reset_password", account.email)
        await identity.outbox.add(unit, "email_changed", account.email, limited=False, **shown(origin))
    return changed


async def _update(unit: Unit, user_id: str, **values: str | bool | datetime | None) -> Account:
    statement = user_queries.update_user(frozenset(values))
    row = await unit.first(statement, user_id=user_id, now=now(), **values)
    if row is None:
        raise NotFound("There is no such user.")
    return Account(*row[:-1])
