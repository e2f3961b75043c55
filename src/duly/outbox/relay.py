"""Delivers what was promised: leased, with growing pauses, until it is sent or given up for all to see."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from duly.db.statements import Row
from duly.db.unit import Database
from duly.errors import DulyError, Kind
from duly.kit.ciphers import WrongKey
from duly.kit.clock import now
from duly.kit.logs import request_id_var
from duly.kit.steps import GRACE_SECONDS
from duly.outbox import queries
from duly.outbox.outbox import Outbox

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
LEASE = timedelta(seconds=90)
SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
# Beyond every pause and lease, even by a clock of another server that is a little off.
FARTHEST = timedelta(hours=1)
GIVEN_UP_AFTER = timedelta(hours=72)
LEAST_ATTEMPTS = 20
KEPT = timedelta(days=7)
AT_ONCE = 10


class Undeliverable(Exception):
    """Trying again will not help; the text says why, and holds no secret."""


class DeliveryFailed(Exception):
    """It may work later; the text says what happened, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Message:
    """One promise as it is kept. The same id comes with every attempt; the first is 1."""

    id: str
    kind: str
    payload: dict[str, Any]
    created_at: datetime
    attempt: int


Deliver = Callable[[Message], Awaitable[bool]]
"""True when it was sent, False when there is nobody to send it to. Raises `Undeliverable` or `DeliveryFailed`."""


class Relay:
    """Any number of relays may run, in any number of processes: a lease makes each message one relay's at a time.

    Delivery is at least once: a relay that dies between sending and noting it sends again.
    """

    def __init__(self, database: Database, outbox: Outbox, deliver: Deliver) -> None:
        self._database = database
        self._outbox = outbox
        self._deliver = deliver
        self._wake = asyncio.Event()
        outbox.on_new = self._wake.set

    async def run(self) -> None:
        """Deliver until cancelled. What fails here is logged, and the next look comes.

        A message that the mail server keeps waiting takes one of a few places and holds up no other.
        """
        trying: dict[str, asyncio.Task[None]] = {}
        taking: asyncio.Task[int] | None = None
        try:
            while True:
                self._wake.clear()
                taking = asyncio.create_task(self._take(trying))
                if not await asyncio.shield(taking):
                    # Not wait_for: on Python 3.11 it swallows a cancellation that comes together with the wake.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(POLL_SECONDS):
                            await self._wake.wait()
        finally:
            await _end(trying, taking)

    async def _take(self, trying: dict[str, asyncio.Task[None]]) -> int:
        """Lease what is due, as far as there are places, and begin to deliver it; how much it was."""
        begun, places = 0, AT_ONCE - len(trying)
        if not places:
            return 0
        try:
            moment = now()
            due = await self._database.fetch(
                queries.FIND_DUE, now=moment, farthest=moment + FARTHEST, limit=2 * AT_ONCE
            )
            # One that is under way here can be due again: by hand, or because the clock jumped.
            for message_id in [row[0] for row in due if row[0] not in trying][:places]:
                row = await self._lease(message_id)
                if row is not None:
                    trying[message_id] = asyncio.create_task(self._try(message_id, row, trying))
                    begun += 1
        except DulyError:
            return 0  # the database is down; the requests report it
        except Exception:
            log.exception("The relay of the outbox failed, and goes on")
            return 0
        return begun

    async def _lease(self, message_id: str) -> Row | None:
        moment = now()
        async with self._database.unit() as unit:
            return await unit.first(
                queries.LEASE, message_id=message_id, now=moment, farthest=moment + FARTHEST, until=moment + LEASE
            )

    async def _try(self, message_id: str, row: Row, trying: dict[str, asyncio.Task[None]]) -> None:
        try:
            await self._deliver_leased(message_id, row)
        except DulyError:
            pass  # the database is down; the requests report it, and the lease ends by itself
        except Exception:
            log.exception("The relay of the outbox failed, and goes on")
        finally:
            del trying[message_id]
            self._wake.set()

    async def _deliver_leased(self, message_id: str, row: Row) -> None:
        kind, sealed, attempts, created_at = row
        try:
            payload = self._outbox.open(message_id, sealed)
            # This task is one message's alone: what is logged from here on is of the request that asked for it.
            request_id_var.set(payload.get("request_id") or "")
            sent = await self._deliver(Message(message_id, kind, payload, created_at, attempts))
        except (DeliveryFailed, WrongKey) as error:  # another server may have the key already, or get it
            await self._put_off(message_id, kind, attempts, created_at, str(error))
        except Undeliverable as error:
            await self._finish(message_id, "dead", str(error))
            log.error("A message of kind %s is given up: %s; see 'duly mail list'", kind, error)
        except Exception as error:
            if isinstance(error, DulyError) and error.kind is Kind.UNAVAILABLE:
                raise  # the database is down; the lease ends by itself
            log.exception("A message of kind %s cannot be made", kind)
            await self._put_off(message_id, kind, attempts, created_at, type(error).__name__)
        else:
            await self._finish(message_id, "sent" if sent else "dropped", None)

    async def _put_off(self, message_id: str, kind: str, attempts: int, created_at: datetime, reason: str) -> None:
        # One that was taken up again by hand is old, and gets its attempts all the same.
        if now() - created_at > GIVEN_UP_AFTER and attempts > LEAST_ATTEMPTS:
            await self._finish(message_id, "dead", reason)
            log.error("A message of kind %s is given up after %s attempts: %s; see 'duly mail list'", kind, attempts,
                      reason)  # fmt: skip
            return
        pause = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(attempts - 1, 20))
        pause *= random.uniform(0.8, 1.2)  # noqa: S311 - spreads the attempts, keeps no secret
        log.warning(
            "A message of kind %s was not delivered (attempt %s): %s; next try in %.0f s", kind, attempts, reason, pause
        )
        async with self._database.unit() as unit:
            await unit.fetch(
                queries.PUT_OFF,
                message_id=message_id,
                until=now() + timedelta(seconds=pause),
                last_error=reason[:300],
            )

    async def _finish(self, message_id: str, state: str, reason: str | None) -> None:
        async with self._database.unit() as unit:
            await unit.fetch(
                queries.FINISH,
                message_id=message_id,
                new_state=state,
                now=now(),
                last_error=reason[:300] if reason else None,
                keeps=int(state == "dead"),
            )


async def _end(trying: dict[str, asyncio.Task[None]], taking: asyncio.Task[int] | None) -> None:
    """Give what is under way a moment; what is broken off then is tried again when its lease is over."""
    if taking is not None and not taking.done():
        await asyncio.wait({taking}, timeout=GRACE_SECONDS / 2)
        taking.cancel()
    running: set[asyncio.Task[Any]] = {*trying.values()}
    if running:
        await asyncio.wait(running, timeout=GRACE_SECONDS / 2)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, *([taking] if taking else []), return_exceptions=True)


async def forget_delivered(database: Database) -> int:
    """Remove what was delivered more than a week ago; how many messages."""
    async with database.unit() as unit:
        return len(await unit.fetch(queries.DELETE_FINISHED, before=now() - KEPT))
