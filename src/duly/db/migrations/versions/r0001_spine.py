"""Users, sessions, tokens, tasks with their counters and change feed, and idempotency keys."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from duly.db.migrations import feed_0001

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INSTANT = sa.String(27).with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _times() -> tuple[sa.Column[str], sa.Column[str]]:
    return sa.Column("created_at", INSTANT, nullable=False), sa.Column("updated_at", INSTANT, nullable=False)


def _owner(table: str) -> tuple[sa.Column[str], sa.ForeignKeyConstraint]:
    name = f"fk_{table}_user_id_users"
    key = sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=name, ondelete="CASCADE")
    return sa.Column("user_id", _text(255), nullable=False), key


def upgrade() -> None:
    """Create everything."""
    _create_users()
    _create_sessions()
    _create_tasks()
    _create_idempotency_keys()
    feed_0001.create(op.get_context().dialect.name)


def _create_users() -> None:
    op.create_table(
        "users",
        *_times(),
        sa.Column("id", _text(255), nullable=False),
        sa.Column("email", _text(254)),
        sa.Column("username", _text(64)),
        sa.Column("username_key", _text(192)),
        sa.Column("name", _text(200)),
        sa.Column("role", _text(16), nullable=False, server_default="user"),
        sa.Column("is_active", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("email_verified", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("hashed_password", sa.Text()),
        sa.Column("issuer", _text(255)),
        sa.Column("subject", _text(255)),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("deleted_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
        sa.UniqueConstraint("username_key", name="uq_users_username_key"),
        sa.UniqueConstraint("issuer", "subject", name="uq_users_issuer_subject"),
        sa.CheckConstraint("role IN ('user', 'admin')", name=op.f("ck_users_role")),
        sa.CheckConstraint("length(id) > 0", name=op.f("ck_users_id")),
    )


def _create_sessions() -> None:
    op.create_table(
        "sessions",
        *_times(),
        sa.Column("id", _text(36), nullable=False),
        *_owner("sessions"),
        sa.Column("last_used_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.Column("end_reason", _text(32)),
        sa.Column("ip_address", _text(64)),
        sa.Column("user_agent", _text(512)),
        sa.Column("device", _text(64)),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
    )
    op.create_index("ix_sessions_user_id_ended_at", "sessions", ["user_id", "ended_at"])
    op.create_table(
        "refresh_tokens",
        *_times(),
        sa.Column("hash", _text(43), nullable=False),
        sa.Column("session_id", _text(36), nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("replaced_at", INSTANT),
        sa.PrimaryKeyConstraint("hash", name="pk_refresh_tokens"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_refresh_tokens_session_id_sessions", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_refresh_tokens_session_id", "refresh_tokens", ["session_id"])
    op.create_table(
        "blacklisted_tokens",
        *_times(),
        sa.Column("session_id", _text(36), nullable=False),
        *_owner("blacklisted_tokens"),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_blacklisted_tokens"),
    )
    op.create_index("ix_blacklisted_tokens_user_id", "blacklisted_tokens", ["user_id"])
    op.create_index("ix_blacklisted_tokens_created_at", "blacklisted_tokens", ["created_at"])
    op.create_index("ix_blacklisted_tokens_expires_at", "blacklisted_tokens", ["expires_at"])


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        *_times(),
        sa.Column("id", _text(36), nullable=False),
        *_owner("tasks"),
        sa.Column("title", _text(200), nullable=False),
        sa.Column("title_key", _text(200), nullable=False),
        sa.Column("description", _text(2000)),
        sa.Column("completed", sa.Boolean(), nullable=False),
        sa.Column("completed_at", INSTANT),
        sa.Column("priority", _text(6), nullable=False),
        sa.Column("due_date", INSTANT),
        sa.Column("due_key", INSTANT, nullable=False),
        sa.Column("tags", DOCUMENT, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("deleted_at", INSTANT),
        sa.Column("changed_by", _text(36)),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.CheckConstraint("length(title) BETWEEN 1 AND 200", name=op.f("ck_tasks_title")),
        sa.CheckConstraint("length(description) <= 2000", name=op.f("ck_tasks_description")),
        sa.CheckConstraint("priority IN ('low', 'medium', 'high', 'urgent')", name=op.f("ck_tasks_priority")),
        sa.CheckConstraint("length(id) > 0", name=op.f("ck_tasks_id")),
    )
    op.create_index("ix_tasks_user_id_created_at", "tasks", ["user_id", "created_at", "id"])
    op.create_index("ix_tasks_user_id_completed", "tasks", ["user_id", "completed", "created_at", "id"])
    op.create_index("ix_tasks_user_id_due_key", "tasks", ["user_id", "due_key", "id"])
    op.create_table(
        "task_counters",
        *_owner("task_counters"),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_task_counters"),
    )
    op.create_table(
        "changes",
        *_owner("changes"),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("type", _text(16), nullable=False),
        sa.Column("task_id", _text(36), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("session_id", _text(36)),
        sa.Column("task", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "position", name="pk_changes"),
    )
    op.create_index("ix_changes_task_id", "changes", ["task_id"])


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        *_owner("idempotency_keys"),
        sa.Column("key", _text(255), nullable=False),
        sa.Column("request_hash", _text(43), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("headers", sa.Text()),
        sa.Column("body", sa.Text()),
        sa.PrimaryKeyConstraint("user_id", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def downgrade() -> None:
    """Remove everything."""
    feed_0001.drop(op.get_context().dialect.name)
    for table in (
        "idempotency_keys",
        "changes",
        "task_counters",
        "tasks",
        "blacklisted_tokens",
        "refresh_tokens",
        "sessions",
        "users",
    ):
        op.drop_table(table)
