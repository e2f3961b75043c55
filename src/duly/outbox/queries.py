"""All SQL of the outbox."""

from typing import Any

from sqlalchemy import Integer, Text, bindparam, case, delete, func, insert, literal_column, or_, select, update

from duly.db.functions import hold_name
from duly.db.statements import Statement
from duly.db.types import Instant
from duly.outbox.tables import OutboxMessage

outbox = OutboxMessage.__table__  # type: ignore[attr-defined]

now = bindparam("now", type_=Instant())

INSERT_MESSAGE = Statement(
    insert(outbox).values(
        {
            name: bindparam(name)
            for name in ("id", "kind", "recipient_key", "payload", "state", "attempts", "created_at", "due_at")
        }
    )
)

HOLD_NAME = Statement(select(hold_name(bindparam("held", type_=Text()))))

COUNT_RECENT = Statement(
    select(func.count()).where(
        outbox.c.recipient_key == bindparam("recipient_key"),
        outbox.c.kind == bindparam("kind"),
        outbox.c.created_at > bindparam("since", type_=Instant()),
    )
)

# No pause and no lease reaches beyond `farthest`: what is due later was put off by a clock that was wrong.
_is_due = or_(outbox.c.due_at <= now, outbox.c.due_at > bindparam("farthest", type_=Instant()))

FIND_DUE = Statement(
    select(outbox.c.id).where(outbox.c.state == "waiting", _is_due).order_by(outbox.c.due_at).limit(bindparam("limit"))
)

NEXT_DUE = Statement(select(func.min(outbox.c.due_at)).where(outbox.c.state == "waiting"))

# A lease is the message put off: a relay that dies with it leaves it due again.
LEASE = Statement(
    update(outbox)
    .where(outbox.c.id == bindparam("message_id"), outbox.c.state == "waiting", _is_due)
    .values(due_at=bindparam("until", type_=Instant()), attempts=outbox.c.attempts + 1)
    .returning(outbox.c.kind, outbox.c.payload, outbox.c.attempts, outbox.c.created_at)
)

FINISH = Statement(
    update(outbox)
    .where(outbox.c.id == bindparam("message_id"), outbox.c.state == "waiting")
    .values(
        state=bindparam("new_state"),
        finished_at=now,
        last_error=bindparam("last_error"),
        # The dead keep theirs: they can be sent again.
        payload=case((bindparam("keeps", type_=Integer()) == 1, outbox.c.payload), else_=None),
    )
)

WITHDRAW = Statement(
    update(outbox)
    .where(
        outbox.c.recipient_key == bindparam("recipient_key"),
        outbox.c.kind == bindparam("kind"),
        outbox.c.state == "waiting",
    )
    .values(state="dropped", finished_at=now, payload=None)
)

PUT_OFF = Statement(
    update(outbox)
    .where(outbox.c.id == bindparam("message_id"), outbox.c.state == "waiting")
    .values(due_at=bindparam("until", type_=Instant()), last_error=bindparam("last_error"))
)

REVIVE = Statement(
    update(outbox)
    .where(outbox.c.id == bindparam("message_id"), or_(outbox.c.state == "dead", outbox.c.state == "waiting"))
    .values(state="waiting", due_at=now, finished_at=None, attempts=0)
    .returning(outbox.c.id)
)

_LISTED = (
    outbox.c.id, outbox.c.kind, outbox.c.state, outbox.c.attempts, outbox.c.created_at, outbox.c.due_at,
    outbox.c.finished_at, outbox.c.last_error,
)  # fmt: skip

LIST_MESSAGES = Statement(
    select(*_LISTED)
    .where(outbox.c.state == bindparam("state"))
    .order_by(outbox.c.created_at.desc(), outbox.c.id.desc())
    .limit(bindparam("limit"))
    .offset(bindparam("offset"))
)

# For /metrics, which may cost little whatever has piled up: in the order of the index, and not beyond these.
MOST_COUNTED = 100_000
MOST_COMPARED = 10_000


def _count(state: str) -> Any:
    found = select(outbox.c.state).where(outbox.c.state == state).limit(literal_column(str(MOST_COUNTED))).subquery()
    return select(func.count()).select_from(found).scalar_subquery()


WAITING_COUNT = _count("waiting").label("waiting")
DEAD_COUNT = _count("dead").label("dead")

_waiting = (
    select(outbox.c.created_at)
    .where(outbox.c.state == "waiting")
    .order_by(outbox.c.due_at)
    .limit(literal_column(str(MOST_COMPARED)))
    .subquery()
)
OLDEST_WAITING = select(func.min(_waiting.c.created_at)).scalar_subquery().label("oldest")

COUNT_STATE = Statement(select(func.count()).where(outbox.c.state == bindparam("state")))

DELETE_FINISHED = Statement(
    delete(outbox)
    .where(
        or_(outbox.c.state == "sent", outbox.c.state == "dropped"),
        outbox.c.finished_at < bindparam("before", type_=Instant()),
    )
    .returning(outbox.c.kind)
)

PAYLOADS_AFTER = Statement(
    select(outbox.c.id, outbox.c.payload)
    .where(outbox.c.id > bindparam("after"), outbox.c.payload.is_not(None))
    .order_by(outbox.c.id)
    .limit(bindparam("limit"))
)

RESEAL_PAYLOAD = Statement(
    update(outbox)
    .where(outbox.c.id == bindparam("message_id"), outbox.c.payload.is_not(None))
    .values(payload=bindparam("payload"))
)
