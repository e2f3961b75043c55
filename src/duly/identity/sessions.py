"""Logging in, refreshing with rotation, and ending sessions."""

import hmac
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from duly.db.unit import Reader, Unit
from duly.errors import NotFound, Unauthenticated
from duly.identity import queries
from duly.identity.accounts import Account, find_credentials
from duly.identity.revocations import Revocations
from duly.kit.clock import now
from duly.kit.ids import new_id
from duly.kit.jwt import CLOCK_SKEW, AccessTokens
from duly.kit.passwords import PasswordHasher
from duly.kit.secrets import derive_key, encode_bytes, keyed_hash, new_token

# How long the token just replaced still brings its successor: a lost answer must not log anybody out.
FORGIVENESS = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Device:
    """Where a login comes from, as the request shows it; each part is cut to its column."""

    ip_address: str | None
    user_agent: str | None
    name: str | None


@dataclass(frozen=True, slots=True)
class TokenPair:
    """An access token and the refresh token that renews it; `expires_in` is the access token's life in seconds."""

    access_token: str
    refresh_token: str
    expires_in: int


@dataclass(frozen=True, slots=True)
class LiveSession:
    """One of the caller's sessions."""

    id: str
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    ip_address: str | None
    user_agent: str | None
    device: str | None


class SessionKeeper:
    """Makes, renews and ends sessions.

    A refresh token's successor is derived from it with a key that only the server has: the database holds keyed hashes
    alone, and yet every use of the token just replaced can be answered with the same successor.
    """

    def __init__(
        self,
        *,
        secret: str,
        access: AccessTokens,
        access_seconds: int,
        refresh_life: timedelta,
        longest: timedelta,
        revocations: Revocations,
    ) -> None:
        self._hash_key = derive_key(secret, "refresh-token-hash")
        self._child_key = derive_key(secret, "refresh-token-child")
        self._access = access
        self._access_seconds = access_seconds
        self._refresh_life = refresh_life
        self._longest = longest
        self._revocations = revocations

    async def open(self, unit: Unit, user_id: str, *, device: Device) -> TokenPair:
        """A new session and its first pair of tokens."""
        moment = now()
        session_id, refresh_token = new_id(), new_token()
        await unit.fetch(
            queries.INSERT_SESSION,
            id=session_id,
            user_id=user_id,
            created_at=moment,
            updated_at=moment,
            last_used_at=moment,
            expires_at=moment + self._longest,
            ip_address=device.ip_address,
            user_agent=device.user_agent,
            device=device.name,
        )
        await self._store(unit, refresh_token, session_id, moment, moment + self._longest)
        return self._pair(refresh_token, session_id, user_id, moment, moment + self._longest)

    async def rotate(self, unit: Unit, presented: str) -> TokenPair:
        """Replace a refresh token by its successor (RFC 9700 §4.14.2).

        The token just replaced brings the same successor for ten seconds; anything older ends its session and raises
        `Unauthenticated` (`TOKEN_REUSED`) with the ending kept. Raises `Unauthenticated` for every other bad token.
        """
        moment = now()
        hashed = keyed_hash(self._hash_key, presented)
        won = await unit.first(queries.REPLACE_REFRESH_TOKEN, presented=hashed, now=moment)
        if won is None:
            return await self._forgive_or_refuse(unit, presented, hashed, moment)
        session_id: str = won[0]
        session = await unit.first(queries.TOUCH_SESSION, session_id=session_id, now=moment)
        if session is None:
            raise _ended()
        user_id, session_end = session
        child = self._child(presented)
        await self._store(unit, child, session_id, moment, session_end)
        return self._pair(child, session_id, user_id, moment, session_end)

    async def end(self, unit: Unit, user_id: str, session_id: str, *, reason: str) -> None:
        """End one session; its tokens fail at once. Raises `NotFound` for another user's or an ended one."""
        ended = await unit.first(queries.END_SESSION, session_id=session_id, user_id=user_id, now=now(), reason=reason)
        if ended is None:
            raise NotFound("There is no such session.")
        await self._blacklist(unit, user_id, [session_id])

    async def end_all(self, unit: Unit, user_id: str, *, reason: str) -> int:
        """End every session of a user; how many there were."""
        rows = await unit.fetch(queries.END_ALL_SESSIONS, user_id=user_id, now=now(), reason=reason)
        await self._blacklist(unit, user_id, [row[0] for row in rows])
        return len(rows)

    async def _forgive_or_refuse(self, unit: Unit, presented: str, hashed: str, moment: datetime) -> TokenPair:
        row = await unit.first(queries.FIND_REFRESH_TOKEN, hash=hashed)
        if row is None:
            raise Unauthenticated("This refresh token is not valid. Sign in again.", code="INVALID_REFRESH_TOKEN")
        session_id, _, _, replaced_at, user_id, ended_at, session_end, is_active = row
        if ended_at is not None or session_end <= moment or not is_active:
            raise _ended()
        if replaced_at is None:
            raise Unauthenticated("This refresh token has expired. Sign in again.", code="REFRESH_TOKEN_EXPIRED")
        child = self._child(presented)
        successor = await unit.first(queries.FIND_REFRESH_TOKEN, hash=keyed_hash(self._hash_key, child))
        if successor is not None and successor[3] is None and moment - replaced_at <= FORGIVENESS:
            return self._pair(child, session_id, user_id, successor[1], session_end)
        await self._end_family(unit, user_id, session_id)
        raise Unauthenticated(
            "This refresh token was used before, so its session was ended. Sign in again.",
            code="TOKEN_REUSED",
            keeps_writes=True,
        )

    async def _end_family(self, unit: Unit, user_id: str, session_id: str) -> None:
        await unit.fetch(queries.END_SESSION, session_id=session_id, user_id=user_id, now=now(), reason="token_reused")
        await self._blacklist(unit, user_id, [session_id])

    async def _store(self, unit: Unit, token: str, session_id: str, moment: datetime, session_end: datetime) -> None:
        await unit.fetch(
            queries.INSERT_REFRESH_TOKEN,
            hash=keyed_hash(self._hash_key, token),
            session_id=session_id,
            created_at=moment,
            updated_at=moment,
            expires_at=min(moment + self._refresh_life, session_end),
        )

    async def _blacklist(self, unit: Unit, user_id: str, session_ids: list[str]) -> None:
        moment = now()
        # A server whose clock is ahead may have signed a token that outlives ours by as much as is forgiven.
        expires_at = moment + timedelta(seconds=self._access_seconds) + CLOCK_SKEW
        for session_id in session_ids:
            await unit.fetch(
                queries.BLACKLIST_SESSION,
                session_id=session_id,
                user_id=user_id,
                created_at=moment,
                updated_at=moment,
                expires_at=expires_at,
            )
        unit.after_commit(lambda: self._take_effect(session_ids, expires_at.timestamp()))

    def _take_effect(self, session_ids: list[str], expires_at: float) -> None:
        for session_id in session_ids:
            self._revocations.add(session_id, expires_at)

    def _child(self, parent: str) -> str:
        return encode_bytes(hmac.digest(self._child_key, parent.encode(), sha256))

    def _pair(
        self, refresh_token: str, session_id: str, user_id: str, issued_at: datetime, session_end: datetime
    ) -> TokenPair:
        # Every claim follows from the refresh token and its moment: who asks twice gets the same pair twice.
        digest = hmac.digest(self._child_key, b"jti" + refresh_token.encode(), sha256)
        token_id = str(uuid.UUID(bytes=digest[:16], version=4))
        access = self._access.issue(
            user_id=user_id, session_id=session_id, token_id=token_id, issued_at=issued_at, latest=session_end
        )
        left = int((session_end - issued_at).total_seconds())
        return TokenPair(access, refresh_token, min(self._access_seconds, left))


def _ended() -> Unauthenticated:
    return Unauthenticated("This session has ended. Sign in again.", code="SESSION_ENDED")


async def check_credentials(unit: Unit, hasher: PasswordHasher, identifier: str, password: str) -> Account:
    """The account that the password opens; an unknown name costs the time of a known one.

    Raises `Unauthenticated` (`INVALID_CREDENTIALS`), alike for an unknown name, a wrong password and a deactivated
    account. A hash of an older kind is replaced by the way.
    """
    stored, account = await find_credentials(unit, identifier)
    verdict = await hasher.verify(password, stored)
    if account is None or stored is None or not verdict.ok or not account.is_active:
        raise Unauthenticated(
            "The name or the password is wrong. Check both, or reset the password.",
            code="INVALID_CREDENTIALS",
            challenge=False,
        )
    if verdict.replacement is not None:
        await unit.fetch(queries.REPLACE_HASH, user_id=account.id, old_hash=stored, new_hash=verdict.replacement)
    return account


async def list_sessions(reader: Reader, user_id: str, *, limit: int, offset: int) -> tuple[list[LiveSession], int]:
    """The caller's live sessions, newest first, and how many there are."""
    moment = now()
    rows = await reader.fetch(queries.LIVE_SESSIONS, user_id=user_id, now=moment, limit=limit, offset=offset)
    total = await reader.first(queries.COUNT_LIVE_SESSIONS, user_id=user_id, now=moment)
    return [LiveSession(*row) for row in rows], total[0] if total else 0
