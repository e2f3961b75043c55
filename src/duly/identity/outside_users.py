"""The user row of an outside issuer's subject: made at the first valid token, never linked by e-mail."""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from duly.audit.events import NOWHERE, Actor, Event, Origin
from duly.audit.log import AuditLog
from duly.db.statements import Row
from duly.db.unit import Database
from duly.errors import Unauthenticated
from duly.identity import queries
from duly.identity.issuers import OutsideClaims
from duly.identity.principals import Principal
from duly.kit.clock import now
from duly.kit.ids import new_id

KNOWN_LIMIT = 10_000
FRESH_SECONDS = 1.0
# Words that stand where an address may have a user's id: a subject like these gets an id of its own.
NO_USER_IDS = frozenset({"v1", "auth", "users", "admins", "password", "tasks"})


@dataclass(slots=True)
class _Known:
    user_id: str
    is_active: bool
    checked: float


class OutsideUsers:
    """Which user an issuer's subject is.

    What is remembered is asked again after a second, so that a deactivated user is refused within one.
    """

    def __init__(self, database: Database, audit: AuditLog, most: int = KNOWN_LIMIT) -> None:
        self._database = database
        self._audit = audit
        self._most = most
        self._by_user: OrderedDict[str, _Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_user)

    async def find_or_add(self, claims: OutsideClaims, *, origin: Callable[[], Origin] = lambda: NOWHERE) -> str:
        """The user's id: the subject itself where no other user has it. Raises `Unauthenticated` when deactivated."""
        asked = time.monotonic()
        row = await self._database.first(queries.FIND_OUTSIDE_USER, issuer=claims.issuer, subject=claims.subject)
        user_id, is_active = row or await self._add(claims, origin())
        self._remember(_Known(user_id, bool(is_active), asked))
        if not is_active:
            raise _inactive()
        return str(user_id)

    def is_known_active(self, principal: Principal) -> bool:
        """Whether this was found within the last second; False sends to `check`."""
        known = self._by_user.get(principal.user_id)
        return known is not None and known.is_active and time.monotonic() - known.checked <= FRESH_SECONDS

    def is_known_inactive(self, user_id: str) -> bool:
        """Whether the user was found deactivated or deleted when last asked for."""
        known = self._by_user.get(user_id)
        return known is not None and not known.is_active

    async def refresh(self, user_ids: Collection[str]) -> None:
        """Find out anew about all of these at once. Raises `Unavailable`."""
        asked = time.monotonic()
        rows = await self._database.fetch(queries.FIND_ACTIVE_USERS, user_ids=list(user_ids))
        active = {row[0] for row in rows}
        for user_id in user_ids:
            self._remember(_Known(user_id, user_id in active, asked))

    async def check(self, principal: Principal, *, since: float | None = None) -> None:
        """Raises `Unauthenticated` when the user was deactivated or deleted.

        The answer is at most a second old, or, with `since`, no older than that moment of `time.monotonic`.
        """
        known = self._by_user.get(principal.user_id)
        if known is None or known.checked < (time.monotonic() - FRESH_SECONDS if since is None else since):
            # What is known is as old as the question, not as the answer.
            asked = time.monotonic()
            row = await self._database.first(queries.FIND_USER, user_id=principal.user_id)
            known = _Known(principal.user_id, row is not None and bool(row[5]), asked)
            self._remember(known)
        if not known.is_active:
            raise _inactive()

    async def _add(self, claims: OutsideClaims, origin: Origin) -> Row:
        moment = now()
        key = {"issuer": claims.issuer, "subject": claims.subject}
        values = {**key, "name": claims.name, "created_at": moment, "updated_at": moment}
        found: Sequence[Row] = ()
        added: Row | None = None
        async with self._database.unit() as unit:
            for user_id in _ids_for(claims.subject):
                added = await unit.first(queries.INSERT_OUTSIDE_USER, id=user_id, **values)
                # Nothing was added when another request was first, or when the subject is somebody else's id: then
                # this user gets an id of its own.
                found = await unit.fetch(queries.FIND_OUTSIDE_USER, **key)
                if found:
                    break
            if added is not None:
                await self._audit.record(
                    unit, Event.OUTSIDE_USER_FIRST_SEEN, origin=origin, actor=Actor(added[0], claims.name),
                    target=("user", added[0]),
                )  # fmt: skip
        return found[0]

    def _remember(self, known: _Known) -> None:
        self._by_user[known.user_id] = known
        self._by_user.move_to_end(known.user_id)
        if len(self._by_user) > self._most:
            self._by_user.popitem(last=False)


def _ids_for(subject: str) -> tuple[str, ...]:
    return (new_id(),) if subject in NO_USER_IDS else (subject, new_id())


def _inactive() -> Unauthenticated:
    return Unauthenticated("This account is deactivated. Ask an administrator.", code="ACCOUNT_INACTIVE")
