"""Rows of users, written and counted through units; what the tests of transactions are about is the unit alone."""

from datetime import UTC, datetime

from sqlalchemy import bindparam, insert, select, text, update

from duly.db.statements import Statement
from duly.db.unit import Reader, Unit
from duly.identity import queries
from duly.identity.tables import User
from duly.web.idempotency import IdempotencyKey
from tests.schemas import run_sql

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
users = User.__table__  # type: ignore[attr-defined]
keys = IdempotencyKey.__table__  # type: ignore[attr-defined]

FIND_IDS = Statement(select(users.c.id).order_by(users.c.id))
FIND_IDS_SLOWLY = Statement(select(users.c.id).order_by(users.c.id), slow=True)
RENAME = Statement(update(users).where(users.c.id == bindparam("which")).values(name=bindparam("new_name")))
# One row that many want to change at once.
COUNT_UP = Statement(update(users).where(users.c.id == bindparam("which")).values(version=users.c.version + 1))
# A row that belongs to a user.
ADD_KEY = Statement(
    insert(keys).values({name: bindparam(name) for name in ("user_id", "key", "request_hash", "created_at")})
)


async def add(unit: Unit, *names: str) -> None:
    """Write one user for each name; the address follows from it, so a name is taken once."""
    for name in names:
        await unit.fetch(
            queries.INSERT_USER, id=name, email=f"{name}@example.com", username=None, username_key=None, name=name,
            role="user", hashed_password=None, created_at=MOMENT, updated_at=MOMENT,
        )  # fmt: skip


async def ids(reader: Reader) -> list[str]:
    """The users that this reader sees."""
    return [row[0] for row in await reader.fetch(FIND_IDS)]


async def stored(url: str) -> list[str]:
    """The users that another connection sees: those that were committed."""
    return [row[0] for row in await run_sql(url, "SELECT id FROM users ORDER BY id")]


def plain(sql: str) -> Statement:
    """A statement that is not the application's."""
    return Statement(text(sql))
