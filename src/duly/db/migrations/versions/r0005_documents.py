"""Documents that PostgreSQL need not put together for each reader, and writes that keep two indexes fewer.

Twenty documents took PostgreSQL longer than all else of a page, so it stores them. SQLite makes one in 2 µs when it is
read, and cannot add a stored column to a table that is there.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from duly.db.migrations import feed_0001
from duly.db.migrations.documents import COLUMN, FUNCTION

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_INSTANT = sa.String(27).with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
_TITLE = sa.String(200).with_variant(sa.String(200, collation="C"), "postgresql")
_ORDERS = ("updated_at", "title_key")
_COPY = """UPDATE task_words SET updated_at = (SELECT updated_at FROM tasks WHERE id = task_id),
title_key = (SELECT title_key FROM tasks WHERE id = task_id)"""
# What the row holds already is not put together a second time for the feed.
_STORED = {"NEW": "NEW.document", "OLD": "OLD.document"}
# Of SQLite's full-text index: it has to hear of a row's words when they change, and of nothing else.
_CHANGED = """CREATE TRIGGER task_words_changed AFTER UPDATE{of} ON task_words BEGIN
INSERT INTO task_words_index (task_words_index, rowid, words) VALUES ('delete', OLD.number, OLD.words);
INSERT INTO task_words_index (rowid, words) VALUES (NEW.number, NEW.words); END"""


def upgrade() -> None:
    """Two orders of lists move to the words, which follow the change feed; what is there is copied."""
    dialect = op.get_context().dialect.name
    for key, kind in zip(_ORDERS, (_INSTANT, _TITLE), strict=True):
        op.drop_index(f"ix_tasks_user_id_{key}", "tasks")
        op.add_column("task_words", sa.Column(key, kind, nullable=True))
    if dialect == "sqlite":
        op.execute("DROP TRIGGER task_words_changed")
        op.execute(_CHANGED.format(of=" OF number, words"))
    op.execute(_COPY)
    for key in _ORDERS:
        op.create_index(f"ix_task_words_user_id_{key}", "task_words", ["user_id", key, "task_id"])
    if dialect == "postgresql":
        op.execute(FUNCTION)
    kept = "STORED" if dialect == "postgresql" else "VIRTUAL"
    op.execute(f"ALTER TABLE tasks ADD COLUMN document text GENERATED ALWAYS AS ({COLUMN[dialect]}) {kept}")
    if dialect == "postgresql":
        feed_0001.replace_functions(_STORED)


def downgrade() -> None:
    """Both orders are indexes of the tasks again."""
    dialect = op.get_context().dialect.name
    if dialect == "postgresql":
        feed_0001.replace_functions(feed_0001.PUT_TOGETHER)
    op.drop_column("tasks", "document")
    if dialect == "postgresql":
        op.execute("DROP FUNCTION task_document")
    kept = None if dialect == "postgresql" else sa.text("deleted_at IS NULL")
    if dialect == "sqlite":
        op.execute("DROP TRIGGER task_words_changed")
        op.execute(_CHANGED.format(of=""))
    for key in _ORDERS:
        op.drop_index(f"ix_task_words_user_id_{key}", "task_words")
        op.drop_column("task_words", key)
        op.create_index(f"ix_tasks_user_id_{key}", "tasks", ["user_id", key, "id"], sqlite_where=kept)
