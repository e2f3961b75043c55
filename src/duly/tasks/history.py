"""A task's history: what changed, from what, to what, and in which session."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from duly.db.statements import Row
from duly.db.unit import Reader
from duly.errors import Malformed
from duly.identity.principals import Principal
from duly.kit.paging import Cursors
from duly.tasks import history_queries, tasks

FIELDS = ("title", "description", "completed", "completed_at", "priority", "due_date", "tags")
# No position is as high: each change takes one.
_NEWEST = 2**62


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change. `fields` holds what it changed as (before, after); `session_id` is None for an outside session."""

    type: str
    at: datetime
    version: int
    session_id: str | None
    fields: dict[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Changes, newest first; how many there are in all, and the cursor of the next page or None."""

    entries: Sequence[HistoryEntry]
    total: int
    next_cursor: str | None


async def list_history(
    reader: Reader, cursors: Cursors, actor: Principal, task_id: str, *, limit: int, offset: int, cursor: str | None
) -> HistoryPage:
    """The changes of one task, also of one in the trash; at most one of `offset` and `cursor` is given.

    Raises `NotFound` for an unknown, purged or somebody else's task, `Malformed` (`BAD_CURSOR`).
    """
    own = {"task_id": task_id, "user_id": actor.user_id}
    scope = f"history:{actor.user_id}:{task_id}"
    before = _NEWEST if cursor is None else _position(cursors, scope, cursor)
    counted = await reader.first(history_queries.COUNT_HISTORY, **own)
    if counted is None:
        raise tasks.missing()
    # One row more than asked: it is what the last one changed, and says whether there is a next page.
    rows = await reader.fetch(history_queries.LIST_HISTORY, **own, before=before, limit=limit + 1, offset=offset)
    documents = [orjson.loads(row[4]) for row in rows]
    entries = [
        _entry(row, document, older)
        for row, document, older in zip(rows[:limit], documents, [*documents[1:], None], strict=False)
    ]
    next_cursor = cursors.seal(scope, [rows[limit - 1][0]]) if len(rows) > limit else None
    return HistoryPage(entries, int(counted[0]), next_cursor)


def _entry(row: Row, document: dict[str, Any], older: dict[str, Any] | None) -> HistoryEntry:
    _, kind, at, session_id, _ = row
    if kind == "task.created":
        fields = {name: (None, document[name]) for name in FIELDS}
    else:
        earlier = older or {}
        fields = {name: (earlier.get(name), document[name]) for name in FIELDS if earlier.get(name) != document[name]}
    return HistoryEntry(kind, at, document["version"], session_id, fields)


def _position(cursors: Cursors, scope: str, cursor: str) -> int:
    values = cursors.open(scope, cursor)
    if len(values) != 1 or not isinstance(values[0], int):
        raise Malformed("This cursor is not one of this history. Start again without it.", code="BAD_CURSOR")
    return values[0]
