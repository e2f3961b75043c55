"""Answers that were kept for retries under an Idempotency-Key: nobody is given them any more after a day."""

from datetime import timedelta

from sqlalchemy import Text, bindparam, column, delete, select, table, tuple_

from duly.db.statements import Statement
from duly.db.types import Instant
from duly.db.unit import Database
from duly.kit.clock import now

# As long as `duly.web.idempotency` honours a key; its table is declared there, above this room.
LIFE = timedelta(hours=24)
AT_ONCE = 500

_keys = table("idempotency_keys", column("user_id", Text()), column("key", Text()), column("created_at", Instant()))
_is_over = _keys.c.created_at < bindparam("cutoff", type_=Instant())
_some = select(_keys.c.user_id, _keys.c.key).where(_is_over).limit(bindparam("limit"))
# Asked twice: a key that is used anew meanwhile stays.
_DELETE_SOME = Statement(
    delete(_keys).where(tuple_(_keys.c.user_id, _keys.c.key).in_(_some), _is_over).returning(_keys.c.created_at)
)


async def forget_answers(database: Database) -> int:
    """How many were removed. Any number of processes may do it at once."""
    cutoff = now() - LIFE
    forgotten = 0
    while True:
        async with database.unit() as unit:
            count = len(await unit.fetch(_DELETE_SOME, cutoff=cutoff, limit=AT_ONCE))
        if not count:
            return forgotten
        forgotten += count
