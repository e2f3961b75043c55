"""Tokens that are mailed: good once, for one purpose, for a while, and only the newest."""

import hmac
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Literal

from duly.db.unit import Reader, Unit
from duly.errors import FieldFault, Invalid
from duly.identity import recovery_queries as queries
from duly.kit.clock import now
from duly.kit.secrets import encode_bytes, keyed_hash

Purpose = Literal["reset_password", "verify_email", "confirm_email"]
LIVES: dict[Purpose, timedelta] = {
    "reset_password": timedelta(hours=1),
    "verify_email": timedelta(hours=24),
    "confirm_email": timedelta(hours=24),
}


class OneTimeTokens:
    """The database holds keyed hashes alone. A token follows from its mail's id: each attempt mails the same one."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = tuple(keys)

    async def mint(
        self, unit: Unit, purpose: Purpose, *, user_id: str, message_id: str, email: str | None = None
    ) -> str:
        """The token of one mail. Older ones of this purpose are dead from now on."""
        moment = now()
        token = encode_bytes(hmac.digest(self._keys[0], f"mint:{message_id}".encode(), sha256))
        hashed = keyed_hash(self._keys[0], token)
        # Mails of one user that are made at once take turns, so that each sees the tokens before it.
        await unit.begin()
        await unit.fetch(queries.HOLD_NAME, held=f"{purpose}:{user_id}")
        await unit.fetch(queries.VOID_OTHERS, user_id=user_id, purpose=purpose, hash=hashed)
        await unit.fetch(
            queries.STORE_TOKEN,
            hash=hashed,
            purpose=purpose,
            user_id=user_id,
            email=email,
            created_at=moment,
            updated_at=moment,
            expires_at=moment + LIVES[purpose],
        )
        return token

    async def find(self, reader: Reader, purpose: Purpose, token: str) -> tuple[str, str | None]:
        """Whose token it is, and for which address; it is not used by that. Raises `Invalid` (`BAD_TOKEN`)."""
        for key in self._keys:
            row = await reader.first(queries.FIND_TOKEN, hash=keyed_hash(key, token), purpose=purpose, now=now())
            if row is not None:
                return row[0], row[1]
        raise bad_token()

    async def use(self, unit: Unit, purpose: Purpose, token: str) -> tuple[str, str | None]:
        """The same, and nobody can use it again: of many at once, one succeeds. Raises `Invalid` (`BAD_TOKEN`)."""
        for key in self._keys:
            row = await unit.first(queries.USE_TOKEN, hash=keyed_hash(key, token), purpose=purpose, now=now())
            if row is not None:
                return row[0], row[1]
        raise bad_token()

    async def void(self, unit: Unit, user_id: str) -> None:
        """End every token of a user that is not used yet."""
        await unit.fetch(queries.VOID_TOKENS, user_id=user_id)


def bad_token() -> Invalid:
    """The one refusal for every token that is not good."""
    return Invalid(
        "The token is not valid: it was used, replaced by a newer one, or is too old. Ask for a new mail.",
        code="BAD_TOKEN",
        faults=[FieldFault("token", "Use the token of the newest mail, once.", "bad_token")],
    )
