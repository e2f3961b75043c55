"""Puts every encrypted field under the newest key, and a new signing key in the place of the old one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Column, Table, func, select

from duly.audit import queries as audit_queries
from duly.audit.events import NOWHERE, Event
from duly.db.statements import Row, Statement
from duly.db.unit import Database
from duly.errors import Conflict
from duly.identity import queries, user_queries
from duly.kit.ciphers import WrongKey, key_id
from duly.kit.secrets import derive_key, read_previous_keys, replace_key
from duly.operations.assembly import Parts
from duly.operations.startup import FIELD_PURPOSE, KEY_FILE
from duly.outbox import queries as outbox_queries
from duly.outbox.outbox import Outbox
from duly.settings import Settings

BATCH = 200


class Unopened(Exception):
    """A stored field opens under no key; the text says which one and why."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many fields were encrypted anew, and the keys under which no field is any more."""

    resealed: int
    retired: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """One encrypted column: how its values are read in the order of their ids, sealed anew, and written back."""

    table: Table
    column: Column[Any]
    read: Statement
    write: Statement
    row_name: str
    reseal: Callable[[str, str], str | None]


async def count_fields(database: Database, parts: Parts) -> int:
    """How many encrypted fields there are."""
    total = 0
    for place in _places(parts):
        count = select(func.count()).select_from(place.table).where(place.column.is_not(None))
        row = await database.first(Statement(count, slow=True))
        total += row[0] if row else 0
    return total


async def reencrypt_fields(database: Database, parts: Parts, *, on_progress: Callable[[int], None]) -> Rotation:
    """Every field under the newest key; then the other keys are forgotten.

    Each batch of 200 is a transaction of its own, and a second run skips what the first one did. Servers that have not
    been restarted with the newest key would go on using an older one, so that comes first. Raises `Unopened`.
    """
    resealed = 0
    for place in _places(parts):
        after = ""
        while rows := await database.fetch(place.read, after=after, limit=BATCH):
            resealed += await _reseal(database, place, rows)
            after = rows[-1][0]
            on_progress(len(rows))
    return Rotation(resealed, await _retire_keys(database, parts, resealed))


async def _reseal(database: Database, place: _Place, rows: Sequence[Row]) -> int:
    changed = [(row[0], sealed) for row in rows if (sealed := _seal_anew(place, row)) is not None]
    if changed:
        async with database.unit() as unit:
            for row_id, sealed in changed:
                await unit.fetch(place.write, **{place.row_name: row_id, place.column.name: sealed})
    return len(changed)


def _seal_anew(place: _Place, row: Row) -> str | None:
    try:
        return place.reseal(row[0], row[1])
    except WrongKey as error:
        raise Unopened(f"{place.table.name} {row[0]}: {place.column.name} is {error}") from None


async def _retire_keys(database: Database, parts: Parts, resealed: int) -> tuple[str, ...]:
    current = parts.cipher.current_id
    async with database.unit() as unit:
        known = {row[0] for row in await unit.fetch(user_queries.FIELD_KEYS)}
        retired = tuple(sorted(known - {current}))
        for old in retired:
            await unit.fetch(user_queries.FORGET_FIELD_KEY, id=old)
        if retired or resealed:
            await parts.identity.audit.record(
                unit, Event.KEY_ROTATED, origin=NOWHERE, target=("key", current), purpose="fields", fields=resealed
            )
    # The end of the chain is signed anew by the way, so that nothing hangs on an older secret.
    await parts.chain.seal(database)
    return retired


async def rotate_signing_key(settings: Settings, database: Database, parts: Parts) -> None:
    """A new key in DATA_DIR; the old one is kept beside it, for what it signed. Raises `Conflict` and OSError.

    `parts` still has the old key, so servers that are not restarted yet recognise the entry that tells of it.
    """
    if settings.secret_key is not None or settings.better_auth_secret is not None:
        raise Conflict(
            "SECRET_KEY: the signing key is in the settings, not in a file; set SECRET_KEY to a new value "
            "(openssl rand -base64 48) and SECRET_KEY_PREVIOUS to the old one, and restart"
        )
    replace_key(settings.data_dir / KEY_FILE)
    async with database.unit() as unit:
        await parts.identity.audit.record(unit, Event.KEY_ROTATED, origin=NOWHERE, purpose="signing")
    await parts.chain.seal(database)


def removable_keys(settings: Settings, parts: Parts) -> list[str]:
    """One line for each key in the settings that no field needs, once every field is under the newest."""
    current = parts.cipher.current_id
    lines = []
    for number, key in enumerate(settings.field_encryption_key, 1):
        found = _field_key_id(key.get_secret_value())
        if found != current:
            lines.append(f"FIELD_ENCRYPTION_KEY: value {number} (key {found}) encrypts nothing any more; remove it")
    previous = [("SECRET_KEY_PREVIOUS", key.get_secret_value()) for key in settings.secret_key_previous]
    previous += [(f"{KEY_FILE}.previous", key) for key in read_previous_keys(settings.data_dir / KEY_FILE)]
    days = max(settings.refresh_token_days, settings.access_token_seconds / 86400)
    for name, secret in previous:
        found = _field_key_id(secret)
        if found != current:
            lines.append(f"{name}: key {found} encrypts nothing any more; remove it {days:g} days after it was "
                         "replaced, when no token needs it")  # fmt: skip
    return lines


def _field_key_id(secret: str) -> str:
    return key_id(derive_key(secret, FIELD_PURPOSE))


def _places(parts: Parts) -> tuple[_Place, ...]:
    return (
        _Place(
            queries.sessions, queries.sessions.c.origin, queries.ORIGINS_AFTER, queries.RESEAL_ORIGIN, "session_id",
            parts.identity.sessions.reseal_origin,
        ),
        _Place(
            audit_queries.log, audit_queries.log.c.origin, audit_queries.ORIGINS_AFTER, audit_queries.RESEAL_ORIGIN,
            "entry_id", parts.identity.audit.reseal_origin,
        ),
        _Place(
            outbox_queries.outbox, outbox_queries.outbox.c.payload, outbox_queries.PAYLOADS_AFTER,
            outbox_queries.RESEAL_PAYLOAD, "message_id", partial(_reseal_payload, parts.identity.outbox),
        ),
    )  # fmt: skip


def _reseal_payload(outbox: Outbox, message_id: str, sealed: str) -> str | None:
    return None if outbox.is_current(sealed) else outbox.seal(message_id, outbox.open(message_id, sealed))
