"""All SQL of tasks: every statement names the user it is for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    and_,
    any_,
    bindparam,
    case,
    func,
    insert,
    not_,
    null,
    or_,
    select,
    update,
)

from duly.db.functions import array_of, has_tag, named, plain_text, rows_of
from duly.db.statements import Statement
from duly.db.types import Instant
from duly.tasks.tables import Change, Task, TaskCounter, priority_rank

tasks = Task.__table__  # type: ignore[attr-defined]
counters = TaskCounter.__table__  # type: ignore[attr-defined]
changes = Change.__table__  # type: ignore[attr-defined]

now = bindparam("now", type_=Instant())

# Minted here, and one of four words: neither needs escaping.
_PLAIN = {"id", "priority"}

DOCUMENT = named(
    *(
        (name, plain_text(tasks.c[name]) if name in _PLAIN else tasks.c[name])
        for name in ("id", "user_id", "title", "description", "completed", "completed_at", "priority", "due_date",
                     "tags", "version", "created_at", "updated_at")
    )
)  # fmt: skip

_own = and_(tasks.c.id == bindparam("task_id"), tasks.c.user_id == bindparam("user_id"))
_kept = tasks.c.deleted_at.is_(None)
_trashed = tasks.c.deleted_at.is_not(None)
_bump: dict[str, Any] = {"version": tasks.c.version + 1, "updated_at": now, "changed_by": bindparam("changed_by")}

FIND_TASK = Statement(
    select(DOCUMENT, tasks.c.version).where(_own, _kept),
    many=Statement(
        select(tasks.c.id, tasks.c.user_id, DOCUMENT, tasks.c.version).where(
            tasks.c.id == any_(bindparam("task_id", type_=array_of(tasks.c.id.type))),
            tasks.c.user_id == any_(bindparam("user_id", type_=array_of(tasks.c.user_id.type))),
            _kept,
        )
    ),
    # Each request gets the row with its own id and its own user, and no other.
    many_key=("task_id", "user_id"),
)

FIND_VERSION = Statement(select(tasks.c.version).where(_own, _kept))

_columns = (
    "id", "user_id", "title", "title_key", "description", "completed", "completed_at", "priority", "due_date",
    "due_key", "tags", "version", "created_at", "updated_at", "changed_by",
)  # fmt: skip
_sent = rows_of("sent", *((name, tasks.c[name].type) for name in _columns))

INSERT_TASK = Statement(
    insert(tasks).values({name: bindparam(name) for name in _columns}).returning(DOCUMENT),
    # In the order of users, so that two batches lock the counters in one order and never wait for each other in turn.
    many=Statement(
        insert(tasks)
        .from_select(_columns, select(*(_sent.c[name] for name in _columns)).order_by(_sent.c.user_id))
        .returning(tasks.c.id, DOCUMENT)
    ),
    many_key=("id",),
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
    update(tasks).where(_own, _trashed).values({"deleted_at": None, **_bump}).returning(DOCUMENT, tasks.c.version)
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

SORT_KEYS: dict[str, ColumnElement[Any]] = {
    "created_at": tasks.c.created_at,
    "updated_at": tasks.c.updated_at,
    "due_date": tasks.c.due_key,
    "priority": priority_rank(tasks.c.priority),
    "title": tasks.c.title_key,
}


@dataclass(frozen=True, slots=True)
class ListShape:
    """Which conditions a list has, and its order; each shape is one compiled statement."""

    completed: bool = False
    priority: bool = False
    tag: bool = False
    due_before: bool = False
    due_after: bool = False
    overdue: bool | None = None
    trashed: bool = False
    sort: str = "created_at"
    descending: bool = True
    after: bool = False

    @property
    def is_counted(self) -> bool:
        """Whether the user's counters know the total, so that nothing has to be counted."""
        narrowed = self.priority or self.tag or self.due_before or self.due_after or self.overdue is not None
        return not narrowed and not self.trashed


def _conditions(shape: ListShape) -> list[ColumnElement[bool]]:
    due = tasks.c.due_date
    found: list[ColumnElement[bool]] = [
        tasks.c.user_id == bindparam("user_id"),
        _trashed if shape.trashed else _kept,
    ]
    if shape.completed:
        found.append(tasks.c.completed == bindparam("completed"))
    if shape.priority:
        found.append(tasks.c.priority == bindparam("priority"))
    if shape.tag:
        found.append(has_tag(tasks.c.tags, bindparam("tag")))
    if shape.due_before:
        found.append(due < bindparam("due_before", type_=Instant()))
    if shape.due_after:
        found.append(due > bindparam("due_after", type_=Instant()))
    if shape.overdue is not None:
        overdue = and_(tasks.c.due_key < now, not_(tasks.c.completed))
        found.append(overdue if shape.overdue else not_(overdue))
    return found


@lru_cache(maxsize=512)
def list_tasks(shape: ListShape) -> Statement:
    """One page: of each row the document and the user's counters."""
    key = SORT_KEYS[shape.sort]
    conditions = _conditions(shape)
    if shape.after:
        last_key = bindparam("last_key", type_=key.type)
        last_id = bindparam("last_id", type_=tasks.c.id.type)
        # The first condition bounds the index scan; the second settles rows with an equal key.
        if shape.descending:
            conditions += [key <= last_key, or_(key < last_key, tasks.c.id < last_id)]
        else:
            conditions += [key >= last_key, or_(key > last_key, tasks.c.id > last_id)]
    order: Sequence[ColumnElement[Any]] = (
        (key.desc(), tasks.c.id.desc()) if shape.descending else (key.asc(), tasks.c.id.asc())
    )
    totals = (_counter(counters.c.pending), _counter(counters.c.completed)) if shape.is_counted else ()
    statement = select(DOCUMENT, *totals).where(*conditions).order_by(*order)
    slow = not (shape.is_counted and shape.sort in {"created_at", "due_date"})
    return Statement(statement.limit(bindparam("limit")).offset(bindparam("offset")), slow=slow)


def _counter(column: ColumnElement[int]) -> ColumnElement[int]:
    # Asked with the page, so that a total costs no round trip.
    return select(column).where(counters.c.user_id == bindparam("user_id")).scalar_subquery()


@lru_cache(maxsize=512)
def count_tasks(shape: ListShape) -> Statement:
    """How many rows a list has in all, for the shapes that the counters do not know."""
    return Statement(select(func.count()).select_from(tasks).where(*_conditions(shape)), slow=True)
