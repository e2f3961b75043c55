"""All SQL of one-time tokens and of failed logins."""

from sqlalchemy import Integer, Text, and_, bindparam, case, delete, func, select, update

from duly.db.functions import hold_name, insert_on_conflict
from duly.db.statements import Statement
from duly.db.types import Instant
from duly.identity.tables import LoginFailure, OneTimeToken

tokens = OneTimeToken.__table__  # type: ignore[attr-defined]
failures = LoginFailure.__table__  # type: ignore[attr-defined]

now = bindparam("now", type_=Instant())

# The same token again is another attempt to deliver its mail, and gets its time again.
STORE_TOKEN = Statement(
    insert_on_conflict(tokens)
    .values(
        {
            name: bindparam(name)
            for name in ("hash", "purpose", "user_id", "email", "created_at", "updated_at", "expires_at")
        }
    )
    .on_conflict_do_update(
        index_elements=[tokens.c.hash],
        set_={"expires_at": bindparam("expires_at", type_=Instant())},
        where=tokens.c.used_at.is_(None),
    )
)

_usable = (
    tokens.c.hash == bindparam("hash"),
    tokens.c.purpose == bindparam("purpose"),
    tokens.c.used_at.is_(None),
    tokens.c.expires_at > now,
)

FIND_TOKEN = Statement(select(tokens.c.user_id, tokens.c.email).where(*_usable))

USE_TOKEN = Statement(
    update(tokens).where(*_usable).values(used_at=now, updated_at=now).returning(tokens.c.user_id, tokens.c.email)
)

HOLD_NAME = Statement(select(hold_name(bindparam("held", type_=Text()))))

VOID_OTHERS = Statement(
    delete(tokens).where(
        tokens.c.user_id == bindparam("user_id"),
        tokens.c.purpose == bindparam("purpose"),
        tokens.c.hash != bindparam("hash"),
        tokens.c.used_at.is_(None),
    )
)

VOID_TOKENS = Statement(delete(tokens).where(tokens.c.user_id == bindparam("user_id"), tokens.c.used_at.is_(None)))

DELETE_EXPIRED_TOKENS = Statement(delete(tokens).where(tokens.c.expires_at < now).returning(tokens.c.purpose))

_is_locked = failures.c.locked_until > now
_is_old = failures.c.window_started_at < bindparam("cutoff", type_=Instant())
_limit = bindparam("limit", type_=Integer())

RECORD_FAILURE = Statement(
    insert_on_conflict(failures)
    .values(name_key=bindparam("name_key"), network_key=bindparam("network_key"), failures=1, window_started_at=now)
    .on_conflict_do_update(
        index_elements=[failures.c.name_key, failures.c.network_key],
        set_={
            # A lock outlives the window in which it began.
            "failures": case((_is_locked, failures.c.failures + 1), (_is_old, 1), else_=failures.c.failures + 1),
            "window_started_at": case(
                (_is_locked, failures.c.window_started_at), (_is_old, now), else_=failures.c.window_started_at
            ),
            "locked_until": case(
                (_is_locked, failures.c.locked_until),
                (and_(~_is_old, failures.c.failures + 1 >= _limit), bindparam("until", type_=Instant())),
                else_=None,
            ),
        },
    )
    .returning(failures.c.failures, failures.c.locked_until)
)

FIND_LOCK = Statement(
    select(func.max(failures.c.locked_until)).where(
        failures.c.name_key == bindparam("name_key"),
        failures.c.network_key.in_((bindparam("network_key"), bindparam("anywhere"))),
        failures.c.locked_until > now,
    )
)

FORGET_FAILURES = Statement(
    delete(failures).where(
        failures.c.name_key == bindparam("name_key"), failures.c.network_key == bindparam("network_key")
    )
)

FORGET_ALL_FAILURES = Statement(delete(failures).where(failures.c.name_key == bindparam("name_key")))

HAS_LOCK = Statement(
    select(failures.c.name_key)
    .where(failures.c.name_key == bindparam("name_key"), failures.c.locked_until > now)
    .limit(1)
)

DELETE_OLD_FAILURES = Statement(
    delete(failures)
    .where(failures.c.window_started_at < bindparam("cutoff", type_=Instant()))
    .returning(failures.c.failures)
)
