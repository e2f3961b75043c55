"""The user row of an outside issuer's subject: made at the first valid token, never linked by e-mail."""

import time
from collections import OrderedDict
from dataclasses import dataclass

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

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_user: OrderedDict[str, _Known] = OrderedDict()

    async def find_or_add(self, claims: OutsideClaims) -> str:
        """The user's id: the subject itself where no other user has it. Raises `Unauthenticated` when deactivated."""
        row = await self._find(claims)
        if row is None:
            await self._add(claims)
            row = await self._find(claims)
        if row is None:
            raise Unauthenticated("This user could not be set up. Try again.")
        self._remember(_Known(row[0], bool(row[1]), time.monotonic()))
        if not row[1]:
            raise _inactive()
        return str(row[0])

    async def check(self, principal: Principal) -> None:
        """Raises `Unauthenticated` when the user was deactivated or deleted."""
        known = self._by_user.get(principal.user_id)
        if known is None or time.monotonic() - known.checked > FRESH_SECONDS:
            row = await self._database.first(queries.FIND_USER, user_id=principal.user_id)
            known = _Known(principal.user_id, row is not None and bool(row[5]), time.monotonic())
            self._remember(known)
        if not known.is_active:
            raise _inactive()

    async def _find(self, claims: OutsideClaims) -> tuple[str, bool] | None:
        row = await self._database.first(queries.FIND_OUTSIDE_USER, issuer=claims.issuer, subject=claims.subject)
        return None if row is None else (row[0], row[1])

    async def _add(self, claims: OutsideClaims) -> None:
        moment = now()
        values = {"name": claims.name, "issuer": claims.issuer, "subject": claims.subject}
        async with self._database.unit() as unit:
            for user_id in _ids_for(claims.subject):
                # The subject may be somebody else's id already: then this user gets an id of its own.
                added = await unit.first(
                    queries.INSERT_OUTSIDE_USER, id=user_id, created_at=moment, updated_at=moment, **values
                )
                if added is not None or await unit.first(
                    queries.FIND_OUTSIDE_USER, issuer=claims.issuer, subject=claims.subject
                ):
                    return

    def _remember(self, known: _Known) -> None:
        self._by_user[known.user_id] = known
        self._by_user.move_to_end(known.user_id)
        if len(self._by_user) > KNOWN_LIMIT:
            self._by_user.popitem(last=False)


def _ids_for(subject: str) -> tuple[str, ...]:
    return (new_id(),) if subject in NO_USER_IDS else (subject, new_id())


def _inactive() -> Unauthenticated:
    return Unauthenticated("This account is deactivated. Ask an administrator.", code="ACCOUNT_INACTIVE")
