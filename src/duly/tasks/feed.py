"""The change feed: what happened to a user's tasks, in order and without a gap."""

from dataclasses import dataclass
from datetime import datetime

from duly.db.unit import Reader
from duly.errors import Malformed
from duly.identity.principals import Principal
from duly.kit.paging import Cursors
from duly.tasks import queries

START = 0


@dataclass(frozen=True, slots=True)
class TaskChange:
    """One change. `document` is the task as it was right after, None when the change took it to the trash."""

    cursor: str
    type: str
    task_id: str
    at: datetime
    document: str | None


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Changes in order; `next_cursor` resumes after the last of them, or where the caller was when there are none."""

    changes: list[TaskChange]
    next_cursor: str
    has_more: bool


async def list_changes(
    reader: Reader, cursors: Cursors, actor: Principal, *, since: str | None, limit: int
) -> ChangePage:
    """What came after `since`; None is the beginning. Raises `Malformed` (`BAD_CURSOR`)."""
    scope = f"changes:{actor.user_id}"
    position = START if since is None else _position(cursors, scope, since)
    rows = await reader.fetch(queries.FIND_CHANGES, user_id=actor.user_id, since=position, limit=limit + 1)
    found = [
        TaskChange(cursors.seal(scope, [row[0]]), row[1], row[2], row[3], None if row[1] == "task.deleted" else row[4])
        for row in rows[:limit]
    ]
    last = found[-1].cursor if found else cursors.seal(scope, [position])
    return ChangePage(found, last, len(rows) > limit)


def _position(cursors: Cursors, scope: str, since: str) -> int:
    values = cursors.open(scope, since)
    if len(values) != 1 or not isinstance(values[0], int):
        raise Malformed("This cursor is not one of the change feed. Start again without it.", code="BAD_CURSOR")
    return values[0]
