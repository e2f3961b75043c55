"""All SQL of registering administrators."""

from sqlalchemy import bindparam, insert

from duly.db.statements import Statement
from duly.identity.recovery_queries import tokens

MARK_REGISTRATION = Statement(
    insert(tokens).values(
        {
            name: bindparam(name)
            for name in ("hash", "purpose", "user_id", "created_at", "updated_at", "used_at", "expires_at")
        }
    )
)
