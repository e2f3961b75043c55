"""The integrity report: whether what Duly keeps agrees with itself, seen at one moment while others write."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from duly.audit.chain import AuditChain
from duly.audit.log import AuditLog
from duly.db.database import open_database
from duly.db.inspections import Inspection, open_inspection
from duly.errors import DulyError
from duly.files.store import FileMissing, FileStore, StoredFile
from duly.kit.ciphers import FieldCipher
from duly.kit.clock import now
from duly.kit.secrets import derive_key, derive_keys
from duly.operations import startup
from duly.operations.backup import storing
from duly.outbox import queries as outbox_queries
from duly.settings import Settings
from duly.tasks import attachment_queries
from duly.tasks import integrity_queries as queries

MOST_NAMED = 10
"""Of each kind of finding; when there are more, a line says so."""
PAGE = 1000
TOLD_BEFORE = frozenset({"mail"})
"""Kinds that are no damage: they were so when the backup was made."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, by its ids, with what to do."""

    kind: str
    line: str


@dataclass(slots=True)
class Examination:
    """What was looked at, and what was found."""

    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, lines: Sequence[str]) -> None:
        """Name the first of them."""
        self.findings += [Finding(kind, line) for line in lines[:MOST_NAMED]]
        if len(lines) > MOST_NAMED:
            self.findings.append(Finding(kind, f"{kind}: there are more of these; mend the first ones and ask again"))


async def examine(settings: Settings, *, deep: bool = False) -> Examination:
    """Look at everything, change nothing. `deep` also reads every attachment and compares every index of SQLite.

    Raises `CarryFault` when the database cannot be reached.
    """
    found = Examination()
    address = startup.check_settings(settings)
    async with open_inspection(address) as inspection:
        found.add("database", [
            f"the database file is damaged: {line}; restore the newest backup"
            for line in await inspection.find_broken_file(deep=deep)
        ])  # fmt: skip
        totals = await inspection.first(queries.TOTALS) or (0, 0, 0)
        found.facts |= dict(zip(("users", "tasks", "attachments"), totals, strict=True))
        found.add("counters", await _find_wrong_counters(inspection))
        found.add("feed", await _find_broken_feeds(inspection))
        found.add("search", await _find_search_ahead(inspection))
        found.add("mail", await _find_dead_mails(inspection, found))
        await _check_audit(settings, inspection, found)
        try:
            await _check_files(settings, inspection, found, deep=deep)
        except DulyError:
            found.facts["files"] = "not looked at: the store does not answer"
    return found


async def _find_wrong_counters(inspection: Inspection) -> list[str]:
    rows = await inspection.fetch(queries.WRONG_COUNTERS, limit=MOST_NAMED + 1)
    lines = [
        f"user {user_id}: the counters say {pending} open and {completed} done, and the tasks are {open_} and {done}; "
        "put the latter into the user's row of task_counters while no server runs"
        for user_id, pending, completed, open_, done in rows
    ]
    users = await inspection.fetch(queries.UNCOUNTED_USERS, limit=MOST_NAMED + 1)
    return lines + [f"user {user_id} has no counters and no feed; restore the newest backup" for (user_id,) in users]


async def _find_broken_feeds(inspection: Inspection) -> list[str]:
    lines = []
    for user_id, position, count, first, last in await inspection.fetch(queries.BROKEN_FEEDS, limit=MOST_NAMED + 1):
        if last > position:
            said = f"goes on to {last}, and its counter says {position}"
        elif count and first != 1:
            said = f"begins with change {first}"
        else:
            row = await inspection.first(queries.LAST_BEFORE_GAP, user_id=user_id)
            said = f"has {count} of {position} changes; change {(row[0] if row and row[0] else 0) + 1} is missing"
        lines.append(
            f"user {user_id}: the change feed {said}; restore the newest backup, or let the user's clients load anew"
        )
    return lines


async def _find_search_ahead(inspection: Inspection) -> list[str]:
    rows = await inspection.fetch(queries.SEARCH_AHEAD, limit=MOST_NAMED + 1)
    return [
        f"user {user_id}: the search index is at change {place} of {position}; "
        "remove the user's row of search_places, and the next search makes it anew"
        for user_id, place, position in rows
    ]


async def _find_dead_mails(inspection: Inspection, found: Examination) -> list[str]:
    rows = await inspection.fetch(outbox_queries.LIST_MESSAGES, state="dead", limit=MOST_NAMED + 1, offset=0)
    total = await inspection.first(outbox_queries.COUNT_STATE, state="dead")
    found.facts["dead mails"] = total[0] if total else 0
    return [
        f"mail {row[0]} ({row[1]}) was given up: {row[7]}; run 'duly mail retry {row[0]}' once the reason is gone"
        for row in rows
    ]


async def _check_audit(settings: Settings, inspection: Inspection, found: Examination) -> None:
    if not startup.has_secret(settings):
        found.facts["audit entries"] = "not looked at: there is no SECRET_KEY yet"
        return
    secrets = startup.find_secrets(settings)
    cipher = FieldCipher(startup.field_keys(settings))
    chain = AuditChain(AuditLog(cipher, derive_key(secrets[0], "audit")).read, derive_keys(secrets, "audit"))
    verdict = await chain.check(inspection)
    found.facts["audit entries"] = verdict.entries
    if not verdict.valid:
        place = f" at entry {verdict.first_bad}" if verdict.first_bad else ""
        line = f"the audit log is damaged{place}: {verdict.fault}; keep it as it is and compare it with a backup"
        found.add("audit", [line])


async def _check_files(settings: Settings, inspection: Inspection, found: Examination, *, deep: bool) -> None:
    store = storing(settings)
    try:
        suspects, strays, count = await _compare(inspection, store)
        if deep:
            suspects |= await _find_altered(inspection, store, suspects.keys())
    finally:
        store.close()
    found.facts |= {"files": count, "files without a row": strays}
    if suspects:
        # What was deleted since the moment that is looked at is no fault.
        there = await _still_there(settings, suspects)
        found.add("files", [suspects[key] for key in sorted(suspects) if key in there])


async def _compare(inspection: Inspection, store: FileStore) -> tuple[dict[str, str], int, int]:
    """Rows and files go by side by side, both in the order of the keys. What is wrong, files too many, and files."""
    suspects: dict[str, str] = {}
    strays = count = 0
    rows = _rows(inspection)
    row = await anext(rows, None)
    async for file in _listed(store):
        while row is not None and row[0] < file.key:
            suspects[row[0]] = _lost(row)
            row = await anext(rows, None)
        count += 1
        if row is None or row[0] != file.key:
            strays += file.modified < now() - timedelta(hours=2)
            continue
        if row[3] != file.size:
            suspects[row[0]] = f"{_name(row)} has {file.size} bytes and not {row[3]}; {_REMEDY}"
        row = await anext(rows, None)
    while row is not None:
        suspects[row[0]] = _lost(row)
        row = await anext(rows, None)
    return suspects, strays, count


_REMEDY = "take its file from a backup, or attach it again"


def _name(row: Sequence[Any]) -> str:
    return f"attachment {row[1]} of task {row[2]} ({row[0]})"


def _lost(row: Sequence[Any]) -> str:
    return f"{_name(row)} has lost its bytes; {_REMEDY}"


async def _rows(inspection: Inspection) -> AsyncIterator[Sequence[Any]]:
    after = ""
    while rows := await inspection.fetch(queries.ATTACHMENTS_AFTER, after=after, limit=PAGE):
        for row in rows:
            yield row
        after = rows[-1][0]


async def _listed(store: FileStore) -> AsyncIterator[StoredFile]:
    async for page in store.pages():
        for file in page:
            yield file


async def _find_altered(inspection: Inspection, store: FileStore, known: Any) -> dict[str, str]:
    altered = {}
    async for row in _rows(inspection):
        if row[0] in known:
            continue
        digest = hashlib.sha256()
        try:
            pieces = await store.open(row[0], 0, row[3])
        except FileMissing:
            altered[row[0]] = _lost(row)
            continue
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                digest.update(piece)
        if digest.hexdigest() != row[4]:
            altered[row[0]] = f"{_name(row)} holds other bytes than were attached; {_REMEDY}"
    return altered


async def _still_there(settings: Settings, keys: dict[str, str]) -> set[str]:
    database = await open_database(settings)
    try:
        return {key for key in keys if await database.fetch(attachment_queries.LIST_KEYS, first=key, last=key)}
    finally:
        await database.close()
