"""All SQL of the integrity report on tasks: about every user, for the operator alone."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    not_,
    or_,
    select,
)

from duly.db.statements import Statement
from duly.identity.tables import User
from duly.tasks.attachment_tables import Attachment
from duly.tasks.search_queries import places
from duly.tasks.tables import Change, Task, TaskCounter

users = User.__table__  # type: ignore[attr-defined]
tasks = Task.__table__  # type: ignore[attr-defined]
counters = TaskCounter.__table__  # type: ignore[attr-defined]
changes = Change.__table__  # type: ignore[attr-defined]
attachments = Attachment.__table__  # type: ignore[attr-defined]

_limit = bindparam("limit", type_=Integer())
_NONE, _ONE = literal_column("0", BigInteger), literal_column("1", BigInteger)


def _sum_of(condition: ColumnElement[bool]) -> Any:
    return func.sum(case((and_(tasks.c.deleted_at.is_(None), condition), _ONE), else_=_NONE))


_sums = (
    select(
        tasks.c.user_id,
        _sum_of(not_(tasks.c.completed)).label("pending"),
        _sum_of(tasks.c.completed).label("completed"),
    )
    .group_by(tasks.c.user_id)
    .subquery()
)
_pending, _completed = func.coalesce(_sums.c.pending, _NONE), func.coalesce(_sums.c.completed, _NONE)
WRONG_COUNTERS = Statement(
    select(counters.c.user_id, counters.c.pending, counters.c.completed, _pending, _completed)
    .select_from(counters.outerjoin(_sums, _sums.c.user_id == counters.c.user_id))
    .where(or_(counters.c.pending != _pending, counters.c.completed != _completed))
    .order_by(counters.c.user_id)
    .limit(_limit)
)
"""Users whose counters are not what their tasks add up to."""

UNCOUNTED_USERS = Statement(
    select(users.c.id)
    .select_from(users.outerjoin(counters, counters.c.user_id == users.c.id))
    .where(counters.c.user_id.is_(None))
    .order_by(users.c.id)
    .limit(_limit)
)

_feeds = (
    select(
        changes.c.user_id,
        func.count().label("count"),
        func.min(changes.c.position).label("first"),
        func.max(changes.c.position).label("last"),
    )
    .group_by(changes.c.user_id)
    .subquery()
)
_count, _first = func.coalesce(_feeds.c["count"], _NONE), func.coalesce(_feeds.c.first, _ONE)
_last = func.coalesce(_feeds.c.last, _NONE)
BROKEN_FEEDS = Statement(
    select(counters.c.user_id, counters.c.position, _count, _first, _last)
    .select_from(counters.outerjoin(_feeds, _feeds.c.user_id == counters.c.user_id))
    .where(or_(_count != counters.c.position, _first != _ONE, _last != counters.c.position))
    .order_by(counters.c.user_id)
    .limit(_limit)
)
"""Users whose changes are not 1, 2, 3 … up to the position that their counter names."""

_next = changes.alias()
LAST_BEFORE_GAP = Statement(
    select(func.min(changes.c.position)).where(
        changes.c.user_id == bindparam("user_id", type_=changes.c.user_id.type),
        ~select(_next.c.position)
        .where(_next.c.user_id == changes.c.user_id, _next.c.position == changes.c.position + _ONE)
        .correlate(changes)
        .exists(),
    )
)

SEARCH_AHEAD = Statement(
    select(places.c.user_id, places.c.position, func.coalesce(counters.c.position, _NONE))
    .select_from(places.outerjoin(counters, counters.c.user_id == places.c.user_id))
    .where(places.c.position > func.coalesce(counters.c.position, _NONE))
    .order_by(places.c.user_id)
    .limit(_limit)
)

ATTACHMENTS_AFTER = Statement(
    select(attachments.c.key, attachments.c.id, attachments.c.task_id, attachments.c.size, attachments.c.sha256)
    .where(attachments.c.key > bindparam("after", type_=attachments.c.key.type))
    .order_by(attachments.c.key)
    .limit(_limit)
)

TOTALS = Statement(
    select(
        select(func.count()).select_from(users).scalar_subquery(),
        select(func.count()).select_from(tasks).scalar_subquery(),
        select(func.count()).select_from(attachments).scalar_subquery(),
    )
)
