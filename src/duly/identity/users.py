"""Users as their owners and administrators see and change them."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from duly.audit.events import Event, Origin
from duly.db.conflicts import UniqueViolation
from duly.db.unit import Reader, Unit
from duly.errors import Conflict, DulyError, FieldFault, Forbidden, Invalid, NotFound, PreconditionFailed
from duly.identity import accounts, user_queries
from duly.identity.accounts import Account, fold_username
from duly.identity.context import Identity
from duly.identity.logins import check_current_password
from duly.identity.principals import Principal
from duly.identity.user_queries import UserShape, fold_search
from duly.kit.clock import now, parse_rfc3339, rfc3339
from duly.kit.paging import Cursors
from duly.kit.unset import UNSET, Unset

SORTS = tuple(f"{sign}{key}" for key in user_queries.SORT_KEYS for sign in ("", "-"))
DEFAULT_SORT = "-created_at"
EXPORTED_AT_ONCE = 200
Action = Literal["activate", "deactivate", "delete", "set_role"]


@dataclass(frozen=True, slots=True)
class UserFilter:
    """What a list of users asks for. `search` is a part of the address, the username or the name, in any case."""

    search: str | None = None
    is_active: bool | None = None
    role: str | None = None
    sort: str = DEFAULT_SORT
    limit: int = 50
    offset: int = 0
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class UserPage:
    """Accounts in order, how many there are in all, and the cursor of the next page or None."""

    users: Sequence[Account]
    total: int
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class UserPatch:
    """A merge update: what is UNSET stays. `is_active` and `role` are for administrators, and not for oneself."""

    name: str | Unset | None = UNSET
    username: str | Unset | None = UNSET
    is_active: bool | Unset = UNSET
    role: str | Unset = UNSET


@dataclass(frozen=True, slots=True)
class StoredUser:
    """An account and the version that an `If-Match` speaks of."""

    account: Account
    version: int


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What became of one id; the account is None when it was deleted or refused."""

    index: int
    account: Account | None
    error: DulyError | None


async def find_admin(reader: Reader, actor: Principal) -> Account:
    """The caller's own account. Raises `Forbidden` unless it is an administrator's, read this moment."""
    stored = await _find(reader, actor.user_id)
    if stored is None or stored.account.role != "admin" or not stored.account.is_active:
        raise Forbidden("This is for administrators.")
    return stored.account


async def list_users(reader: Reader, cursors: Cursors, wanted: UserFilter, *, caller_id: str = "") -> UserPage:
    """One page; its cursor is good for this caller and filter. Raises `Malformed` (`BAD_CURSOR`)."""
    values = _values(wanted)
    place = repr((caller_id, sorted(values.items()), wanted.sort))
    scope = "users:" + hashlib.sha256(place.encode()).hexdigest()
    total = await reader.first(user_queries.count_users(_shape(wanted, counts=True)), **values)
    is_time = wanted.sort.endswith("_at")
    if wanted.cursor is not None:
        last_key, last_id = cursors.open(scope, wanted.cursor)
        values |= {"last_key": parse_rfc3339(str(last_key)) if is_time else last_key, "last_id": last_id}
    rows = await reader.fetch(
        user_queries.list_users(_shape(wanted)), **values, limit=wanted.limit + 1, offset=wanted.offset
    )
    next_cursor = None
    if len(rows) > wanted.limit:
        rows = rows[: wanted.limit]
        key = rows[-1][-1]
        next_cursor = cursors.seal(scope, [rfc3339(key) if is_time else key, rows[-1][0]])
    return UserPage([Account(*row[:-1]) for row in rows], total[0] if total else 0, next_cursor)


async def export_users(reader: Reader) -> AsyncIterator[Account]:
    """Every account that is not deleted, oldest first, a page at a time."""
    shape = UserShape(descending=False)
    values: dict[str, Any] = {}
    while True:
        rows = await reader.fetch(user_queries.list_users(shape), **values, limit=EXPORTED_AT_ONCE, offset=0)
        for row in rows:
            yield Account(*row[:-1])
        if len(rows) < EXPORTED_AT_ONCE:
            return
        shape = UserShape(descending=False, after=True)
        values = {"last_key": rows[-1][-1], "last_id": rows[-1][0]}


async def find_user(reader: Reader, actor: Principal, user_id: str) -> StoredUser:
    """Oneself, or anybody for an administrator. Raises `NotFound` otherwise."""
    stored = await _find(reader, user_id)
    if stored is None or (user_id != actor.user_id and not await _is_admin(reader, actor)):
        raise _missing()
    return stored


async def _find_current(unit: Unit, actor: Principal, user_id: str, version: int | None) -> StoredUser:
    """As `find_user`, and nobody else changes them before this transaction ends. Raises `PreconditionFailed` too."""
    await unit.fetch(user_queries.LOCK_USER, user_id=user_id)
    stored = await find_user(unit, actor, user_id)
    if version is not None and stored.version != version:
        raise PreconditionFailed("The user has changed since you read it. Read it again.")
    return stored


async def update_user(
    identity: Identity, unit: Unit, actor: Principal, user_id: str, patch: UserPatch, *,
    origin: Origin, version: int | None = None,
) -> StoredUser:  # fmt: skip
    """Raises `NotFound`, `PreconditionFailed`, `Forbidden`, `Conflict` (`USERNAME_TAKEN`, `LAST_ADMIN`), `Invalid`."""
    await unit.begin()
    changes_rights = patch.is_active is not UNSET or patch.role is not UNSET
    admins = [row[0] for row in await unit.fetch(user_queries.LOCK_ADMINS)] if changes_rights else []
    stored = await _find_current(unit, actor, user_id, version)
    values = _changed(stored.account, patch)
    if not values:
        return stored
    if values.keys() & {"is_active", "role"}:
        _check_rights(stored.account, actor, values, admins, is_admin=await _is_admin(unit, actor))
    return await _write(identity, unit, actor, stored.account, values, origin=origin)


async def _write(
    identity: Identity, unit: Unit, actor: Principal, before: Account, values: dict[str, Any], *, origin: Origin
) -> StoredUser:
    if "username" in values:
        username = values["username"]
        values["username_key"] = fold_username(username) if username else None
    try:
        row = await unit.first(user_queries.update_user(frozenset(values)), user_id=before.id, now=now(), **values)
    except UniqueViolation as error:
        raise accounts.taken(error.constraint) from None
    if row is None:
        raise _missing()
    after = Account(*row[:-1])
    if (before.is_active and not after.is_active) or (before.role == "admin" and after.role != "admin"):
        await identity.sessions.end_all(unit, before.id, reason="rights_taken")
    acting = before if actor.user_id == before.id else await accounts.find_account(unit, actor.user_id)
    for event, details in _events(before, after):
        await identity.audit.record(
            unit, event, origin=origin, actor=acting.actor, target=("user", before.id), **details
        )
    return StoredUser(after, row[-1])


def _events(before: Account, after: Account) -> list[tuple[Event, dict[str, Any]]]:
    found: list[tuple[Event, dict[str, Any]]] = []
    fields = [name for name in ("name", "username") if getattr(before, name) != getattr(after, name)]
    if fields:
        found.append((Event.USER_UPDATED, {"fields": ",".join(fields)}))
    if before.role != after.role:
        found.append((Event.USER_ROLE_CHANGED, {"before": before.role, "after": after.role}))
    if before.is_active != after.is_active:
        found.append((Event.USER_ACTIVATED if after.is_active else Event.USER_DEACTIVATED, {}))
    return found


async def delete_user(
    identity: Identity, unit: Unit, actor: Principal, user_id: str, *,
    origin: Origin, current_password: str | None = None, version: int | None = None,
) -> None:  # fmt: skip
    """The row stays, its names are free, its sessions end. Oneself only with the current password.

    Raises `NotFound`, `PreconditionFailed`, `Invalid` without the password, `Forbidden` for a wrong one, `Conflict`
    (`LAST_ADMIN`).
    """
    await find_user(unit, actor, user_id)
    if user_id == actor.user_id:
        if current_password is None:
            fault = FieldFault("current_password", "Send your current password.", "password_needed")
            raise Invalid("Deleting your account needs your current password.", faults=[fault])
        await check_current_password(identity, unit, actor, current_password, origin=origin)
    await unit.begin()
    # One's own row is held since the password was checked, so that its role stays; others' come after the admins'.
    is_admin = user_id != actor.user_id or (await _find_current(unit, actor, user_id, version)).account.role == "admin"
    admins = [row[0] for row in await unit.fetch(user_queries.LOCK_ADMINS)] if is_admin else []
    await _find_current(unit, actor, user_id, version)
    if admins == [user_id]:
        raise _last_admin()
    acting = (await accounts.find_account(unit, actor.user_id)).actor
    await unit.fetch(user_queries.DELETE_USER, user_id=user_id, now=now())
    await identity.sessions.end_all(unit, user_id, reason="deleted")
    await identity.tokens.void(unit, user_id)
    await identity.audit.record(unit, Event.USER_DELETED, origin=origin, actor=acting, target=("user", user_id))


async def change_many(
    identity: Identity, unit: Unit, actor: Principal, action: Action, user_ids: Sequence[str], *,
    origin: Origin, role: str | None = None,
) -> list[BulkResult]:  # fmt: skip
    """The same change for many, each on its own: what is refused leaves the others as they are."""
    admin = await find_admin(unit, actor)
    results = []
    for index, user_id in enumerate(user_ids):
        try:
            if user_id == actor.user_id:
                raise Forbidden("An administrator does not change their own account in bulk.")
            if not user_id.isprintable():
                raise _missing()  # no id is like that, and PostgreSQL would not even compare it
            changed = await _change_one(identity, unit, actor, user_id, action=action, role=role, origin=origin)
            results.append(BulkResult(index, changed, None))
        except DulyError as error:
            if error.kind.value >= 500:
                raise
            results.append(BulkResult(index, None, error))
    done = sum(result.error is None for result in results)
    await identity.audit.record(
        unit, Event.USERS_BULK_CHANGED, origin=origin, actor=admin.actor, action=action, succeeded=done,
        failed=len(results) - done,
    )  # fmt: skip
    return results


async def _change_one(
    identity: Identity,
    unit: Unit,
    actor: Principal,
    user_id: str,
    *,
    action: Action,
    role: str | None,
    origin: Origin,
) -> Account | None:
    if action == "delete":
        await delete_user(identity, unit, actor, user_id, origin=origin)
        return None
    patch = UserPatch(role=role or "user") if action == "set_role" else UserPatch(is_active=action == "activate")
    return (await update_user(identity, unit, actor, user_id, patch, origin=origin)).account


async def unlock_user(identity: Identity, unit: Unit, actor: Principal, user_id: str, *, origin: Origin) -> None:
    """Lift every lock of a user; nothing to lift is no error. Raises `NotFound`, `Forbidden`."""
    admin = await find_admin(unit, actor)
    if await _find(unit, user_id) is None:
        raise _missing()
    if await identity.lockout.lift(unit, identity.lockout.name_key(user_id, "")):
        await identity.audit.record(
            unit, Event.USER_UNLOCKED, origin=origin, actor=admin.actor, target=("user", user_id)
        )


def _changed(account: Account, patch: UserPatch) -> dict[str, Any]:
    """What the patch would change; what it repeats is no change."""
    names = ("name", "username", "is_active", "role")
    wanted = {name: value for name in names if (value := getattr(patch, name)) is not UNSET}
    return {name: value for name, value in wanted.items() if value != getattr(account, name)}


def _check_rights(
    account: Account, actor: Principal, values: dict[str, Any], admins: Sequence[str], *, is_admin: bool
) -> None:
    if not is_admin:
        raise Forbidden("Only an administrator may change is_active and role.")
    stays_admin = values.get("is_active", account.is_active) and values.get("role", account.role) == "admin"
    if list(admins) == [account.id] and not stays_admin:
        raise _last_admin()
    if account.id == actor.user_id:
        raise Forbidden("An administrator does not change their own role or activity. Ask another one.")


def _shape(wanted: UserFilter, *, counts: bool = False) -> UserShape:
    conditions = UserShape(
        search=wanted.search is not None,
        capitals=len(fold_search(wanted.search or "")[1]),
        is_active=wanted.is_active is not None,
        role=wanted.role is not None,
    )
    if counts:
        return conditions
    return replace(
        conditions,
        sort=wanted.sort.removeprefix("-"),
        descending=wanted.sort.startswith("-"),
        after=wanted.cursor is not None,
    )


def _values(wanted: UserFilter) -> dict[str, Any]:
    values: dict[str, Any] = {"is_active": wanted.is_active, "role": wanted.role}
    if wanted.search is not None:
        text, capitals = fold_search(wanted.search)
        text = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        values |= {"search": f"%{text}%"}
        for index, (capital, small) in enumerate(capitals):
            values |= {f"capital{index}": capital, f"small{index}": small}
    return {name: value for name, value in values.items() if value is not None}


async def _find(reader: Reader, user_id: str) -> StoredUser | None:
    row = await reader.first(user_queries.FIND_VERSIONED, user_id=user_id)
    return None if row is None else StoredUser(Account(*row[:-1]), row[-1])


async def _is_admin(reader: Reader, actor: Principal) -> bool:
    stored = await _find(reader, actor.user_id)
    return stored is not None and stored.account.role == "admin" and stored.account.is_active


def _missing() -> NotFound:
    return NotFound("There is no such user.")


def _last_admin() -> Conflict:
    return Conflict("This is the last administrator. Make somebody else one first.", code="LAST_ADMIN")
