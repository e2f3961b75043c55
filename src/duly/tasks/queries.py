"""All SQL of tasks: every statement names the user it is for."""

from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    case,
    insert,
    literal_column,
    not_,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy import column as sql_column

from duly.db.functions import is_among, rows_of
from duly.db.search import TEXTS, json_rows
from duly.db.statements import Statement
from duly.db.types import Instant, document
from duly.tasks.tables import Change, Task, TaskCounter

tasks = Task.__table__  # type: ignore[attr-defined]
counters = TaskCounter.__table__  # type: ignore[attr-defined]
changes = Change.__table__  # type: ignore[attr-defined]

now = bindparam("now", type_=Instant())

DOCUMENT = tasks.c.document

# As an expression it is looked at in the row that the id found. A column, it would offer PostgreSQL the indexes that
# begin with the user, and before the table was analysed it takes them: all of a user's tasks are read for one.
owner = tasks.c.user_id.concat(literal_column("''"))
_own = and_(tasks.c.id == bindparam("task_id"), owner == bindparam("user_id"))
_kept = tasks.c.deleted_at.is_(None)
_trashed = tasks.c.deleted_at.is_not(None)
_bump: dict[str, Any] = {"version": tasks.c.version + 1, "updated_at": now, "changed_by": bindparam("changed_by")}


def _find_each() -> Select[Any]:
    """Each asked-for task by its id. As a plain `id = ANY (…)` a table that was small once would be read whole."""
    asked = rows_of("asked", ("task_id", tasks.c.id.type), ("user_id", tasks.c.user_id.type))
    found = (
        select(tasks.c.id, tasks.c.user_id, DOCUMENT, tasks.c.version)
        .where(tasks.c.id == asked.c.task_id, owner == asked.c.user_id, _kept)
        .limit(literal_column("1"))
        .lateral("found")
    )
    return select(*found.c).select_from(asked.join(found, true()))


FIND_TASK = Statement(
    select(DOCUMENT, tasks.c.version).where(_own, _kept),
    many=Statement(_find_each()),
    # Each request gets the row with its own id and its own user, and no other.
    many_key=("task_id", "user_id"),
)

FIND_VERSION = Statement(select(tasks.c.version).where(_own, _kept))

FIND_TRASHED = Statement(select(tasks.c.id).where(_own, _trashed))

_made = {"priority_key", "document", "deleted_at"}
# In the order of the table, which is also that of an INSERT's arguments.
_columns = tuple(column.name for column in tasks.columns if column.name not in _made)
_sent = rows_of("sent", *((name, tasks.c[name].type) for name in _columns))

_row = json_rows(bindparam("rows", type_=TEXTS)).table_valued(sql_column("value", Text), name="row")
_parts = [_row.c.value.op("->>")(literal_column(str(number))) for number in range(len(_columns))]

INSERT_TASK = Statement(
    insert(tasks).values({name: bindparam(name) for name in _columns}).returning(DOCUMENT),
    # In the order of users, so that two batches lock the counters in one order and never wait for each other in turn.
    many=Statement(
        insert(tasks)
        .from_select(_columns, select(*(_sent.c[name] for name in _columns)).order_by(_sent.c.user_id))
        .returning(tasks.c.id, DOCUMENT)
    ),
    many_key=("id",),
    rows=Statement(
        insert(tasks).from_select(_columns, select(*_parts).select_from(_row)).returning(tasks.c.id, DOCUMENT)
    ),
)

# The versions that If-Match and a body's `version` name; NULL matches any.
_expected = bindparam("expected", type_=tasks.c.version.type)
_unchanged = or_(_expected.is_(None), tasks.c.version == _expected)


def _completion(value: ColumnElement[bool]) -> dict[str, Any]:
    """`completed_at` keeps the first moment while a task stays done."""
    moment = case((not_(value), null()), (tasks.c.completed, tasks.c.completed_at), else_=now)
    return {"completed": value, "completed_at": moment}


@lru_cache(maxsize=512)
def update_task(fields: frozenset[str]) -> Statement:
    """The merge update that sets just these columns."""
    values: dict[str, Any] = {name: bindparam(name, type_=tasks.c[name].type) for name in sorted(fields)}
    if "completed" in fields:
        values |= _completion(bindparam("completed", type_=tasks.c.completed.type))
    return Statement(
        update(tasks).where(_own, _kept, _unchanged).values({**values, **_bump}).returning(DOCUMENT, tasks.c.version)
    )


TOGGLE_TASK = Statement(
    update(tasks)
    .where(_own, _kept, _unchanged)
    .values(
        {
            "completed": not_(tasks.c.completed),
            "completed_at": case((tasks.c.completed, null()), else_=now),
            **_bump,
        }
    )
    .returning(DOCUMENT, tasks.c.version)
)

TRASH_TASK = Statement(
    update(tasks).where(_own, _kept, _unchanged).values({"deleted_at": now, **_bump}).returning(tasks.c.id)
)

RESTORE_TASK = Statement(
    update(tasks)
    .where(_own, _trashed, _unchanged)
    .values({"deleted_at": None, **_bump})
    .returning(DOCUMENT, tasks.c.version)
)

FIND_COUNTS = Statement(
    select(counters.c.pending, counters.c.completed, counters.c.position).where(
        counters.c.user_id == bindparam("user_id")
    )
)

FIND_CHANGES = Statement(
    select(changes.c.position, changes.c.type, changes.c.task_id, changes.c.at, changes.c.task)
    .where(changes.c.user_id == bindparam("user_id"), changes.c.position > bindparam("since", type_=BigInteger()))
    .order_by(changes.c.position)
    .limit(bindparam("limit"))
)

FIND_POSITIONS = Statement(
    select(counters.c.user_id, counters.c.position).where(
        is_among(counters.c.user_id, bindparam("user_ids", type_=document()))
    )
)
