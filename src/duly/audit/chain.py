"""The hash chain: entries are linked one after the other behind the writers, so that no writer waits for another."""

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from datetime import datetime

from duly.audit import queries
from duly.audit.events import Entry
from duly.audit.links import NO_HEAD, Head, Verdict, Walk, content_of, link
from duly.db.conflicts import UniqueViolation
from duly.db.statements import Row
from duly.db.unit import Database, Reader, Unit
from duly.errors import Conflict
from duly.kit.clock import rfc3339
from duly.kit.secrets import keyed_hash

log = logging.getLogger("duly.audit")

# Small enough for the event loop, which SQLite's statements run on.
SEAL_AT_ONCE = 40
READ_AT_ONCE = 100
_POSITION, _MAC = 13, 14
_FORGED_HEAD = (
    "replaced: the head of the chain was not written by this server, or under a SECRET_KEY that is not in "
    "SECRET_KEY_PREVIOUS"
)
_NO_HEAD = "replaced: the head of the chain was removed"
_SET_BACK = "truncated: the head of the chain was set back, and what came later is gone"
_TAKEN = "inserted: an entry stands behind the end of the chain"
_UNREADABLE = "an entry holds what Duly never writes, and cannot be read"


class UnreadableEntry(Exception):
    """A row holds what its column's type cannot have."""

    def __init__(self, entry_id: str | None) -> None:
        self.entry_id = entry_id


class AuditChain:
    """Links entries, checks the links, and removes what is old.

    Writers only insert, with a keyed hash that nobody else can make. One process at a time, whoever holds the head's
    row, gives what is not linked yet its place; from then on the chain and its signed head vouch for it. Nothing is
    ever linked to, or removed from, a chain whose head is not genuine: that would sign the forgery.
    """

    def __init__(self, read: Callable[[Row], Entry], mac_keys: Sequence[bytes]) -> None:
        self._read = read
        self._mac_keys = tuple(mac_keys)
        # An old head is genuine too. This process at least knows that it was further.
        self._known = NO_HEAD
        self._told: str | None = None

    async def seal(self, database: Database) -> int:
        """Link everything that is not linked yet; how many entries that were. A damaged chain is left as it is."""
        linked = 0
        while await database.first(queries.HAS_UNSEALED) is not None:
            try:
                async with database.unit() as unit:
                    added = await self._seal_some(unit)
            except UniqueViolation:
                self._complain(_TAKEN)
                break
            except UnreadableEntry:
                self._complain(_UNREADABLE)
                break
            linked += added
            if added < SEAL_AT_ONCE:
                break
        return linked

    async def _seal_some(self, unit: Unit) -> int:
        head = await self._lock(unit)
        if head is None:
            return 0
        position, running = head.position, head.hash
        for entry_id, content in await self._find_genuine(unit):
            position, previous, running = position + 1, running, link(running, content)
            await unit.fetch(
                queries.SEAL_ENTRY, entry_id=entry_id, position=position, hash=running, previous_hash=previous
            )
        if position > head.position:
            await self._move(unit, Head(position, running, head.start_position, head.start_hash))
        return position - head.position

    async def _find_genuine(self, unit: Unit) -> list[tuple[str, str]]:
        """The next entries to link. What nobody with the key wrote gets no place in the chain; `verify` names it."""
        found: list[tuple[str, str]] = []
        async for row in self._unsealed(unit, SEAL_AT_ONCE):
            entry = self._read(row)
            content = content_of(entry)
            if self._is_genuine(row[_MAC], content):
                found.append((entry.id, content))
            if len(found) == SEAL_AT_ONCE:
                break
        return found

    async def head(self, reader: Reader) -> Head:
        """The stored head; the start of an empty chain when there is none."""
        return await self._find_head(reader) or NO_HEAD

    async def verify(self, database: Database, *, anchor: str | None = None) -> Verdict:
        """Read the whole chain. `anchor` is a hash that was noted outside: it must still be in the chain.

        Finds entries that were changed, removed, swapped or added, a cut end, and a table that was replaced.
        """
        await self.seal(database)
        while True:
            known = self._known
            head = await self._find_head(database)
            walk = Walk(head or NO_HEAD, known=known, anchor=anchor)
            await self._follow(database, head, known, walk)
            latest = await self._find_head(database)
            if (latest and latest.start_position) == (head and head.start_position):
                return walk.verdict()
            # Old entries were removed meanwhile, or the first ones were linked.

    async def check(self, reader: Reader) -> Verdict:
        """Like `verify`, in a snapshot, and without linking first: what waits to be linked must only be genuine."""
        head = await self._find_head(reader)
        walk = Walk(head or NO_HEAD)
        await self._follow(reader, head, NO_HEAD, walk)
        return walk.verdict()

    async def _follow(self, database: Reader, head: Head | None, known: Head, walk: Walk) -> None:
        if head is None and (known.position or await database.first(queries.HAS_SEALED) is not None):
            walk.fail(None, _NO_HEAD)
            return
        start = (head or NO_HEAD).start_position
        try:
            async for row in self._stored(database, start):
                if head and head.position < row[_POSITION] <= (await self.head(database)).position:
                    break  # linked since the head was read
                if not walk.step(row[_POSITION], row[_MAC], self._read(row)):
                    return
            if head is not None and (fault := self._distrust(head, known)) is not None:
                walk.fail(None, fault)
                return
            walk.finish()
            if (stray := await database.first(queries.FIND_BELOW, position=start)) is not None:
                walk.fail(stray[0], "inserted: this entry stands before the beginning of the chain")
            if (forged := await self._find_forged(database)) is not None:
                walk.fail(forged, "inserted: this entry was not written by this server")
        except UnreadableEntry as error:
            walk.fail(error.entry_id, f"changed: {_UNREADABLE}")

    async def prune(self, database: Database, cutoff: datetime) -> int:
        """Remove the entries before the first one that is not older than `cutoff`; the rest still verifies.

        Only what is in order is removed, so that nothing forged disappears unseen.
        """
        removed = 0
        while count := await self._prune_some(database, cutoff):
            removed += count
            await asyncio.sleep(0)
        return removed

    async def _prune_some(self, database: Database, cutoff: datetime) -> int:
        head = await self._find_head(database)
        if head is None:
            return 0
        walk = Walk(head)
        try:
            rows = await self._fetch(database, head.start_position, READ_AT_ONCE)
        except UnreadableEntry:
            self._complain(_UNREADABLE)
            return 0
        for row in rows:
            entry = self._read(row)
            is_old = entry.at < cutoff and row[_POSITION] <= head.position
            if not is_old or not walk.step(row[_POSITION], row[_MAC], entry):
                break
        keep = head.start_position + walk.count
        if keep > head.position and walk.running != head.hash:
            walk.fail(None, _FORGED_HEAD)
            walk.count = 0
        if walk.fault is not None:
            self._complain(walk.fault)
        return walk.count if walk.count and await self._cut(database, head, keep, walk.running) else 0

    async def _cut(self, database: Database, head: Head, keep: int, start_hash: str) -> bool:
        """False when somebody else was first."""
        async with database.unit() as unit:
            latest = await self._lock(unit)
            if latest is None or latest.start_position != head.start_position:
                return False
            await unit.fetch(queries.DELETE_BEFORE, position=keep)
            await self._move(unit, Head(latest.position, latest.hash, keep, start_hash))
        return True

    async def export(self, database: Database) -> AsyncIterator[str]:
        """Lines of JSON: what the chain begins and ends with, and then every entry. Verified without a database.

        Raises `Conflict` when old entries are removed meanwhile.
        """
        await self.seal(database)
        head = await self.head(database)
        yield json.dumps(
            {"format": "duly.audit", "version": 1, "start_hash": head.start_hash, "head": head.hash,
             "entries": head.position - head.start_position + 1}
        )  # fmt: skip
        async for row in self._stored(database, head.start_position):
            if row[_POSITION] > head.position:
                break
            entry = self._read(row)
            shown = {**asdict(entry), "at": rfc3339(entry.at)}
            yield json.dumps(shown, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if (await self.head(database)).start_position != head.start_position:
            raise Conflict("Old entries were removed while they were exported. Export again.")

    async def _stored(self, reader: Reader, position: int) -> AsyncIterator[Row]:
        while rows := await self._fetch(reader, position, READ_AT_ONCE):
            for row in rows:
                yield row
            position = rows[-1][_POSITION] + 1
            await asyncio.sleep(0)

    async def _fetch(self, reader: Reader, position: int, limit: int) -> Sequence[Row]:
        """Entries in the order of the chain. Raises `UnreadableEntry` when the first one is."""
        try:
            return await reader.fetch(queries.SEALED_FROM, position=position, limit=limit)
        except (ValueError, OverflowError):
            if limit > 1:
                return await self._fetch(reader, position, 1)
            bad = await reader.first(queries.FIND_FROM, position=position)
            raise UnreadableEntry(str(bad[0]) if bad else None) from None

    async def _unsealed(self, reader: Reader, limit: int) -> AsyncIterator[Row]:
        after = ""
        while True:
            try:
                rows = await reader.fetch(queries.UNSEALED, after=after, limit=limit)
            except (ValueError, OverflowError):
                raise UnreadableEntry(None) from None
            for row in rows:
                yield row
            if len(rows) < limit:
                return
            after = rows[-1][0]
            await asyncio.sleep(0)

    async def _find_forged(self, database: Reader) -> str | None:
        async for row in self._unsealed(database, READ_AT_ONCE):
            entry = self._read(row)
            if not self._is_genuine(row[_MAC], content_of(entry)):
                return entry.id
        return None

    async def _find_head(self, reader: Reader) -> Head | None:
        row = await reader.first(queries.FIND_HEAD)
        return Head(*row) if row is not None else None

    async def _lock(self, unit: Unit) -> Head | None:
        """The head, locked until the unit ends; None when it must not be built upon."""
        known = self._known
        row = await unit.first(queries.LOCK_HEAD)
        if row is None and not known.position and await unit.first(queries.HAS_SEALED) is None:
            await unit.fetch(queries.START_HEAD, **self._signed(NO_HEAD))
            row = await unit.first(queries.LOCK_HEAD)
        row = row or await unit.first(queries.LOCK_HEAD)  # another process has just started the chain
        fault = _NO_HEAD if row is None else self._distrust(Head(*row), known)
        if row is None or fault is not None:
            self._complain(fault or _NO_HEAD)
            return None
        return Head(*row)

    async def _move(self, unit: Unit, head: Head) -> None:
        await unit.fetch(queries.MOVE_HEAD, **self._signed(head))
        unit.after_commit(lambda: self._remember(head))

    def _remember(self, head: Head) -> None:
        self._told = None
        if head.position > self._known.position:
            self._known = head

    def _distrust(self, head: Head, known: Head) -> str | None:
        if not self._is_genuine(head.mac, _spell(head)):
            return _FORGED_HEAD
        is_behind = head.position < known.position
        is_other = head.position == known.position and head.hash != known.hash
        return _SET_BACK if is_behind or is_other else None

    def _complain(self, fault: str) -> None:
        """Once for each fault: it is met again every second."""
        if fault != self._told:
            self._told = fault
            log.error(
                "The audit log is damaged, and nothing is linked or removed: %s. Ask GET /audit-log/verify", fault
            )

    def _signed(self, head: Head) -> dict[str, int | str]:
        return {**asdict(head), "mac": keyed_hash(self._mac_keys[0], _spell(head))}

    def _is_genuine(self, mac: str, content: str) -> bool:
        try:
            return any(hmac.compare_digest(keyed_hash(key, content), mac) for key in self._mac_keys)
        except (TypeError, ValueError):
            return False  # text that is not ASCII, or no text


def _spell(head: Head) -> str:
    return f"{head.position} {head.hash} {head.start_position} {head.start_hash}"
