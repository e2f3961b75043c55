"""Opening sessions, refreshing with rotation, and ending sessions."""

import hmac
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from duly.audit.events import Event, Origin
from duly.audit.log import AuditLog
from duly.db.unit import Reader, Unit
from duly.errors import NotFound, Unauthenticated
from duly.identity import queries
from duly.identity.accounts import find_account
from duly.identity.revocations import Revocations
from duly.kit.ciphers import FieldCipher, WrongKey
from duly.kit.clock import now
from duly.kit.ids import new_id
from duly.kit.jwt import CLOCK_SKEW, AccessTokens
from duly.kit.secrets import derive_keys, encode_bytes, keyed_hash, new_token

# How long the token just replaced still brings its successor: a lost answer must not log anybody out.
FORGIVENESS = timedelta(seconds=10)


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


@dataclass(frozen=True, slots=True)
class _RefreshKeys:
    """What refresh tokens are hashed with, and what their successors are derived with."""

    hash: bytes
    child: bytes


class SessionKeeper:
    """Makes, renews and ends sessions.

    A refresh token's successor is derived from it with a key that only the server has: the database holds keyed hashes
    alone, and yet every use of the token just replaced can be answered with the same successor. Tokens that were made
    under an older secret are found and continued under the newest.
    """

    def __init__(
        self,
        *,
        secrets: Sequence[str],
        access: AccessTokens,
        access_seconds: int,
        refresh_life: timedelta,
        longest: timedelta,
        revocations: Revocations,
        audit: AuditLog,
        cipher: FieldCipher,
    ) -> None:
        hash_keys, child_keys = derive_keys(secrets, "refresh-token-hash"), derive_keys(secrets, "refresh-token-child")
        self._keys = [_RefreshKeys(*pair) for pair in zip(hash_keys, child_keys, strict=True)]
        self._audit = audit
        self._cipher = cipher
        self._access = access
        self._access_seconds = access_seconds
        self._refresh_life = refresh_life
        self._longest = longest
        self._revocations = revocations

    async def open(self, unit: Unit, user_id: str, *, origin: Origin) -> TokenPair:
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
            origin=self._seal_origin(session_id, origin),
            device=origin.device,
        )
        await self._store(unit, refresh_token, session_id, moment, moment + self._longest)
        return self._pair(refresh_token, session_id, user_id, moment, moment + self._longest)

    async def rotate(self, unit: Unit, presented: str, *, origin: Origin, role: str | None = None) -> TokenPair:
        """Replace a refresh token by its successor (RFC 9700 §4.14.2).

        The token just replaced brings the same successor for ten seconds; anything older ends its session and raises
        `Unauthenticated` (`TOKEN_REUSED`) with the ending kept. Raises `Unauthenticated` for every other bad token, and
        for the token of somebody who has not the `role`; such a token is not spent.
        """
        moment = now()
        for keys in self._keys:
            hashed = keyed_hash(keys.hash, presented)
            won = await unit.first(queries.REPLACE_REFRESH_TOKEN, presented=hashed, now=moment)
            if won is not None:
                return await self._continue(unit, keys, presented, won[0], moment, origin=origin, role=role)
        for keys in self._keys:
            row = await unit.first(queries.FIND_REFRESH_TOKEN, hash=keyed_hash(keys.hash, presented))
            if row is not None:
                return await self._forgive_or_refuse(unit, keys, presented, row, moment, origin=origin, role=role)
        raise _unknown()

    async def _continue(
        self, unit: Unit, keys: _RefreshKeys, presented: str, session_id: str, moment: datetime,
        *, origin: Origin, role: str | None,
    ) -> TokenPair:  # fmt: skip
        session = await unit.first(queries.TOUCH_SESSION, session_id=session_id, now=moment)
        if session is None:
            raise _ended()
        user_id, session_end = session
        account = await find_account(unit, user_id)
        if role is not None and account.role != role:
            raise _unknown()
        child = _derive(keys, presented)
        await self._store(unit, child, session_id, moment, session_end)
        await self._audit.record(
            unit, Event.SESSION_REFRESHED, origin=origin, actor=account.actor, target=("session", session_id)
        )
        return self._pair(child, session_id, user_id, moment, session_end)

    async def end(
        self, unit: Unit, user_id: str, session_id: str, *, reason: str, origin: Origin, event: Event
    ) -> None:
        """End one session; its tokens fail at once. Raises `NotFound` for another user's or an ended one."""
        ended = await unit.first(queries.END_SESSION, session_id=session_id, user_id=user_id, now=now(), reason=reason)
        if ended is None:
            raise NotFound("There is no such session.")
        await self._blacklist(unit, user_id, [session_id])
        actor = (await find_account(unit, user_id)).actor
        await self._audit.record(unit, event, origin=origin, actor=actor, target=("session", session_id))

    async def end_all(self, unit: Unit, user_id: str, *, reason: str, but: str | None = None) -> int:
        """End every session of a user, or every one `but` this; how many there were."""
        if but is None:
            rows = await unit.fetch(queries.END_ALL_SESSIONS, user_id=user_id, now=now(), reason=reason)
        else:
            rows = await unit.fetch(queries.END_OTHER_SESSIONS, user_id=user_id, now=now(), reason=reason, kept_id=but)
        await self._blacklist(unit, user_id, [row[0] for row in rows])
        return len(rows)

    async def _forgive_or_refuse(
        self, unit: Unit, keys: _RefreshKeys, presented: str, row: Sequence[Any], moment: datetime,
        *, origin: Origin, role: str | None,
    ) -> TokenPair:  # fmt: skip
        session_id, _, _, replaced_at, user_id, ended_at, session_end, is_active = row
        if ended_at is not None or session_end <= moment or not is_active:
            raise _ended()
        if replaced_at is None:
            raise Unauthenticated("This refresh token has expired. Sign in again.", code="REFRESH_TOKEN_EXPIRED")
        account = await find_account(unit, user_id)
        if role is not None and account.role != role:
            raise _unknown()
        child = _derive(keys, presented)
        successor = await self._find_successor(unit, child)
        if successor is not None and successor[3] is None and moment - replaced_at <= FORGIVENESS:
            return self._pair(child, session_id, user_id, successor[1], session_end)
        await unit.fetch(queries.END_SESSION, session_id=session_id, user_id=user_id, now=now(), reason="token_reused")
        await self._blacklist(unit, user_id, [session_id])
        await self._audit.record(
            unit, Event.TOKEN_REUSED, origin=origin, actor=account.actor, target=("session", session_id),
            outcome="failure",
        )  # fmt: skip
        raise Unauthenticated(
            "This refresh token was used before, so its session was ended. Sign in again.",
            code="TOKEN_REUSED",
            keeps_writes=True,
        )

    async def _find_successor(self, unit: Unit, child: str) -> Sequence[Any] | None:
        for keys in self._keys:
            row = await unit.first(queries.FIND_REFRESH_TOKEN, hash=keyed_hash(keys.hash, child))
            if row is not None:
                return row
        return None

    async def _store(self, unit: Unit, token: str, session_id: str, moment: datetime, session_end: datetime) -> None:
        await unit.fetch(
            queries.INSERT_REFRESH_TOKEN,
            hash=keyed_hash(self._keys[0].hash, token),
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

    def _pair(
        self, refresh_token: str, session_id: str, user_id: str, issued_at: datetime, session_end: datetime
    ) -> TokenPair:
        # Every claim follows from the refresh token and its moment: who asks twice gets the same pair twice.
        digest = hmac.digest(self._keys[0].child, b"jti" + refresh_token.encode(), sha256)
        token_id = str(uuid.UUID(bytes=digest[:16], version=4))
        access = self._access.issue(
            user_id=user_id, session_id=session_id, token_id=token_id, issued_at=issued_at, latest=session_end
        )
        left = int((session_end - issued_at).total_seconds())
        return TokenPair(access, refresh_token, min(self._access_seconds, left))

    def _seal_origin(self, session_id: str, origin: Origin) -> str | None:
        if origin.ip_address is None and origin.user_agent is None:
            return None
        return self._cipher.seal(json.dumps([origin.ip_address, origin.user_agent]), place=_place(session_id))

    def reseal_origin(self, session_id: str, sealed: str) -> str | None:
        """The same origin under the newest key; None when it is already. Raises `WrongKey`."""
        if self._cipher.is_current(sealed):
            return None
        return self._cipher.seal(self._cipher.open(sealed, place=_place(session_id)), place=_place(session_id))

    async def list_sessions(
        self, reader: Reader, user_id: str, *, limit: int, offset: int
    ) -> tuple[list[LiveSession], int]:
        """The caller's live sessions, newest first, and how many there are."""
        moment = now()
        rows = await reader.fetch(queries.LIVE_SESSIONS, user_id=user_id, now=moment, limit=limit, offset=offset)
        total = await reader.first(queries.COUNT_LIVE_SESSIONS, user_id=user_id, now=moment)
        return [self._read(row) for row in rows], total[0] if total else 0

    def _read(self, row: Sequence[Any]) -> LiveSession:
        session_id, created_at, last_used_at, expires_at, sealed, device = row
        address = agent = None
        if sealed is not None:
            try:
                address, agent = json.loads(self._cipher.open(sealed, place=_place(session_id)))
            except WrongKey as error:
                address = agent = f"({error})"
        return LiveSession(session_id, created_at, last_used_at, expires_at, address, agent, device)


def _place(session_id: str) -> str:
    return f"sessions:{session_id}"


def _derive(keys: _RefreshKeys, parent: str) -> str:
    return encode_bytes(hmac.digest(keys.child, parent.encode(), sha256))


def _unknown() -> Unauthenticated:
    return Unauthenticated("This refresh token is not valid. Sign in again.", code="INVALID_REFRESH_TOKEN")


def _ended() -> Unauthenticated:
    return Unauthenticated("This session has ended. Sign in again.", code="SESSION_ENDED")
