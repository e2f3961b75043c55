"""Lists of tasks: filters, order, and pages by offset or cursor."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from duly.db.statements import Row
from duly.db.unit import Reader
from duly.identity.principals import Principal
from duly.kit.clock import now, parse_rfc3339, rfc3339
from duly.kit.paging import Cursors
from duly.tasks import queries
from duly.tasks.drafts import NO_DUE_DATE, title_key
from duly.tasks.queries import ListShape
from duly.tasks.tables import PRIORITIES

SORTS = tuple(f"{sign}{key}" for key in queries.SORT_KEYS for sign in ("", "-"))
DEFAULT_SORT = "-created_at"


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """What a list asks for. `limit` is 1 to 100; of `offset` and `cursor` at most one is given."""

    completed: bool | None = None
    priority: str | None = None
    tag: str | None = None
    due_before: datetime | None = None
    due_after: datetime | None = None
    overdue: bool | None = None
    trashed: bool = False
    sort: str = DEFAULT_SORT
    limit: int = 50
    offset: int = 0
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Documents in order, how many there are in all, and the cursor of the next page or None."""

    documents: Sequence[str]
    total: int
    next_cursor: str | None


async def list_tasks(reader: Reader, cursors: Cursors, actor: Principal, wanted: TaskFilter) -> TaskPage:
    """One page. Raises `Malformed` (`BAD_CURSOR`) for a cursor of another user, filter or order."""
    shape = _shape(wanted)
    values = _values(wanted, actor)
    scope = _scope(wanted, actor)
    if wanted.cursor is not None:
        last_key, last_id = cursors.open(scope, wanted.cursor)
        values["last_key"] = parse_rfc3339(str(last_key)) if _is_time(shape.sort) else last_key
        values["last_id"] = last_id
    # One row more than asked says whether there is a next page.
    rows = await reader.fetch(queries.list_tasks(shape), **values, limit=wanted.limit + 1, offset=wanted.offset)
    total = await _total(reader, shape, wanted, values, rows)
    next_cursor = None
    if len(rows) > wanted.limit:
        rows = rows[: wanted.limit]
        next_cursor = cursors.seal(scope, _place(shape.sort, rows[-1][0]))
    return TaskPage([row[0] for row in rows], total, next_cursor)


def _place(sort: str, document: str) -> list[str | int | None]:
    """Where a task stands in an order: its sort key and its id, as they follow from what the client sees of it."""
    task = orjson.loads(document)
    key = task[sort]
    if sort == "due_date" and key is None:
        key = rfc3339(NO_DUE_DATE)
    elif sort == "priority":
        key = PRIORITIES.index(key) + 1
    elif sort == "title":
        key = title_key(key)
    return [key, task["id"]]


async def _total(
    reader: Reader, shape: ListShape, wanted: TaskFilter, values: dict[str, Any], rows: Sequence[Row]
) -> int:
    if not shape.is_counted:
        row = await reader.first(queries.count_tasks(_uncursored(shape)), **values)
        return int(row[0]) if row else 0
    # Every row brings the counters along; a page without rows asks for them.
    counts = rows[0][1:] if rows else await reader.first(queries.FIND_COUNTS, user_id=values["user_id"])
    if not counts:
        return 0
    pending, completed = int(counts[0]), int(counts[1])
    if wanted.completed is None:
        return pending + completed
    return completed if wanted.completed else pending


def _shape(wanted: TaskFilter) -> ListShape:
    return ListShape(
        completed=wanted.completed is not None,
        priority=wanted.priority is not None,
        tag=wanted.tag is not None,
        due_before=wanted.due_before is not None,
        due_after=wanted.due_after is not None,
        overdue=wanted.overdue,
        trashed=wanted.trashed,
        sort=wanted.sort.removeprefix("-"),
        descending=wanted.sort.startswith("-"),
        after=wanted.cursor is not None,
    )


def _uncursored(shape: ListShape) -> ListShape:
    """All pages of a list share one count."""
    return ListShape(
        completed=shape.completed, priority=shape.priority, tag=shape.tag, due_before=shape.due_before,
        due_after=shape.due_after, overdue=shape.overdue, trashed=shape.trashed,
    )  # fmt: skip


def _values(wanted: TaskFilter, actor: Principal) -> dict[str, Any]:
    return {
        "user_id": actor.user_id,
        "completed": wanted.completed,
        "priority": wanted.priority,
        "tag": wanted.tag,
        "due_before": wanted.due_before,
        "due_after": wanted.due_after,
        "now": None if wanted.overdue is None else now(),
    }


def _scope(wanted: TaskFilter, actor: Principal) -> str:
    """Binds a cursor to its user, its filter and its order."""
    parts = (
        actor.user_id, wanted.completed, wanted.priority, wanted.tag, wanted.due_before, wanted.due_after,
        wanted.overdue, wanted.trashed, wanted.sort,
    )  # fmt: skip
    return "tasks:" + hashlib.sha256(repr(parts).encode()).hexdigest()


def _is_time(sort: str) -> bool:
    return sort in {"created_at", "updated_at", "due_date"}
