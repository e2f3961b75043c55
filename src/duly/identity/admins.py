"""Registering administrators: by another one, or once with the operator's token while there is none."""

from datetime import UTC, datetime

from duly.audit.events import Event, Origin
from duly.db.conflicts import UniqueViolation
from duly.db.unit import Unit
from duly.errors import Forbidden
from duly.identity import accounts, admin_queries, queries
from duly.identity.accounts import Account, AccountDraft
from duly.identity.context import Identity
from duly.identity.logins import check_draft_password
from duly.identity.principals import Principal
from duly.identity.sessions import TokenPair
from duly.identity.users import find_admin
from duly.kit.clock import now

# The row that says that the operator's token was used. It is no hash of any token, so nothing can present it.
MARK = "admin-registration"
FOR_EVER = datetime(9999, 12, 31, tzinfo=UTC)


async def register_admin(
    identity: Identity, unit: Unit, draft: AccountDraft, password: str, *, registrar: Principal | None, origin: Origin
) -> tuple[Account, TokenPair]:
    """A new administrator with a first session. Without a `registrar` the caller has shown the operator's token.

    Raises `Forbidden` (`ADMIN_EXISTS`) for the token once there is or was an administrator, `Invalid`
    (`WEAK_PASSWORD`), `Conflict` (`EMAIL_TAKEN`, `USERNAME_TAKEN`).
    """
    await _check_right(unit, registrar)
    await check_draft_password(identity, draft, password)
    await accounts.refuse_taken(unit, draft)
    hashed = await identity.hasher.hash(password)
    await unit.begin()
    registered_by = await _check_right(unit, registrar)
    account = await accounts.add_account(unit, draft, hashed_password=hashed)
    if registered_by is None:
        await _use_up(unit, account)
    await identity.audit.record(
        unit, Event.ADMIN_REGISTERED, origin=origin, actor=(registered_by or account).actor,
        target=("user", account.id), by="administrator" if registered_by else "registration_token",
    )  # fmt: skip
    await identity.outbox.add(unit, "verify_email", account.email or "", user_id=account.id)
    return account, await identity.sessions.open(unit, account.id, origin=origin)


async def _check_right(unit: Unit, registrar: Principal | None) -> Account | None:
    """The registering administrator as they are this moment."""
    if registrar is not None:
        return await find_admin(unit, registrar)
    if await unit.first(queries.HAS_ADMIN) is not None:
        raise _exists()
    return None


async def _use_up(unit: Unit, account: Account) -> None:
    """Of many at once that found no administrator, the primary key lets one through."""
    moment = now()
    try:
        await unit.fetch(
            admin_queries.MARK_REGISTRATION, hash=MARK, purpose=MARK, user_id=account.id, created_at=moment,
            updated_at=moment, used_at=moment, expires_at=FOR_EVER,
        )  # fmt: skip
    except UniqueViolation:
        raise _exists() from None


def _exists() -> Forbidden:
    return Forbidden("There is an administrator already. Ask them to register you.", code="ADMIN_EXISTS")
