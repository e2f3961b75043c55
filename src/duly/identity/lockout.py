"""Counting failed logins, and locking a name for a while, whether or not anybody has it."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from duly.audit.events import Origin
from duly.db.unit import Reader, Unit
from duly.errors import Locked
from duly.identity import recovery_queries as queries
from duly.kit.addresses import network_of
from duly.kit.clock import now
from duly.kit.secrets import keyed_hash

LOCK = timedelta(minutes=15)
FROM_ONE_NETWORK = 5
FROM_ANYWHERE = 50
ANYWHERE = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failure led to: whether it just locked the name for its place, and whether for everywhere."""

    locked_here: bool
    locked_everywhere: bool


class Lockout:
    """Five failures from one place within 15 minutes lock the name there for 15 minutes, fifty from anywhere lock it
    everywhere. Both names of an account are one.

    A place is a network (an IPv4 address, an IPv6 /64), or a session that asks for its password again: an owner with a
    live session is not locked out by what others do.
    """  # noqa: D205 - the rule is one sentence

    def __init__(self, key: bytes) -> None:
        self._key = key

    def name_key(self, user_id: str | None, name: str) -> str:
        """What failures are counted under: the account, or the name that nobody has."""
        return keyed_hash(self._key, f"user:{user_id}" if user_id is not None else f"name:{name}")

    def place_of(self, origin: Origin) -> str:
        """The network that a request comes from."""
        return keyed_hash(self._key, f"network:{network_of(origin.ip_address)}")

    def place_of_session(self, session_id: str | None) -> str:
        """A session that is asked for its password again."""
        return keyed_hash(self._key, f"session:{session_id}")

    async def check(self, reader: Reader, name_key: str, place: str, *, everywhere: bool = True) -> None:
        """Raises `Locked` with the seconds that are left; `everywhere=False` asks for this place alone."""
        moment = now()
        anywhere = ANYWHERE if everywhere else place
        row = await reader.first(queries.FIND_LOCK, name_key=name_key, network_key=place, anywhere=anywhere, now=moment)
        if row is not None and row[0] is not None:
            raise locked(row[0] - moment)

    async def fail(self, unit: Unit, name_key: str, place: str, *, everywhere: bool = True) -> Failure:
        """Count one failure, here and, unless told not to, everywhere.

        Raises `Locked` when others locked it while this one was judged: of many guesses at once, those beyond the
        limit must not be told from a right one among them.
        """
        here = await self._count(unit, name_key, place, FROM_ONE_NETWORK)
        anywhere = everywhere and await self._count(unit, name_key, ANYWHERE, FROM_ANYWHERE)
        return Failure(here, anywhere)

    async def _count(self, unit: Unit, name_key: str, place: str, limit: int) -> bool:
        moment = now()
        row = await unit.first(
            queries.RECORD_FAILURE,
            name_key=name_key,
            network_key=place,
            now=moment,
            cutoff=moment - LOCK,
            until=moment + LOCK,
            limit=limit,
        )
        if row is None:
            return False
        if row[0] > limit:
            raise locked(row[1] - moment)
        return bool(row[0] == limit)

    async def forgive(self, unit: Unit, name_key: str, place: str) -> None:
        """After a success: what failed here before counts no more; what failed elsewhere does."""
        await unit.fetch(queries.FORGET_FAILURES, name_key=name_key, network_key=place)

    async def lift(self, unit: Unit, name_key: str) -> bool:
        """End every lock of a name; whether there was one."""
        was_locked = await unit.first(queries.HAS_LOCK, name_key=name_key, now=now()) is not None
        await unit.fetch(queries.FORGET_ALL_FAILURES, name_key=name_key)
        return was_locked

    async def forget_old(self, unit: Unit, before: datetime) -> None:
        """Remove counts whose window began before."""
        await unit.fetch(queries.DELETE_OLD_FAILURES, cutoff=before)


def locked(left: timedelta) -> Locked:
    """The refusal, with the seconds that are left."""
    return Locked(
        "Too many attempts with a wrong password. Wait, or reset the password by mail.",
        code="ACCOUNT_LOCKED",
        retry_after=max(1, math.ceil(left.total_seconds())),
    )
