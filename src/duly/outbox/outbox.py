"""Promising a message inside a transaction, and looking at what became of the promises."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from duly.db.unit import Reader, Unit
from duly.errors import NotFound
from duly.kit.ciphers import FieldCipher
from duly.kit.clock import now
from duly.kit.ids import new_id
from duly.kit.logs import request_id_var
from duly.kit.secrets import keyed_hash
from duly.outbox import queries

MOST_PER_HOUR = 3
STATES = ("waiting", "sent", "dropped", "dead")


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message without what is in it."""

    id: str
    kind: str
    state: str
    attempts: int
    created_at: datetime
    due_at: datetime
    finished_at: datetime | None
    last_error: str | None


class Outbox:
    """Messages are rows of the transaction that promises them; the relay delivers them after its commit.

    A payload is encrypted. It holds the id of the request that promised it, and no token: those are made at delivery.
    """

    def __init__(self, cipher: FieldCipher, key: bytes) -> None:
        self._cipher = cipher
        self._key = key
        self.on_new: Callable[[], None] = lambda: None
        """Called after a commit that added a message."""

    async def add(self, unit: Unit, kind: str, recipient: str, *, limited: bool = True, **payload: Any) -> None:
        """Promise a message to `recipient`, an address in its stored spelling.

        A fourth of its kind within an hour is left out in silence when `limited`: nobody's box is to be flooded.
        """
        moment = now()
        recipient_key = keyed_hash(self._key, recipient)
        if limited:
            # Many who ask at once take turns here: each counts those before it.
            await unit.begin()
            await unit.fetch(queries.HOLD_NAME, held=f"{kind}:{recipient_key}")
            recent = await unit.first(
                queries.COUNT_RECENT, recipient_key=recipient_key, kind=kind, since=moment - timedelta(hours=1)
            )
            if recent is not None and recent[0] >= MOST_PER_HOUR:
                return
        message_id = new_id()
        await unit.fetch(
            queries.INSERT_MESSAGE,
            id=message_id,
            kind=kind,
            recipient_key=recipient_key,
            payload=self.seal(
                message_id, {"recipient": recipient, "request_id": request_id_var.get() or None, **payload}
            ),
            state="waiting",
            attempts=0,
            created_at=moment,
            due_at=moment,
        )
        unit.after_commit(self.on_new)

    async def withdraw(self, unit: Unit, kind: str, recipient: str) -> None:
        """Drop what waits for this address: it was asked for before something that made it void."""
        await unit.fetch(queries.WITHDRAW, recipient_key=keyed_hash(self._key, recipient), kind=kind, now=now())

    def seal(self, message_id: str, payload: dict[str, Any]) -> str:
        """Encrypt a payload for its row."""
        return self._cipher.seal(json.dumps(payload), place=f"outbox:{message_id}")

    def open(self, message_id: str, sealed: str) -> dict[str, Any]:
        """The payload in clear. Raises `WrongKey`."""
        payload: dict[str, Any] = json.loads(self._cipher.open(sealed, place=f"outbox:{message_id}"))
        return payload

    def is_current(self, sealed: str) -> bool:
        """Whether a payload is under the key that encrypts now."""
        return self._cipher.is_current(sealed)


async def list_messages(reader: Reader, state: str, *, limit: int, offset: int) -> tuple[Sequence[StoredMessage], int]:
    """Messages in one state, newest first, and how many there are."""
    rows = await reader.fetch(queries.LIST_MESSAGES, state=state, limit=limit, offset=offset)
    total = await reader.first(queries.COUNT_STATE, state=state)
    return [StoredMessage(*row) for row in rows], total[0] if total else 0


async def retry_message(unit: Unit, message_id: str) -> None:
    """Make a dead or waiting message due now. Raises `NotFound`."""
    if await unit.first(queries.REVIVE, message_id=message_id, now=now()) is None:
        raise NotFound("There is no dead or waiting message with this id.")
