"""Attachments: what the database knows of the files that lie in the file store."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INSTANT = sa.String(27).with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "attachments",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("task_id", _text(36), nullable=False),
        sa.Column("user_id", _text(255), nullable=False),
        sa.Column("name", _text(255), nullable=False),
        sa.Column("content_type", _text(100), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", _text(64), nullable=False),
        sa.Column("key", _text(38), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_attachments"),
        sa.UniqueConstraint("key", name="uq_attachments_key"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_attachments_task_id_tasks", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_attachments_user_id_users", ondelete="CASCADE"),
        sa.CheckConstraint("size > 0", name=op.f("ck_attachments_size")),
    )
    op.create_index("ix_attachments_task_id_id", "attachments", ["task_id", "id"])
    op.create_index("ix_attachments_user_id_size", "attachments", ["user_id", "size"])


def downgrade() -> None:
    """Forget every attachment; their bytes stay in the file store."""
    op.drop_table("attachments")
