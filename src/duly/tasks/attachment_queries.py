"""All SQL of attachments: every statement names the user it is for, but the sweep's, which is about the store."""

from sqlalchemy import Text, and_, bindparam, delete, func, insert, select

from duly.db.functions import hold_name, named, plain_text
from duly.db.statements import Statement
from duly.tasks.attachment_tables import Attachment
from duly.tasks.tables import Task

attachments = Attachment.__table__  # type: ignore[attr-defined]
tasks = Task.__table__  # type: ignore[attr-defined]

# Minted here, or hexadecimal: nothing in it needs escaping.
_PLAIN = {"id", "task_id", "sha256"}
_PUBLIC = ("id", "task_id", "name", "content_type", "size", "sha256", "created_at")
_COLUMNS = (*_PUBLIC, "user_id", "key")

DOCUMENT = named(
    *((name, plain_text(attachments.c[name]) if name in _PLAIN else attachments.c[name]) for name in _PUBLIC)
)

_task_id = bindparam("task_id", type_=tasks.c.id.type)
_user_id = bindparam("user_id", type_=tasks.c.user_id.type)
_own_task = and_(tasks.c.id == _task_id, tasks.c.user_id == _user_id, tasks.c.deleted_at.is_(None))
_of_task = and_(attachments.c.task_id == tasks.c.id, attachments.c.user_id == tasks.c.user_id)
_this = attachments.c.id == bindparam("attachment_id", type_=attachments.c.id.type)

HOLD_NAME = Statement(select(hold_name(bindparam("held", type_=Text()))))

FIND_USAGE = Statement(
    select(
        select(func.count()).select_from(attachments).where(_of_task).correlate(tasks).scalar_subquery(),
        select(func.coalesce(func.sum(attachments.c.size), 0))
        .where(attachments.c.user_id == _user_id)
        .scalar_subquery(),
    )
    .select_from(tasks)
    .where(_own_task)
)
"""Of a task that the caller has: how many files it has, and the bytes of all the caller's files."""

INSERT_ATTACHMENT = Statement(
    insert(attachments).values({name: bindparam(name) for name in _COLUMNS}).returning(DOCUMENT)
)

LIST_ATTACHMENTS = Statement(
    select(attachments.c.id, DOCUMENT)
    .select_from(tasks.outerjoin(attachments, _of_task))
    .where(_own_task)
    .order_by(attachments.c.id)
)
"""Oldest first; one row without an id for a task that has none."""

FIND_ATTACHMENT = Statement(
    select(attachments.c.key, attachments.c.name, attachments.c.content_type, attachments.c.size, attachments.c.sha256)
    .select_from(tasks.join(attachments, _of_task))
    .where(_own_task, _this)
)

DELETE_ATTACHMENT = Statement(
    delete(attachments)
    .where(
        _this,
        attachments.c.user_id == _user_id,
        attachments.c.task_id == select(tasks.c.id).where(_own_task).scalar_subquery(),
    )
    .returning(attachments.c.key)
)

LIST_KEYS = Statement(
    select(attachments.c.key).where(attachments.c.key.between(bindparam("first"), bindparam("last"))), slow=True
)
"""The keys in use between two, both included."""
