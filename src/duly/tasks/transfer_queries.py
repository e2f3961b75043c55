"""The SQL of export and import: every statement names the user it is for."""

from functools import lru_cache
from typing import Final

from sqlalchemy import Text, bindparam, select, tuple_

from duly.db.functions import hold_name, insert_on_conflict, is_among
from duly.db.statements import Statement
from duly.db.types import Instant, document
from duly.tasks.queries import DOCUMENT, tasks

LOOKED_UP: Final = 250
SIZES: Final = (25, 5, 1)
WRITTEN: Final = (
    "id", "user_id", "title", "title_key", "description", "completed", "completed_at", "priority", "due_date",
    "due_key", "tags", "version", "created_at", "updated_at", "changed_by",
)  # fmt: skip
_MERGED = (
    "title", "title_key", "description", "completed", "completed_at", "priority", "due_date", "due_key", "tags",
    "updated_at", "changed_by",
)  # fmt: skip

_mine = tasks.c.user_id == bindparam("user_id")
_last_created_at = bindparam("last_created_at", type_=Instant())
_last_id = bindparam("last_id", type_=tasks.c.id.type)

LIST_DOCUMENTS = Statement(
    select(DOCUMENT)
    .where(
        _mine,
        tasks.c.deleted_at.is_(None),
        tuple_(tasks.c.created_at, tasks.c.id) > tuple_(_last_created_at, _last_id),
    )
    .order_by(tasks.c.created_at, tasks.c.id)
    .limit(bindparam("limit")),
    slow=True,
)

# Whoever imports for the same user waits until this transaction ends.
HOLD_NAME = Statement(select(hold_name(bindparam("held", type_=Text()))))

_own = (
    select(DOCUMENT, tasks.c.deleted_at)
    .where(_mine, is_among(tasks.c.id, bindparam("ids", type_=document())))
    .order_by(tasks.c.id)
)
FIND_OWN = Statement(_own, slow=True)
LOCK_OWN = Statement(_own.with_for_update())


@lru_cache(maxsize=len(SIZES))
def put_tasks(count: int) -> Statement:
    """Insert `count` tasks or, where the user has the id already, change them; gives the ids of what was written."""
    rows = [
        {name: bindparam(f"{name}_of_{index}", type_=tasks.c[name].type) for name in WRITTEN} for index in range(count)
    ]
    insertion = insert_on_conflict(tasks).values(rows)
    return Statement(
        insertion.on_conflict_do_update(
            index_elements=[tasks.c.id],
            set_={
                **{name: insertion.excluded[name] for name in _MERGED},
                "version": tasks.c.version + 1,
                "deleted_at": None,
            },
            where=tasks.c.user_id == insertion.excluded.user_id,
        ).returning(tasks.c.id)
    )
