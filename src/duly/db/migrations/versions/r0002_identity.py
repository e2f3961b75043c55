"""Recovery, lockout, audit and outbox; a session's address and agent become one encrypted column."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INSTANT = sa.String(27).with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Addresses and agents of sessions that are open are dropped: no key is at hand here to encrypt them with."""
    op.drop_column("sessions", "ip_address")
    op.drop_column("sessions", "user_agent")
    op.add_column("sessions", sa.Column("origin", sa.Text()))
    op.create_index("ix_users_created_at_id", "users", ["created_at", "id"])
    _create_one_time_tokens()
    _create_audit_log()
    op.create_table(
        "login_failures",
        sa.Column("name_key", _text(43), nullable=False),
        sa.Column("network_key", _text(43), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("window_started_at", INSTANT, nullable=False),
        sa.Column("locked_until", INSTANT),
        sa.PrimaryKeyConstraint("name_key", "network_key", name="pk_login_failures"),
    )
    op.create_index("ix_login_failures_window_started_at", "login_failures", ["window_started_at"])
    op.create_table(
        "outbox",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("kind", _text(32), nullable=False),
        sa.Column("recipient_key", _text(43), nullable=False),
        sa.Column("payload", sa.Text()),
        sa.Column("state", _text(8), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("due_at", INSTANT, nullable=False),
        sa.Column("finished_at", INSTANT),
        sa.Column("last_error", _text(300)),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.CheckConstraint("state IN ('waiting', 'sent', 'dropped', 'dead')", name=op.f("ck_outbox_state")),
    )
    op.create_index("ix_outbox_state_due_at", "outbox", ["state", "due_at"])
    op.create_index("ix_outbox_recipient_key_kind_created_at", "outbox", ["recipient_key", "kind", "created_at"])
    op.create_table(
        "field_keys",
        sa.Column("id", _text(16), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_field_keys"),
    )


def _create_one_time_tokens() -> None:
    op.create_table(
        "one_time_tokens",
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("hash", _text(43), nullable=False),
        sa.Column("purpose", _text(24), nullable=False),
        sa.Column("user_id", _text(255), nullable=False),
        sa.Column("email", _text(254)),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("used_at", INSTANT),
        sa.PrimaryKeyConstraint("hash", name="pk_one_time_tokens"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_one_time_tokens_user_id_users", ondelete="CASCADE"),
    )
    op.create_index("ix_one_time_tokens_user_id_purpose", "one_time_tokens", ["user_id", "purpose"])
    op.create_index("ix_one_time_tokens_expires_at", "one_time_tokens", ["expires_at"])


def _create_audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", _text(36), nullable=False),
        sa.Column("position", sa.BigInteger()),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("event", _text(40), nullable=False),
        sa.Column("outcome", _text(8), nullable=False),
        sa.Column("actor_id", _text(255)),
        sa.Column("actor_name", _text(254)),
        sa.Column("target_type", _text(16)),
        sa.Column("target_id", _text(255)),
        sa.Column("origin", sa.Text()),
        sa.Column("request_id", _text(36)),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("mac", _text(43), nullable=False),
        sa.Column("hash", _text(64)),
        sa.Column("previous_hash", _text(64)),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
        sa.UniqueConstraint("position", name="uq_audit_log_position"),
    )
    op.create_index("ix_audit_log_at_id", "audit_log", ["at", "id"])
    op.create_index("ix_audit_log_actor_id_id", "audit_log", ["actor_id", "id"])
    op.create_index("ix_audit_log_target_id_id", "audit_log", ["target_id", "id"])
    op.create_index("ix_audit_log_event_id", "audit_log", ["event", "id"])
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("hash", _text(64), nullable=False),
        sa.Column("start_position", sa.BigInteger(), nullable=False),
        sa.Column("start_hash", _text(64), nullable=False),
        sa.Column("mac", _text(43), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )


def downgrade() -> None:
    """Remove what `upgrade` made; what is in it is lost."""
    for table in ("field_keys", "outbox", "login_failures", "audit_head", "audit_log", "one_time_tokens"):
        op.drop_table(table)
    op.drop_index("ix_users_created_at_id", "users")
    op.drop_column("sessions", "origin")
    op.add_column("sessions", sa.Column("user_agent", _text(512)))
    op.add_column("sessions", sa.Column("ip_address", _text(64)))
