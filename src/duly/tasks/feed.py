"""The change feed: what happened to a user's tasks, in order and without a gap."""

from collections.abc import Mapping, Sequence
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

    position: int
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
    position = START if since is None else read_cursor(cursors, actor, since)
    return await read_changes(reader, cursors, actor.user_id, after=position, limit=limit)


async def read_changes(reader: Reader, cursors: Cursors, user_id: str, *, after: int, limit: int) -> ChangePage:
    """What came after a position."""
    scope = _scope(user_id)
    rows = await reader.fetch(queries.FIND_CHANGES, user_id=user_id, since=after, limit=limit + 1)
    found = [
        TaskChange(
            row[0], cursors.seal(scope, [row[0]]), row[1], row[2], row[3],
            None if row[1] == "task.deleted" else row[4],
        )
        for row in rows[:limit]
    ]  # fmt: skip
    last = found[-1].cursor if found else cursors.seal(scope, [after])
    return ChangePage(found, last, len(rows) > limit)


async def find_positions(reader: Reader, user_ids: Sequence[str]) -> Mapping[str, int]:
    """The position of each user's last change; who never had a task is not among them."""
    rows = await reader.fetch(queries.FIND_POSITIONS, user_ids=list(user_ids))
    return {row[0]: row[1] for row in rows}


def make_cursor(cursors: Cursors, actor: Principal, position: int) -> str:
    """The cursor that resumes after a position."""
    return cursors.seal(_scope(actor.user_id), [position])


def read_cursor(cursors: Cursors, actor: Principal, since: str) -> int:
    """The position that a cursor stands for. Raises `Malformed` (`BAD_CURSOR`)."""
    values = cursors.open(_scope(actor.user_id), since)
    if len(values) != 1 or not isinstance(values[0], int):
        raise bad_cursor()
    return values[0]


def bad_cursor() -> Malformed:
    """A cursor that this feed never gave."""
    return Malformed("This cursor is not one of the change feed. Start again without it.", code="BAD_CURSOR")


def _scope(user_id: str) -> str:
    return f"changes:{user_id}"
