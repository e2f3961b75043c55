"""All SQL of a task's history, of many changes at once, and of emptying the trash."""

from functools import lru_cache

from sqlalchemy import BigInteger, ColumnElement, and_, bindparam, delete, func, literal_column, or_, select, update

from duly.db.statements import Statement
from duly.db.types import Instant
from duly.tasks.queries import changes, tasks


def _is_owner(column: ColumnElement[str]) -> ColumnElement[bool]:
    """The user, compared in a way that no index answers.

    Else a database may walk everything that the user has, because an index has it in the wanted order, rather than
    look up the few rows that are named.
    """
    return column.concat(literal_column("''")) == bindparam("user_id")


_of_task = and_(changes.c.task_id == bindparam("task_id"), _is_owner(changes.c.user_id))
# What was purged has left its places in the feed, and nothing to tell.
_is_known = changes.c.task != literal_column("'null'")

COUNT_HISTORY = Statement(
    select(select(func.count()).select_from(changes).where(_of_task, _is_known).scalar_subquery()).where(
        tasks.c.id == bindparam("task_id"), tasks.c.user_id == bindparam("user_id")
    ),
    slow=True,
)
"""One row when the task is the user's, in the trash or not."""

LIST_HISTORY = Statement(
    select(changes.c.position, changes.c.type, changes.c.at, changes.c.session_id, changes.c.task)
    .where(_of_task, _is_known, changes.c.position < bindparam("before", type_=BigInteger()))
    .order_by(changes.c.position.desc())
    .limit(bindparam("limit"))
    .offset(bindparam("offset")),
    slow=True,
)

_due = (
    select(tasks.c.id)
    .where(tasks.c.deleted_at < bindparam("cutoff", type_=Instant()))
    .order_by(tasks.c.deleted_at)
    .limit(bindparam("limit"))
    # Who is being restored, or purged by another process, is left to them. SQLite has one writer.
    .with_for_update(skip_locked=True)
    .cte("due")
)

PURGE_TRASH = Statement(delete(tasks).where(tasks.c.id.in_(select(_due.c.id))).returning(tasks.c.id, tasks.c.user_id))
"""For every user: what has lain in the trash for too long, the oldest first."""

EMPTY_CHANGES = Statement(update(changes).where(_of_task).values(task=literal_column("'null'")))
"""The feed keeps the places of a purged task's changes, and nothing of what was in it."""


@lru_cache(maxsize=16)
def lock_tasks(count: int) -> Statement:
    """Hold rows in the order of their ids; `task_id_0` to `task_id_{count - 1}` may name one twice."""
    named = or_(*(tasks.c.id == bindparam(f"task_id_{number}") for number in range(count)))
    return Statement(select(tasks.c.id).where(named, _is_owner(tasks.c.user_id)).order_by(tasks.c.id).with_for_update())
