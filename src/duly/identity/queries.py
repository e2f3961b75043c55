"""All SQL of identity."""

from sqlalchemy import and_, bindparam, exists, func, insert, literal, or_, select, update

from duly.db.functions import insert_on_conflict, is_among
from duly.db.statements import Statement
from duly.db.types import Instant, document
from duly.identity.tables import BlacklistedToken, RefreshToken, Session, User

users = User.__table__  # type: ignore[attr-defined]
sessions = Session.__table__  # type: ignore[attr-defined]
refresh_tokens = RefreshToken.__table__  # type: ignore[attr-defined]
blacklisted = BlacklistedToken.__table__  # type: ignore[attr-defined]

now = bindparam("now", type_=Instant())

ACCOUNT = (
    users.c.id, users.c.email, users.c.username, users.c.name, users.c.role, users.c.is_active,
    users.c.email_verified, users.c.created_at, users.c.updated_at,
)  # fmt: skip

INSERT_USER = Statement(
    insert(users).values(
        {
            name: bindparam(name)
            for name in ("id", "email", "username", "username_key", "name", "role", "hashed_password", "created_at",
                         "updated_at")
        }
    )
)  # fmt: skip

living = users.c.deleted_at.is_(None)

INSERT_OUTSIDE_USER = Statement(
    insert_on_conflict(users)
    .values(
        {name: bindparam(name) for name in ("id", "name", "issuer", "subject", "created_at", "updated_at")},
    )
    .on_conflict_do_nothing()
    .returning(users.c.id)
)

FIND_OUTSIDE_USER = Statement(
    select(users.c.id, and_(users.c.is_active, living)).where(
        users.c.issuer == bindparam("issuer"), users.c.subject == bindparam("subject")
    )
)

FIND_USER = Statement(select(*ACCOUNT).where(users.c.id == bindparam("user_id"), living))

FIND_ACTIVE_USERS = Statement(
    select(users.c.id).where(is_among(users.c.id, bindparam("user_ids", type_=document())), users.c.is_active, living)
)

FIND_CREDENTIALS_BY_EMAIL = Statement(
    select(users.c.hashed_password, *ACCOUNT).where(users.c.email == bindparam("identifier"), living)
)

FIND_CREDENTIALS_BY_USERNAME = Statement(
    select(users.c.hashed_password, *ACCOUNT).where(users.c.username_key == bindparam("identifier"), living)
)

FIND_TAKEN = Statement(
    select(users.c.email, users.c.username_key).where(
        or_(users.c.email == bindparam("email"), users.c.username_key == bindparam("username_key"))
    )
)

FIND_CREDENTIALS_BY_ID = Statement(
    select(users.c.hashed_password, *ACCOUNT).where(users.c.id == bindparam("user_id"), living)
)

# A login under way waits here for a change of the password, and then sees the new hash (and the other way round).
LOCK_CREDENTIALS = Statement(
    select(users.c.hashed_password)
    .where(users.c.id == bindparam("user_id"), users.c.is_active, living)
    .with_for_update(read=True)
)

REPLACE_HASH = Statement(
    update(users)
    .where(users.c.id == bindparam("user_id"), users.c.hashed_password == bindparam("old_hash"))
    .values(hashed_password=bindparam("new_hash"))
)

HAS_ADMIN = Statement(select(literal(1)).where(users.c.role == "admin", living).limit(1))

ORIGINS_AFTER = Statement(
    select(sessions.c.id, sessions.c.origin)
    .where(sessions.c.id > bindparam("after"), sessions.c.origin.is_not(None))
    .order_by(sessions.c.id)
    .limit(bindparam("limit"))
)

RESEAL_ORIGIN = Statement(
    update(sessions).where(sessions.c.id == bindparam("session_id")).values(origin=bindparam("origin"))
)

INSERT_SESSION = Statement(
    insert(sessions).values(
        {
            name: bindparam(name)
            for name in ("id", "user_id", "created_at", "updated_at", "last_used_at", "expires_at", "origin", "device")
        }
    )
)

KNOWN_DEVICES = Statement(
    select(sessions.c.device).where(sessions.c.user_id == bindparam("user_id")).distinct().limit(100)
)

LIVE_SESSIONS = Statement(
    select(
        sessions.c.id, sessions.c.created_at, sessions.c.last_used_at, sessions.c.expires_at, sessions.c.origin,
        sessions.c.device,
    )
    .where(sessions.c.user_id == bindparam("user_id"), sessions.c.ended_at.is_(None), sessions.c.expires_at > now)
    .order_by(sessions.c.created_at.desc(), sessions.c.id.desc())
    .limit(bindparam("limit"))
    .offset(bindparam("offset"))
)  # fmt: skip

TOUCH_SESSION = Statement(
    update(sessions)
    .where(
        sessions.c.id == bindparam("session_id"),
        sessions.c.ended_at.is_(None),
        sessions.c.expires_at > now,
        exists().where(users.c.id == sessions.c.user_id, users.c.is_active, living),
    )
    .values(last_used_at=now, updated_at=now)
    .returning(sessions.c.user_id, sessions.c.expires_at)
)

_ending = {"ended_at": now, "updated_at": now, "end_reason": bindparam("reason")}

END_SESSION = Statement(
    update(sessions)
    .where(
        sessions.c.id == bindparam("session_id"),
        sessions.c.user_id == bindparam("user_id"),
        sessions.c.ended_at.is_(None),
    )
    .values(_ending)
    .returning(sessions.c.id)
)

END_OTHER_SESSIONS = Statement(
    update(sessions)
    .where(
        sessions.c.user_id == bindparam("user_id"),
        sessions.c.ended_at.is_(None),
        sessions.c.id != bindparam("kept_id"),
    )
    .values(_ending)
    .returning(sessions.c.id)
)

END_ALL_SESSIONS = Statement(
    update(sessions)
    .where(sessions.c.user_id == bindparam("user_id"), sessions.c.ended_at.is_(None))
    .values(_ending)
    .returning(sessions.c.id)
)

COUNT_LIVE_SESSIONS = Statement(
    select(func.count()).where(
        sessions.c.user_id == bindparam("user_id"), sessions.c.ended_at.is_(None), sessions.c.expires_at > now
    )
)

INSERT_REFRESH_TOKEN = Statement(
    insert(refresh_tokens).values(
        {name: bindparam(name) for name in ("hash", "session_id", "created_at", "updated_at", "expires_at")}
    )
)

REPLACE_REFRESH_TOKEN = Statement(
    update(refresh_tokens)
    .where(
        refresh_tokens.c.hash == bindparam("presented"),
        refresh_tokens.c.replaced_at.is_(None),
        refresh_tokens.c.expires_at > now,
    )
    .values(replaced_at=now, updated_at=now)
    .returning(refresh_tokens.c.session_id)
)

FIND_REFRESH_TOKEN = Statement(
    select(
        refresh_tokens.c.session_id,
        refresh_tokens.c.created_at,
        refresh_tokens.c.expires_at,
        refresh_tokens.c.replaced_at,
        sessions.c.user_id,
        sessions.c.ended_at,
        sessions.c.expires_at,
        and_(users.c.is_active, living),
    )
    .join(sessions, sessions.c.id == refresh_tokens.c.session_id)
    .join(users, users.c.id == sessions.c.user_id)
    .where(refresh_tokens.c.hash == bindparam("hash"))
)

BLACKLIST_SESSION = Statement(
    insert_on_conflict(blacklisted)
    .values({name: bindparam(name) for name in ("session_id", "user_id", "created_at", "updated_at", "expires_at")})
    .on_conflict_do_nothing()
)

LIVE_BLACKLIST = Statement(
    select(blacklisted.c.session_id, blacklisted.c.expires_at).where(blacklisted.c.expires_at > now)
)

RECENT_BLACKLIST = Statement(
    select(blacklisted.c.session_id, blacklisted.c.expires_at).where(
        blacklisted.c.created_at > bindparam("since", type_=Instant())
    )
)
