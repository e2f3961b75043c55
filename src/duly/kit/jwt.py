"""Access tokens as signed JWTs, and a bounded memory of those that were verified."""

import contextlib
import re
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import jwt
import orjson
from jwt.types import Options

from duly.errors import Malformed, Unauthenticated
from duly.kit.strict_json import parse_json

ALGORITHM: Final = "HS256"
MOST_TOKEN_CHARACTERS: Final = 8 * 1024
MOST_REMEMBERED: Final = 10_000

# Servers' clocks differ by a little; a token that another one issued a moment ahead is good.
CLOCK_SKEW: Final = timedelta(seconds=60)
_LAST_SECOND = 253_402_300_799
# Only this spelling: padding or blanks would give one token several texts.
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_STRING_CLAIMS = ("sub", "sid", "jti")
# The times are checked last and here, so that "expired" is said only of a token that is otherwise good.
_OPTIONS: Options = {
    "require": ["exp", "iat", "sub", "sid", "jti", "iss", "aud"],
    "strict_aud": True,
    "verify_exp": False,
    "verify_iat": False,
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What a good access token says; the times are whole seconds in UTC."""

    user_id: str
    session_id: str
    token_id: str
    issued_at: datetime
    expires_at: datetime


class AccessTokens:
    """Issues and reads the tokens of one issuer for one audience, signed HS256 (RFC 7519, RFC 8725).

    What was signed with a `previous` key is still read, so that a new key logs nobody out.
    """

    def __init__(
        self, key: bytes, issuer: str, audience: str, lifetime_seconds: int, *, previous: Sequence[bytes] = ()
    ) -> None:
        if any(len(each) < 32 for each in (key, *previous)):
            raise ValueError("an HS256 key has 32 bytes or more (RFC 7518 §3.2)")
        self._keys = (key, *previous)
        self._issuer = issuer
        self._audience = audience
        self.lifetime_seconds = lifetime_seconds

    def issue(
        self, *, user_id: str, session_id: str, token_id: str, issued_at: datetime, latest: datetime | None = None
    ) -> str:
        """Equal input gives an equal token; `issued_at` must be aware, and counts in whole seconds.

        The token expires after its lifetime, and at `latest` at the latest.
        """
        if issued_at.tzinfo is None:
            raise ValueError("issued_at has no offset")
        start = int(issued_at.timestamp())
        end = start + self.lifetime_seconds
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": user_id,
            "sid": session_id,
            "jti": token_id,
            "iat": start,
            "exp": end if latest is None else min(end, int(latest.timestamp())),
            "typ": "access",
        }
        return jwt.encode(claims, self._keys[0], algorithm=ALGORITHM)

    def read(self, token: str) -> AccessClaims:
        """The claims of a token that is genuine, for us, for access, and not expired.

        Raises `Unauthenticated` and nothing else: code TOKEN_EXPIRED when only the time is over, INVALID_TOKEN for
        every other fault.
        """
        if not _has_form(token):
            raise _invalid()
        try:
            parts = self._decode(token)
            _refuse_names_twice(token)
            claims = self._limit(_claims_of(parts["header"], parts["payload"]))
        except (jwt.PyJWTError, Malformed, ValueError, TypeError, OverflowError, RecursionError):
            raise _invalid() from None
        return _in_time(claims)

    def _decode(self, token: str) -> dict[str, Any]:
        for key in self._keys:
            with contextlib.suppress(jwt.InvalidSignatureError):
                return jwt.decode_complete(
                    token,
                    key,
                    algorithms=[ALGORITHM],
                    audience=self._audience,
                    issuer=self._issuer,
                    options=_OPTIONS,
                )
        raise jwt.InvalidSignatureError

    def _limit(self, claims: AccessClaims) -> AccessClaims:
        # A token from before the lifetime was shortened: the list of ended sessions remembers only the present one.
        latest = claims.issued_at + timedelta(seconds=self.lifetime_seconds)
        return claims if claims.expires_at <= latest else replace(claims, expires_at=latest)


def unverified_issuer(token: str) -> str | None:
    """The `iss` that a token claims, or None; good only for choosing the verifier, which must check it again."""
    if not _has_form(token):
        return None
    payload = token.split(".", 2)[1]
    try:
        claims = orjson.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return None
    issuer = claims.get("iss") if isinstance(claims, dict) else None
    return issuer if isinstance(issuer, str) else None


class VerifiedTokens(Generic[T]):
    """Remembers what verified tokens said, oldest out first, so that the next request need not verify again.

    A revocation must never be outlived: `forget_session` drops the session's tokens, and a check that was under way at
    that moment is not remembered, because `put` compares `generation` with the one read before the check began.
    For one event loop; not safe between threads.
    """

    __slots__ = ("_by_session", "_entries", "_most", "generation")

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._entries: OrderedDict[str, tuple[float, T, str]] = OrderedDict()
        self._by_session: dict[str, set[str]] = {}
        self.generation = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, token: str, now_epoch: float) -> T | None:
        """What was put for this very text, unless its `exp` is reached."""
        entry = self._entries.get(token)
        if entry is None:
            return None
        if entry[0] <= now_epoch:
            self._drop(token)
            return None
        return entry[1]

    def put(self, token: str, value: T, *, session_id: str, expires_epoch: float, generation: int) -> bool:
        """Remember `value` until `expires_epoch`; False, and nothing kept, when a session was forgotten meanwhile."""
        if generation != self.generation:
            return False
        if token in self._entries:
            self._drop(token)
        elif len(self._entries) >= self._most:
            self._drop(next(iter(self._entries)))
        self._entries[token] = (expires_epoch, value, session_id)
        self._by_session.setdefault(session_id, set()).add(token)
        return True

    def forget_session(self, session_id: str) -> None:
        """Drop every token of a session, and refuse what was being checked when this was called."""
        self.generation += 1
        for token in self._by_session.pop(session_id, ()):
            del self._entries[token]

    def clear(self) -> None:
        """Drop everything, as after a lost connection to whoever announces revocations."""
        self.generation += 1
        self._entries.clear()
        self._by_session.clear()

    def _drop(self, token: str) -> None:
        session_id = self._entries.pop(token)[2]
        tokens = self._by_session[session_id]
        tokens.discard(token)
        if not tokens:
            del self._by_session[session_id]


def _has_form(token: str) -> bool:
    return len(token) <= MOST_TOKEN_CHARACTERS and _FORM.fullmatch(token) is not None


def _refuse_names_twice(token: str) -> None:
    # Readers differ in which of the two they take (RFC 7519 §4).
    for part in token.split(".")[:2]:
        parse_json(urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def _claims_of(header: dict[str, Any], claims: dict[str, Any]) -> AccessClaims:
    if header.get("alg") != ALGORITHM or "crit" in header or "b64" in header:
        raise ValueError("header")
    if claims.get("typ") != "access" or any(not _is_name(claims[name]) for name in _STRING_CLAIMS):
        raise ValueError("claims")
    start, end = claims["iat"], claims["exp"]
    if type(start) is not int or type(end) is not int or not 0 <= start <= end <= _LAST_SECOND:
        raise ValueError("times")
    return AccessClaims(
        user_id=claims["sub"],
        session_id=claims["sid"],
        token_id=claims["jti"],
        issued_at=datetime.fromtimestamp(start, UTC),
        expires_at=datetime.fromtimestamp(end, UTC),
    )


def _in_time(claims: AccessClaims) -> AccessClaims:
    now = datetime.now(UTC)
    if claims.issued_at > now + CLOCK_SKEW:
        raise _invalid()
    if claims.expires_at <= now:
        raise Unauthenticated("The access token has expired; refresh it.", code="TOKEN_EXPIRED")
    return claims


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _invalid() -> Unauthenticated:
    return Unauthenticated("The access token is not valid; sign in again.")
