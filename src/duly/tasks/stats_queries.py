"""The SQL of task statistics."""

from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, literal_column, not_, select

from duly.db.statements import Statement
from duly.db.types import Instant
from duly.identity.tables import Session
from duly.tasks.queries import counters, now, tasks
from duly.tasks.tables import PRIORITIES

sessions = Session.__table__  # type: ignore[attr-defined]

_own = counters.c.user_id == bindparam("user_id")
_day_starts = bindparam("day_starts", type_=Instant())
_day_ends = bindparam("day_ends", type_=Instant())
_user = tasks.c.user_id == bindparam("user_id")
_kept = tasks.c.deleted_at.is_(None)


def _counter(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return select(column).where(_own).scalar_subquery()


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count().filter(condition)


def _of_priority(priority: str) -> ColumnElement[Any]:
    # Read off an index, without looking at a row; which is why this is a count of its own.
    rank = tasks.c.priority_key == literal_column(str(PRIORITIES.index(priority) + 1))
    return select(func.count()).where(_user, _kept, rank).scalar_subquery()


# The priority that most tasks have is what is left of the total.
COUNTED_PRIORITIES = ("low", "high", "urgent")
REST = "medium"

# All in one statement, so that it is one moment: position, pending, completed, overdue, due today, the next moment
# today at which a task becomes overdue, and how many there are of each of those priorities.
COUNT_STATS = Statement(
    select(
        _counter(counters.c.position),
        _counter(counters.c.pending),
        _counter(counters.c.completed),
        _count(tasks.c.due_key < now),
        _count(tasks.c.due_key >= _day_starts),
        func.min(tasks.c.due_key).filter(tasks.c.due_key >= now),
        *(_of_priority(priority) for priority in COUNTED_PRIORITIES),
    ).where(_user, _kept, not_(tasks.c.completed), tasks.c.due_key < _day_ends),
    slow=True,
)

# Of everybody, and nothing but who they are: ids are in the order of time, so both are the last rows of a primary key.
LATEST_WRITERS = Statement(select(tasks.c.user_id).order_by(tasks.c.id.desc()).limit(bindparam("limit")))
LATEST_SESSIONS = Statement(select(sessions.c.user_id).order_by(sessions.c.id.desc()).limit(bindparam("limit")))
