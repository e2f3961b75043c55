"""The SQL that removes sessions and tokens that are over: about every user, for the upkeep alone."""

from sqlalchemy import Integer, and_, bindparam, delete, exists, func, or_, select

from duly.db.functions import is_among
from duly.db.statements import Statement
from duly.db.types import Instant, document
from duly.identity.queries import blacklisted, refresh_tokens, sessions

_cutoff = bindparam("cutoff", type_=Instant())
_device_cutoff = bindparam("device_cutoff", type_=Instant())
_limit = bindparam("limit", type_=Integer())
_ended = func.coalesce(sessions.c.ended_at, sessions.c.expires_at)
_is_over = and_(or_(sessions.c.ended_at < _cutoff, sessions.c.expires_at < _cutoff))
_newer = sessions.alias("newer")
# A login asks which devices are known, so the newest session of a device stays for longer.
_is_forgotten = or_(
    sessions.c.device.is_(None),
    _ended < _device_cutoff,
    exists().where(
        _newer.c.user_id == sessions.c.user_id, _newer.c.device == sessions.c.device, _newer.c.id > sessions.c.id
    ),
)
_session_ids = bindparam("session_ids", type_=document())

OVER_AFTER = Statement(
    select(sessions.c.id)
    .where(sessions.c.id > bindparam("after", type_=sessions.c.id.type), _is_over)
    .order_by(sessions.c.id)
    .limit(_limit),
    slow=True,
)

_some_tokens = select(refresh_tokens.c.hash).where(is_among(refresh_tokens.c.session_id, _session_ids)).limit(_limit)
DELETE_TOKENS = Statement(
    delete(refresh_tokens).where(refresh_tokens.c.hash.in_(_some_tokens)).returning(refresh_tokens.c.created_at)
)

# A session that is over stays so: nothing has to be asked again but whether its device is still to be known.
DELETE_SESSIONS = Statement(
    delete(sessions)
    .where(is_among(sessions.c.id, _session_ids), _is_over, _is_forgotten)
    .returning(sessions.c.created_at)
)

_some_entries = select(blacklisted.c.session_id).where(blacklisted.c.expires_at < _cutoff).limit(_limit)
DELETE_BLACKLISTED = Statement(
    delete(blacklisted)
    .where(blacklisted.c.session_id.in_(_some_entries), blacklisted.c.expires_at < _cutoff)
    .returning(blacklisted.c.created_at)
)
