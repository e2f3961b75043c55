"""All SQL of users as administrators see them, and of what changes a user."""

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import ColumnElement, String, and_, bindparam, delete, func, or_, select, update

from duly.db.functions import insert_on_conflict
from duly.db.statements import Statement
from duly.db.types import Instant
from duly.identity.queries import ACCOUNT, living, users
from duly.identity.tables import FieldKey

keys = FieldKey.__table__  # type: ignore[attr-defined]

now = bindparam("now", type_=Instant())

SORT_KEYS: dict[str, ColumnElement[Any]] = {
    "created_at": users.c.created_at,
    "updated_at": users.c.updated_at,
    "email": func.coalesce(users.c.email, ""),
    "username": func.coalesce(users.c.username_key, ""),
    "name": func.coalesce(func.lower(users.c.name), ""),
}
VERSIONED = (*ACCOUNT, users.c.version)
# Letters that Unicode folds to these, beside their capitals.
_ALSO = {"\N{GREEK SMALL LETTER SIGMA}": "ς", "ß": "ẞ"}
_SHAPES_KEPT = 256


def fold_search(text: str) -> tuple[str, list[tuple[str, str]]]:
    """A text in lower case, and the capitals that neither database folds by itself, each with its small letter.

    `lower` of SQLite, and of PostgreSQL where texts are compared byte by byte, knows no letter beyond ASCII.
    """
    folded = "".join(map(_fold, text))
    pairs = []
    for small in dict.fromkeys(folded):
        if not small.isascii():
            others = dict.fromkeys((small.upper(), small.title(), _ALSO.get(small, small)))
            pairs += [(other, small) for other in others if len(other) == 1 and other != small]
    return folded, pairs


def _fold(letter: str) -> str:
    return next((found for found in (letter.casefold(), letter.lower()) if len(found) == 1), letter)


@dataclass(frozen=True, slots=True)
class UserShape:
    """Which conditions a list of users has, and how it is ordered."""

    search: bool = False
    capitals: int = 0
    is_active: bool = False
    role: bool = False
    sort: str = "created_at"
    descending: bool = True
    after: bool = False


@lru_cache(_SHAPES_KEPT)
def list_users(shape: UserShape) -> Statement:
    """The accounts that are not deleted; the last column is the sort key."""
    key = SORT_KEYS[shape.sort]
    query = select(*ACCOUNT, key).where(*_conditions(shape))
    if shape.after:
        last_key = bindparam("last_key", type_=Instant() if shape.sort.endswith("_at") else String())
        last_id = bindparam("last_id", type_=String())
        beyond = key < last_key if shape.descending else key > last_key
        beyond_id = users.c.id < last_id if shape.descending else users.c.id > last_id
        query = query.where(or_(beyond, and_(key == last_key, beyond_id)))
    order = [key.desc(), users.c.id.desc()] if shape.descending else [key, users.c.id]
    return Statement(query.order_by(*order).limit(bindparam("limit")).offset(bindparam("offset")), slow=True)


@lru_cache(_SHAPES_KEPT)
def count_users(shape: UserShape) -> Statement:
    """How many there are on all pages."""
    return Statement(select(func.count()).select_from(users).where(*_conditions(shape)), slow=True)


def _conditions(shape: UserShape) -> list[Any]:
    found: list[Any] = [living]
    if shape.search:
        pattern = bindparam("search", type_=String())
        names = (_folded(column, shape.capitals) for column in (users.c.email, users.c.username_key, users.c.name))
        found.append(or_(*(name.like(pattern, escape="\\") for name in names)))
    if shape.is_active:
        found.append(users.c.is_active == bindparam("is_active"))
    if shape.role:
        found.append(users.c.role == bindparam("role"))
    return found


def _folded(column: ColumnElement[str], capitals: int) -> ColumnElement[str]:
    folded: ColumnElement[str] = func.lower(column)
    for index in range(capitals):
        capital, small = (bindparam(f"{kind}{index}", type_=String()) for kind in ("capital", "small"))
        folded = func.replace(folded, capital, small, type_=String())
    return folded


FIND_VERSIONED = Statement(select(*VERSIONED).where(users.c.id == bindparam("user_id"), living))

# In one order, so that two who demote each other wait instead of meeting.
LOCK_ADMINS = Statement(
    select(users.c.id).where(users.c.role == "admin", users.c.is_active, living).order_by(users.c.id).with_for_update()
)


@cache
def update_user(names: frozenset[str]) -> Statement:
    """Set the named columns of one user, and answer the account as it is then."""
    return Statement(
        update(users)
        .where(users.c.id == bindparam("user_id"), living)
        .values(
            {**{name: bindparam(name) for name in sorted(names)}, "version": users.c.version + 1, "updated_at": now}
        )
        .returning(*VERSIONED)
    )


# Nobody else changes the row; what only refers to it (a task, a session) is not kept waiting.
LOCK_USER = Statement(
    select(users.c.id).where(users.c.id == bindparam("user_id"), living).with_for_update(key_share=True)
)

SET_PASSWORD = Statement(
    update(users)
    .where(users.c.id == bindparam("user_id"), living)
    .values(hashed_password=bindparam("new_hash"), version=users.c.version + 1, updated_at=now)
    .returning(*VERSIONED)
)

# The names are free for somebody else; the row stays for what refers to it.
DELETE_USER = Statement(
    update(users)
    .where(users.c.id == bindparam("user_id"), living)
    .values(
        deleted_at=now, updated_at=now, is_active=False, email=None, username=None, username_key=None, name=None,
        hashed_password=None, version=users.c.version + 1,
    )
    .returning(users.c.id)
)  # fmt: skip

ADD_FIELD_KEY = Statement(
    insert_on_conflict(keys).values(id=bindparam("id"), created_at=bindparam("created_at")).on_conflict_do_nothing()
)

FIELD_KEYS = Statement(select(keys.c.id))

FORGET_FIELD_KEY = Statement(delete(keys).where(keys.c.id == bindparam("id")))
