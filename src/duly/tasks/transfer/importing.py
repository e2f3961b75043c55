"""The tasks of a file put into an account: new ones created, known ones updated, all of them or none."""

import asyncio
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from duly.db.conflicts import ForeignKeyViolation
from duly.db.unit import Reader, Unit
from duly.errors import Conflict, Unauthenticated
from duly.identity.principals import Principal
from duly.kit.clock import now, parse_rfc3339
from duly.kit.ids import new_id
from duly.tasks import transfer_queries
from duly.tasks.drafts import with_keys
from duly.tasks.tasks import FIRST_VERSION
from duly.tasks.transfer.rows import ParsedFile, RowFault, TaskRow
from duly.tasks.transfer_queries import LOOKED_UP, WRITTEN

MOST_ERRORS: Final = 1000
# Any fixed value; another one would make old files new.
_NAMESPACE: Final = uuid.UUID("5f2c1a52-6d0b-4f6b-9d0e-8b3f3e1c7a44")
_NEW: Mapping[str, Any] = {
    "description": None, "completed": False, "completed_at": None, "priority": "medium", "due_date": None, "tags": [],
}  # fmt: skip
_COMPARED = ("title", *_NEW)
_TIMES = ("completed_at", "due_date", "created_at")


@dataclass(slots=True)
class ImportReport:
    """What an import did, or with `dry_run` would do. Nothing was stored unless `applied`."""

    format: str
    dry_run: bool
    applied: bool = False
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: int = 0
    ignored: int = 0
    errors: list[RowFault] = field(default_factory=list)

    def refuse(self, row: int, name: str, message: str) -> None:
        """Count a row that cannot be stored."""
        self.failed += 1
        self.errors.append(RowFault(row, name, message))


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a row goes: the id that it has or gets, and the task that is there."""

    row: TaskRow
    id: str
    existing: Mapping[str, Any] | None


async def try_import(reader: Reader, actor: Principal, parsed: ParsedFile) -> ImportReport:
    """What `import_tasks` would do at this moment with the rows that are right; nothing is written."""
    report = _begin(parsed, dry_run=True)
    tasks = await _find_existing(reader, actor, parsed.rows, locked=False)
    await asyncio.to_thread(_changes, actor, parsed.rows, tasks, report)
    return _end(report)


async def import_tasks(unit: Unit, actor: Principal, parsed: ParsedFile, *, partial: bool) -> ImportReport:
    """Store the rows; with a wrong one among them nothing is stored, unless `partial`.

    A row whose id is one of the caller's tasks updates it, out of the trash if it lies there. Any other gets an id that
    follows from the user and the id in the file, so that the same file again finds it; without one, a new id.
    """
    report = _begin(parsed, dry_run=False)
    if parsed.failed and not partial:
        return _end(report)
    await unit.begin()
    # One import of a user at a time, and their tasks before the counter: no two transactions wait for each other.
    await unit.fetch(transfer_queries.HOLD_NAME, held=f"import:{actor.user_id}")
    tasks = await _find_existing(unit, actor, parsed.rows, locked=True)
    changes = await asyncio.to_thread(_changes, actor, parsed.rows, tasks, report)
    if report.failed and not partial:
        report.created = report.updated = report.unchanged = 0
        return _end(report)
    await _write(unit, actor, changes)
    report.applied = True
    return _end(report)


def _begin(parsed: ParsedFile, *, dry_run: bool) -> ImportReport:
    return ImportReport(
        parsed.format, dry_run, failed=parsed.failed, ignored=parsed.ignored, errors=list(parsed.faults)
    )


def _end(report: ImportReport) -> ImportReport:
    report.errors.sort(key=lambda fault: fault.row)
    del report.errors[MOST_ERRORS:]
    return report


def derived_id(user_id: str, file_id: str) -> str:
    """The id of a task that came from elsewhere: the same for the same user and file's id, and nobody else's."""
    return str(uuid.uuid5(_NAMESPACE, f"{user_id}\n{file_id}"))


async def _find_existing(
    reader: Reader, actor: Principal, rows: Sequence[TaskRow], *, locked: bool
) -> dict[str, Mapping[str, Any]]:
    """The caller's tasks, and no one else's, that the rows may mean."""
    found: dict[str, Mapping[str, Any]] = {}
    statement = transfer_queries.LOCK_OWN if locked else transfer_queries.FIND_OWN
    for part in _parts(await asyncio.to_thread(_ids, actor, rows), LOOKED_UP):
        for document, deleted_at in await reader.fetch(statement, user_id=actor.user_id, ids=part):
            task = _read(document)
            found[task["id"]] = {**task, "deleted_at": deleted_at}
        await asyncio.sleep(0)
    return found


def _ids(actor: Principal, rows: Sequence[TaskRow]) -> list[str]:
    """In order, so that of two transactions that lock the same tasks one comes first."""
    known = {row.file_id for row in rows if row.file_id}
    return sorted(known | {derived_id(actor.user_id, file_id) for file_id in known})


def _read(document: str) -> dict[str, Any]:
    task: dict[str, Any] = orjson.loads(document)
    return task | {name: parse_rfc3339(task[name]) for name in _TIMES if task[name] is not None}


def _changes(
    actor: Principal, rows: Sequence[TaskRow], tasks: Mapping[str, Mapping[str, Any]], report: ImportReport
) -> list[dict[str, Any]]:
    """The tasks as they shall be, without those that are so already; counts every row."""
    moment = now()
    last = rows[-1].number if rows else 0
    seen: dict[str, int] = {}
    found = []
    for row in rows:
        target = _aim(actor, row, tasks)
        earlier = seen.setdefault(target.id, row.number)
        if earlier != row.number:
            report.refuse(row.number, "id", f"is the same task as row {earlier}")
        elif target.existing is None and "title" not in row.values:
            report.refuse(row.number, "title", "is needed for a new task")
        else:
            # A microsecond apart, so that lists show new tasks in the order of the file.
            merged = _merge(target, moment, new_at=moment - timedelta(microseconds=last - row.number))
            if target.existing is None:
                report.created += 1
            elif _is_same(target.existing, merged):
                report.unchanged += 1
                continue
            else:
                report.updated += 1
            found.append(merged)
    return found


def _aim(actor: Principal, row: TaskRow, tasks: Mapping[str, Mapping[str, Any]]) -> _Target:
    if row.file_id is None:
        return _Target(row, new_id(), None)
    if row.file_id in tasks:
        return _Target(row, row.file_id, tasks[row.file_id])
    derived = derived_id(actor.user_id, row.file_id)
    return _Target(row, derived, tasks.get(derived))


def _merge(target: _Target, moment: datetime, *, new_at: datetime) -> dict[str, Any]:
    """The fields that the file has over those that are there; times to come are no times of what has happened."""
    existing, given = target.existing, dict(target.row.values)
    created_at, completed_at = (_past(given.pop(name, None), moment) for name in ("created_at", "completed_at"))
    if completed_at is not None:
        given.setdefault("completed", True)
    merged: dict[str, Any] = {**(existing or _NEW), **given, "id": target.id}
    stays_done = existing is not None and existing["completed"]
    if not merged["completed"]:
        merged["completed_at"] = None
    elif completed_at is not None or not stays_done:
        merged["completed_at"] = completed_at or moment
    merged["created_at"] = existing["created_at"] if existing else created_at or new_at
    merged["updated_at"] = moment
    return merged


def _past(given: datetime | None, moment: datetime) -> datetime | None:
    return given if given is not None and given <= moment else None


def _is_same(existing: Mapping[str, Any], merged: Mapping[str, Any]) -> bool:
    return existing["deleted_at"] is None and all(existing[name] == merged[name] for name in _COMPARED)


async def _write(unit: Unit, actor: Principal, changes: Sequence[dict[str, Any]]) -> None:
    """Many rows to a statement, and the loop's turn in between."""
    shared = {"user_id": actor.user_id, "version": FIRST_VERSION, "changed_by": actor.session_id}
    place = 0
    for size in transfer_queries.SIZES:
        while len(changes) - place >= size:
            values: dict[str, Any] = {}
            for index, change in enumerate(changes[place : place + size]):
                row = with_keys({**change, **shared})
                values |= {f"{name}_of_{index}": row[name] for name in WRITTEN}
            try:
                stored = await unit.fetch(transfer_queries.put_tasks(size), **values)
            except ForeignKeyViolation:
                raise Unauthenticated("This account is gone. Sign in again.") from None
            if len(stored) != size:
                raise Conflict("One of these ids is taken. Nothing was stored.")
            place += size
            await asyncio.sleep(0)
    if changes:
        unit.announce(actor.user_id)


def _parts(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
