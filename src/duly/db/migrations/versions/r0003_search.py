"""What lists and searches go by: words, the place they are indexed up to, the rank of a priority, and indexes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from duly.db.migrations import search_0003

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_KEPT = sa.text("deleted_at IS NULL")
_TRASHED = sa.text("deleted_at IS NOT NULL")
_INDEXES = {
    "ix_tasks_user_id_updated_at": (["user_id", "updated_at", "id"], _KEPT),
    "ix_tasks_user_id_title_key": (["user_id", "title_key", "id"], _KEPT),
    "ix_tasks_user_id_priority_key": (["user_id", "priority_key", "id"], _KEPT),
    "ix_tasks_user_id_deleted_at": (["user_id", "deleted_at"], _TRASHED),
    "ix_tasks_deleted_at": (["deleted_at"], _TRASHED),
}
_PRIORITY_KEY = "CASE priority WHEN 'low' THEN 1 WHEN 'medium' THEN 2 WHEN 'high' THEN 3 ELSE 4 END"


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """The words of the tasks that are there follow from the change feed, at the first search or in the background."""
    dialect = op.get_context().dialect.name
    # SQLite can only add one that is computed when it is read, and PostgreSQL only index one that is stored.
    computed = sa.Computed(_PRIORITY_KEY, persisted=dialect == "postgresql")
    op.add_column("tasks", sa.Column("priority_key", sa.SmallInteger(), computed))
    for name, (columns, rows) in _INDEXES.items():
        # See `_kept` in tasks/tables.py: to PostgreSQL such an index looks tiny, and better than the key.
        where = None if rows is _KEPT else rows
        op.create_index(name, "tasks", columns, sqlite_where=rows, postgresql_where=where)
    op.create_table(
        "task_words",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("task_id", _text(36), nullable=False),
        sa.Column("user_id", _text(255), nullable=False),
        sa.Column("folded", sa.Text(), nullable=False),
        sa.Column("words", sa.Text().with_variant(postgresql.TSVECTOR(), "postgresql"), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_task_words"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_task_words_task_id_tasks", ondelete="CASCADE"),
    )
    op.create_index("ix_task_words_task_id", "task_words", ["task_id"], unique=True)
    op.create_table(
        "search_places",
        sa.Column("user_id", _text(255), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_search_places"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_search_places_user_id_users", ondelete="CASCADE"),
    )
    search_0003.create(dialect)


def downgrade() -> None:
    """Remove what `upgrade` made; all of it follows from the tasks."""
    search_0003.drop(op.get_context().dialect.name)
    op.drop_table("search_places")
    op.drop_table("task_words")
    for name in reversed(_INDEXES):
        op.drop_index(name, "tasks")
    op.drop_column("tasks", "priority_key")
