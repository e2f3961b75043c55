"""From the Authorization header to the caller, or a refusal."""

import time
from collections.abc import Collection
from typing import Any

from starlette.requests import Request

from duly.audit.log import AuditLog
from duly.db.unit import Database
from duly.errors import Unauthenticated
from duly.identity.issuers import TrustedIssuers
from duly.identity.outside_users import OutsideUsers
from duly.identity.principals import Principal
from duly.identity.revocations import Revocations
from duly.kit.jwt import AccessTokens, VerifiedTokens, unverified_issuer
from duly.web.devices import origin_of

MAX_TOKEN_LENGTH = 8192
# An outside issuer ends a token by withdrawing its key, so what was verified is not remembered for long.
OUTSIDE_SECONDS = 60.0


class Guard:
    """Verifies bearer tokens (RFC 6750) of this server and of trusted issuers.

    A token's signature is checked once and remembered until it expires, an outside issuer's for `outside_seconds` at
    most; whether its session still lives is asked for each request.
    """

    def __init__(
        self,
        *,
        database: Database,
        access: AccessTokens | None,
        issuer: str,
        outside: TrustedIssuers | None,
        audit: AuditLog,
        revocations: Revocations,
        outside_seconds: float = OUTSIDE_SECONDS,
    ) -> None:
        self._database = database
        self._access = access
        self._issuer = issuer
        self._outside = outside
        self._outside_users = OutsideUsers(database, audit)
        self._revocations = revocations
        self._outside_seconds = outside_seconds
        self._verified: VerifiedTokens[Principal] = VerifiedTokens()

    def recall(self, header: bytes | None, scope: Any) -> Principal | None:
        """The caller of a token that was verified before and needs no waiting; None sends to `authenticate`."""
        if header is None or header[:7] != b"Bearer ":
            return None
        principal = self._verified.get(header[7:].decode("latin-1"), time.time())
        if principal is None:
            return None
        if principal.session_id is None:
            if principal.rights is not None and not principal.rights.allow(scope["method"]):
                return None
            return principal if self._outside_users.is_known_active(principal) else None
        if not self._revocations.is_fresh():
            return None
        return None if self._revocations.is_ended(principal.session_id) else principal

    async def authenticate(self, scope: Any) -> Principal:
        """The caller, whose token was given what this request needs. Raises as `identify`, and `Forbidden`."""
        principal = await self.identify(scope)
        if principal.rights is not None:
            principal.rights.check(scope["method"])
        return principal

    async def identify(self, scope: Any) -> Principal:
        """The caller, whatever the request wants to do.

        Raises `Unauthenticated` for anything but a live token, `Unavailable` when that cannot be known.
        """
        token = _bearer(authorization_header(scope))
        principal = self._verified.get(token, time.time())
        if principal is None:
            generation = self._verified.generation
            principal = await self._verify(token, scope)
            self._verified.put(
                token,
                principal,
                session_id=principal.session_id or "",
                expires_epoch=self._remember_until(principal),
                generation=generation,
            )
        if principal.session_id is None:
            await self._outside_users.check(principal)
            return principal
        if not self._revocations.is_fresh():
            await self._revocations.confirm(self._database)
        if self._revocations.is_ended(principal.session_id):
            raise _ended()
        return principal

    def fault_of(self, principal: Principal) -> Unauthenticated | None:
        """What this process knows against a caller who was let in before; it asks nobody, and may be a second old."""
        if principal.expires_at <= time.time():
            return Unauthenticated("The token has expired. Sign in again.", code="TOKEN_EXPIRED")
        if principal.session_id is None:
            return _deactivated() if self._outside_users.is_known_inactive(principal.user_id) else None
        return _ended() if self._revocations.is_ended(principal.session_id) else None

    async def recheck(self, principal: Principal, *, since: float) -> None:
        """Raises `Unauthenticated` unless the caller was allowed in at `since` (`time.monotonic`) or later.

        Raises `Unavailable` when that cannot be known.
        """
        if principal.session_id is None:
            await self._outside_users.check(principal, since=since)
        else:
            await self._revocations.confirm(self._database, since=since)
        fault = self.fault_of(principal)
        if fault is not None:
            raise fault

    async def refresh_outside(self, user_ids: Collection[str]) -> None:
        """Ask for outside issuers' users together, so that `fault_of` knows. Raises `Unavailable`."""
        await self._outside_users.refresh(user_ids)

    def _remember_until(self, principal: Principal) -> float:
        if principal.session_id is not None:
            return principal.expires_at
        return min(principal.expires_at, time.time() + self._outside_seconds)

    async def _verify(self, token: str, scope: Any) -> Principal:
        ours = self._access is not None and (self._outside is None or unverified_issuer(token) == self._issuer)
        if ours and self._access is not None:
            claims = self._access.read(token)
            return Principal(claims.user_id, claims.session_id, None, claims.expires_at.timestamp())
        if self._outside is None:
            raise Unauthenticated("This server trusts no issuer of tokens. Tell the operator.")
        outside = await self._outside.verify(token)
        if outside.rights is not None and not outside.rights.allow("GET"):
            outside.rights.check(scope["method"])  # before a user is added: the token was not meant for this server
        user_id = await self._outside_users.find_or_add(outside, origin=lambda: origin_of(Request(scope)))
        return Principal(user_id, None, outside.subject, outside.expires_at, outside.rights)


def _ended() -> Unauthenticated:
    return Unauthenticated("This session has ended. Sign in again.", code="SESSION_ENDED")


def _deactivated() -> Unauthenticated:
    return Unauthenticated("This account is deactivated. Ask an administrator.", code="ACCOUNT_INACTIVE")


def _bearer(header: bytes | None) -> str:
    if header is None:
        raise Unauthenticated(
            "This needs a token. Send it as 'Authorization: Bearer …'.", code="NOT_AUTHENTICATED", challenge=False
        )
    scheme, _, token = header.decode("latin-1").strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or " " in token:
        raise Unauthenticated("The Authorization header is not 'Bearer' and one token. Send it in that form.")
    if len(token) > MAX_TOKEN_LENGTH:
        raise Unauthenticated("The token is too long to be one. Sign in again.")
    return token


def authorization_header(scope: Any) -> bytes | None:
    """The one Authorization header of a request; two of them are none that can be trusted."""
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(found) > 1:
        raise Unauthenticated("There is more than one Authorization header. Send exactly one.")
    return found[0] if found else None
