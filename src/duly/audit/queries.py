"""All SQL of the audit log."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, bindparam, delete, func, insert, literal_column, or_, select, type_coerce, update

from duly.audit.tables import AuditEntry, AuditHead, StrictInstant
from duly.db.functions import insert_on_conflict
from duly.db.statements import Statement
from duly.db.types import Instant

log = AuditEntry.__table__  # type: ignore[attr-defined]
head = AuditHead.__table__  # type: ignore[attr-defined]

_AT = type_coerce(log.c.at, StrictInstant())
_STORED = (
    log.c.id, _AT, log.c.event, log.c.actor_id, log.c.actor_name, log.c.target_type, log.c.target_id,
    log.c.origin, log.c.request_id, log.c.outcome, log.c.details, log.c.hash, log.c.previous_hash, log.c.position,
    log.c.mac,
)  # fmt: skip

INSERT_ENTRY = Statement(
    insert(log).values(
        {
            name: bindparam(name)
            for name in ("id", "at", "event", "outcome", "actor_id", "actor_name", "target_type", "target_id", "origin",
                         "request_id", "details", "mac")
        }
    )
)  # fmt: skip

FIND_HEAD = Statement(
    select(head.c.position, head.c.hash, head.c.start_position, head.c.start_hash, head.c.mac).where(head.c.id == 1)
)

_HEAD: dict[str, Any] = {name: bindparam(name) for name in ("position", "hash", "start_position", "start_hash", "mac")}

START_HEAD = Statement(insert_on_conflict(head).values({"id": 1, **_HEAD}).on_conflict_do_nothing())

# Nothing is changed by it but the row's lock: whoever has it may add to the chain.
LOCK_HEAD = Statement(
    update(head)
    .where(head.c.id == 1)
    .values(position=head.c.position)
    .returning(head.c.position, head.c.hash, head.c.start_position, head.c.start_hash, head.c.mac)
)

MOVE_HEAD = Statement(update(head).where(head.c.id == 1).values(_HEAD))

UNSEALED = Statement(
    select(*_STORED)
    .where(log.c.position.is_(None), log.c.id > bindparam("after"))
    .order_by(log.c.id)
    .limit(bindparam("limit"))
)

HAS_UNSEALED = Statement(select(log.c.id).where(log.c.position.is_(None)).limit(1))

# For /metrics. An index of unique positions holds those without one too.
MOST_COUNTED = 100_000
_unsealed = select(log.c.position).where(log.c.position.is_(None)).limit(literal_column(str(MOST_COUNTED))).subquery()
UNSEALED_COUNT = select(func.count()).select_from(_unsealed).scalar_subquery().label("unsealed")

HAS_SEALED = Statement(select(log.c.id).where(log.c.position.is_not(None)).limit(1))

# The keyed hash has done its work. Without it an entry that was removed cannot be put in once more as a new one.
SEAL_ENTRY = Statement(
    update(log)
    .where(log.c.id == bindparam("entry_id"), log.c.position.is_(None))
    .values(position=bindparam("position"), hash=bindparam("hash"), previous_hash=bindparam("previous_hash"), mac="")
)

SEALED_FROM = Statement(
    select(*_STORED)
    .where(log.c.position >= bindparam("position", type_=BigInteger()))
    .order_by(log.c.position)
    .limit(bindparam("limit")),
    slow=True,
)

FIND_FROM = Statement(
    select(log.c.id)
    .where(log.c.position >= bindparam("position", type_=BigInteger()))
    .order_by(log.c.position)
    .limit(1)
)

FIND_BELOW = Statement(
    select(log.c.id).where(log.c.position < bindparam("position", type_=BigInteger())).order_by(log.c.position).limit(1)
)

DELETE_BEFORE = Statement(delete(log).where(log.c.position < bindparam("position", type_=BigInteger())))

RESEAL_ORIGIN = Statement(update(log).where(log.c.id == bindparam("entry_id")).values(origin=bindparam("origin")))

ORIGINS_AFTER = Statement(
    select(log.c.id, log.c.origin)
    .where(log.c.id > bindparam("after"), log.c.origin.is_not(None))
    .order_by(log.c.id)
    .limit(bindparam("limit"))
)


@dataclass(frozen=True, slots=True)
class EntryShape:
    """Which conditions a list of entries has."""

    event: bool = False
    actor_id: bool = False
    target_id: bool = False
    outcome: bool = False
    since: bool = False
    until: bool = False
    about: bool = False
    after: bool = False


@cache
def list_entries(shape: EntryShape) -> Statement:
    """Newest first, from after `last_id`."""
    query = select(*_STORED).where(*_conditions(shape))
    if shape.after:
        query = query.where(log.c.id < bindparam("last_id"))
    return Statement(query.order_by(log.c.id.desc()).limit(bindparam("limit")).offset(bindparam("offset")), slow=True)


@cache
def count_entries(shape: EntryShape) -> Statement:
    """How many there are on all pages."""
    return Statement(select(func.count()).select_from(log).where(*_conditions(shape)), slow=True)


def _conditions(shape: EntryShape) -> list[Any]:
    found: list[Any] = [
        getattr(log.c, name) == bindparam(name)
        for name in ("event", "actor_id", "target_id", "outcome")
        if getattr(shape, name)
    ]
    if shape.since:
        found.append(log.c.at >= bindparam("since", type_=Instant()))
    if shape.until:
        found.append(log.c.at < bindparam("until", type_=Instant()))
    if shape.about:
        found.append(or_(log.c.actor_id == bindparam("about"), log.c.target_id == bindparam("about")))
    return found
