"""Writing events beside what they record, and reading them."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from duly.audit import queries
from duly.audit.events import Actor, DetailValue, Entry, Event, Origin
from duly.audit.links import ALTERED, UNREADABLE, content_of, origin_place
from duly.audit.queries import EntryShape
from duly.db.statements import Row
from duly.db.unit import Reader, Unit
from duly.kit.ciphers import AlteredValue, FieldCipher, WrongKey
from duly.kit.clock import now
from duly.kit.ids import new_id
from duly.kit.logs import request_id_var
from duly.kit.paging import Cursors
from duly.kit.secrets import keyed_hash

log = logging.getLogger("duly.audit")

_BAD = frozenset(
    {Event.USER_LOGIN_FAILED, Event.USER_LOCKED, Event.TOKEN_REUSED, Event.ACCESS_DENIED, Event.RATE_LIMITED,
     Event.FILE_INFECTED}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """What a list asks for. `about` is a user who acted or was acted upon; `until` is exclusive."""

    event: str | None = None
    actor_id: str | None = None
    target_id: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    about: str | None = None
    limit: int = 50
    offset: int = 0
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Entries, newest first, how many there are in all, and the cursor of the next page or None."""

    entries: Sequence[Entry]
    total: int
    next_cursor: str | None


class AuditLog:
    """Writes an event in the transaction of what it records, and one line in the log once that is durable."""

    def __init__(self, cipher: FieldCipher, mac_key: bytes) -> None:
        self._cipher = cipher
        self._mac_key = mac_key

    async def record(
        self,
        unit: Unit,
        event: Event,
        *,
        origin: Origin,
        actor: Actor | None = None,
        target: tuple[str, str] | None = None,
        outcome: str = "success",
        **details: DetailValue,
    ) -> None:
        """`target` is a type and an id. Details hold no secret and no text of unknown length."""
        target_type, target_id = target or (None, None)
        entry = Entry(
            id=new_id(),
            at=now(),
            event=event.value,
            actor_id=actor.id if actor else None,
            actor_name=actor.name if actor else None,
            target_type=target_type,
            target_id=target_id,
            ip_address=origin.ip_address,
            user_agent=origin.user_agent,
            request_id=origin.request_id or request_id_var.get() or None,
            outcome=outcome,
            details=details,
            hash=None,
            previous_hash=None,
        )
        await unit.fetch(
            queries.INSERT_ENTRY,
            id=entry.id,
            at=entry.at,
            event=entry.event,
            outcome=entry.outcome,
            actor_id=entry.actor_id,
            actor_name=entry.actor_name,
            target_type=entry.target_type,
            target_id=entry.target_id,
            origin=self._seal_origin(entry),
            request_id=entry.request_id,
            details=_spell(details),
            mac=keyed_hash(self._mac_key, content_of(entry)),
        )
        unit.after_commit(lambda: _log_event(entry, event))

    async def list_entries(self, reader: Reader, cursors: Cursors, wanted: EntryFilter) -> EntryPage:
        """Raises `Malformed` (`BAD_CURSOR`) for a cursor of another filter."""
        names = ("event", "actor_id", "target_id", "outcome", "since", "until", "about")
        values: dict[str, Any] = {name: value for name in names if (value := getattr(wanted, name)) is not None}
        scope = "audit:" + hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()
        shape = EntryShape(**dict.fromkeys(values, True))
        total = await reader.first(queries.count_entries(shape), **values)
        if wanted.cursor is not None:
            shape = EntryShape(**dict.fromkeys(values, True), after=True)
            values["last_id"] = cursors.open(scope, wanted.cursor)[0]
        rows = await reader.fetch(queries.list_entries(shape), **values, limit=wanted.limit + 1, offset=wanted.offset)
        next_cursor = None
        if len(rows) > wanted.limit:
            rows = rows[: wanted.limit]
            next_cursor = cursors.seal(scope, [rows[-1][0]])
        return EntryPage([self.read(row) for row in rows], total[0] if total else 0, next_cursor)

    def read(self, row: Row) -> Entry:
        """One stored row in clear. An origin under a key that is not here is named so, and fails its hash."""
        identifier, at, event, actor_id, actor_name, target_type, target_id, origin, request_id, outcome = row[:10]
        address, agent = self._open_origin(identifier, origin)
        return Entry(
            identifier, at, event, actor_id, actor_name, target_type, target_id, address, agent, request_id, outcome,
            _read_details(row[10]), row[11], row[12],
        )  # fmt: skip

    def reseal_origin(self, entry_id: str, sealed: str) -> str | None:
        """The same origin under the newest key; None when it is already. Raises `WrongKey`."""
        if self._cipher.is_current(sealed):
            return None
        place = origin_place(entry_id)
        return self._cipher.seal(self._cipher.open(sealed, place=place), place=place)

    def _seal_origin(self, entry: Entry) -> str | None:
        if entry.ip_address is None and entry.user_agent is None:
            return None
        text = json.dumps([entry.ip_address, entry.user_agent], ensure_ascii=False)
        return self._cipher.seal(text, place=origin_place(entry.id))

    def _open_origin(self, entry_id: str, sealed: str | None) -> tuple[str | None, str | None]:
        if sealed is None:
            return None, None
        try:
            address, agent = json.loads(self._cipher.open(sealed, place=origin_place(entry_id)))
        except (AlteredValue, AttributeError, TypeError):  # the latter two: SQLite takes bytes into a column of text
            return ALTERED, ALTERED
        except WrongKey:
            return UNREADABLE, UNREADABLE
        return address, agent


def _spell(details: dict[str, DetailValue]) -> str:
    return json.dumps(details, sort_keys=True, ensure_ascii=False)


def _read_details(stored: str) -> dict[str, DetailValue]:
    """Text that is not as `_spell` writes it was not written by Duly: it is shown as it is, and fails its hash."""
    try:
        details = json.loads(stored)
        if isinstance(details, dict) and _spell(details) == stored:
            return details
    except (ValueError, TypeError, RecursionError):
        pass
    return {"unreadable": str(stored)[:500]}


def _log_event(entry: Entry, event: Event) -> None:
    names = ("event", "outcome", "actor_id", "actor_name", "target_type", "target_id")
    fields: dict[str, Any] = {name: getattr(entry, name) for name in names}
    level = logging.WARNING if event in _BAD or entry.outcome != "success" else logging.INFO
    # A mail is made after the request that asked for it; the line says that request's id, as the entry does.
    asked_by = request_id_var.set(entry.request_id or "")
    try:
        log.log(level, "%s", entry.event, extra={"fields": {**fields, "audit_id": entry.id, "details": entry.details}})
    finally:
        request_id_var.reset(asked_by)
