"""Access tokens of outside issuers, Better Auth first: which issuers are trusted, and what their tokens must prove."""

import json
import logging
import re
import time
import unicodedata
from asyncio import gather
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
from jwt import PyJWK
from jwt.exceptions import ExpiredSignatureError, ImmatureSignatureError, InvalidAudienceError, PyJWTError

from duly.errors import Unauthenticated
from duly.identity.delegation import Rights, rights_in
from duly.identity.issuer_settings import LEAST_SECRET_BYTES, PUBLIC_KEY_ALGORITHMS, IssuerConfig
from duly.identity.jwks import LEAST_RSA_BITS, KeySet, Pauses, secret_key
from duly.kit.secrets import decode_bytes

log = logging.getLogger(__name__)

LONGEST_TOKEN = 8 * 1024
LONGEST_SUBJECT, LONGEST_EMAIL, LONGEST_NAME = 255, 254, 200
LEEWAY_SECONDS = 30
# The end of the year 9999: later moments do not fit into a datetime.
LATEST_TIME = 253_402_300_799
HINT_SECONDS = 60.0

# RFC 7515 §7.1. The library would also take padding, which gives one token several spellings.
_COMPACT_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_TOKEN_TYPES = frozenset({"jwt", "at+jwt"})


@dataclass(frozen=True, slots=True)
class OutsideClaims:
    """What a verified token says. `expires_at` is in Unix seconds and, because of the leeway, may be 30 s past.

    `email_verified` is true only where the token has the JSON value true. `rights` None: all that the user may do.
    """

    issuer: str
    subject: str
    expires_at: float
    email: str | None
    email_verified: bool
    name: str | None
    token_id: str | None
    rights: Rights | None = None


class TrustedIssuers:
    """Verifies tokens against the trusted issuers; holds their public keys. Raises ValueError if two are alike."""

    def __init__(
        self,
        configs: Sequence[IssuerConfig],
        *,
        fetch: httpx.AsyncClient | None = None,
        pauses: Pauses | None = None,
        least_rsa_bits: int = LEAST_RSA_BITS,
    ) -> None:
        self._configs = tuple(configs)
        if len({config.name for config in configs}) < len(configs):
            raise ValueError("two trusted issuers have the same name; remove one of them")
        fetches = any(config.jwks_url for config in configs)
        self._own_client = httpx.AsyncClient() if fetches and fetch is None else None
        client = fetch or self._own_client
        self._key_sets = {
            config.name: KeySet(config.jwks_url, config.algorithms, client, pauses or Pauses(), least_rsa_bits)
            for config in configs
            if config.jwks_url is not None and client is not None
        }
        self._secret_keys = {
            (config.name, algorithm): secret_key(config.secret, algorithm)
            for config in configs
            if config.secret is not None
            for algorithm in config.algorithms
        }
        self._hinted_at: dict[str, float] = {}

    async def start(self) -> None:
        """Fetch every key set ahead of the first token; what fails is logged and never fatal."""
        for config in self._configs:
            if not config.audiences and config.jwks_url is not None:
                log.warning("Issuer %s has no audiences: each token it signs counts, for whatever service", config.name)
            if config.secret is not None and len(config.secret.encode()) < LEAST_SECRET_BYTES:
                log.warning("The secret of issuer %s is shorter than %d bytes", config.name, LEAST_SECRET_BYTES)
        await gather(*(key_set.load() for key_set in self._key_sets.values()))

    async def close(self) -> None:
        """End fetches that are under way; a client that was passed in stays open."""
        await gather(*(key_set.close() for key_set in self._key_sets.values()))
        if self._own_client is not None:
            await self._own_client.aclose()

    async def verify(self, token: str) -> OutsideClaims:
        """What the token says, once it is proven (RFC 7519 §7.2, RFC 8725 §3).

        Raises Unauthenticated, with code TOKEN_EXPIRED for a token that was good, or Unavailable when the
        issuer's keys could not be fetched even once. The token is hostile input: nothing else leaves.
        """
        try:
            header, unproven = _read(token)
            config = self._choose(header, unproven)
            key = await self._find_key(config, header)
            return _claims(config, _prove(token, key, config))
        except ExpiredSignatureError:
            message = "The access token has expired. Get a new one from the issuer and send the request again."
            raise Unauthenticated(message, code="TOKEN_EXPIRED") from None
        except ImmatureSignatureError:
            raise _refusal("is not valid yet; check the clock of its issuer") from None
        except InvalidAudienceError:
            raise _refusal("is meant for another service") from None
        except (PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
            raise _refusal("is not valid") from None

    def _choose(self, header: Mapping[str, Any], unproven: Mapping[str, Any]) -> IssuerConfig:
        """The issuer whose key must prove the token. `alg` and `iss` only route: the key and the config decide."""
        algorithm = header.get("alg")
        fitting = [config for config in self._configs if algorithm in config.algorithms]
        if not fitting:
            if algorithm in PUBLIC_KEY_ALGORITHMS and self._configs and not self._key_sets:
                self._hint(
                    "A token signed with a public-key algorithm was refused: only a secret is configured. Better Auth"
                    " signs with EdDSA by default; set BETTER_AUTH_URL to its address"
                )
            raise _refusal("is signed with an algorithm that is not accepted here")
        issuer = unproven.get("iss")
        for expected in (issuer, None):
            for config in fitting:
                if config.issuer == expected:
                    return config
        self._hint(
            "A token was refused because its `iss` is none of the trusted issuers; BETTER_AUTH_URL must be the base URL"
            " that the Better Auth server itself is set to"
        )
        raise _refusal("comes from an issuer that is not trusted here")

    async def _find_key(self, config: IssuerConfig, header: Mapping[str, Any]) -> PyJWK:
        if config.secret is not None:
            return self._secret_keys[config.name, header["alg"]]
        key_id = header.get("kid")
        if not isinstance(key_id, str) or not key_id:
            raise _refusal("does not say which key signed it (`kid`)")
        key = await self._key_sets[config.name].find(key_id)
        if key is None:
            raise _refusal("is signed with a key that its issuer does not publish")
        return key

    def _hint(self, text: str) -> None:
        # Anybody can provoke these lines, so each comes once a minute at most.
        now = time.monotonic()
        if now - self._hinted_at.get(text, -HINT_SECONDS) >= HINT_SECONDS:
            self._hinted_at[text] = now
            log.warning(text)


def _refusal(fault: str) -> Unauthenticated:
    return Unauthenticated(f"The access token {fault}. Get a new one from the issuer that this server trusts.")


def _read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload, neither of them proven yet."""
    if len(token) > LONGEST_TOKEN:
        raise _refusal(f"is longer than {LONGEST_TOKEN} characters")
    if not _COMPACT_FORM.fullmatch(token):
        raise _refusal("is not a JWT; with Better Auth, send the token of GET /api/auth/token, not the session token")
    header, unproven = (json.loads(decode_bytes(part)) for part in token.split(".")[:2])
    if not isinstance(header, dict) or not isinstance(unproven, dict):
        raise _refusal("is not a JWT: its parts must be JSON objects")
    if "crit" in header:
        raise _refusal("needs an extension that is not supported (`crit`)")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TOKEN_TYPES:
        raise _refusal("is a token for another purpose (`typ`)")
    return header, unproven


def _prove(token: str, key: PyJWK, config: IssuerConfig) -> dict[str, Any]:
    # Given the PyJWK, not its inner key, the library also refuses any algorithm but the key's own.
    return jwt.decode(
        token,
        key,
        algorithms=[key.algorithm_name],
        audience=config.audiences or None,
        issuer=config.issuer,
        leeway=LEEWAY_SECONDS,
        options={
            "require": ["exp"],
            "verify_iss": config.issuer is not None,
            "verify_aud": bool(config.audiences),
            "verify_sub": False,
            "verify_jti": False,
        },
    )


def _claims(config: IssuerConfig, payload: Mapping[str, Any]) -> OutsideClaims:
    moments = {claim: _moment(payload, claim) for claim in ("exp", "iat", "nbf") if claim in payload}
    # Never fall back to `id`, `userId` or `email`: Better Auth's mailed links are HS256 tokens that have those.
    subject = _text(payload.get(config.subject_claim), LONGEST_SUBJECT)
    if subject is None:
        raise _refusal(f"names no user: `{config.subject_claim}` must be text of 1 to {LONGEST_SUBJECT} characters")
    token_id = _text(payload.get("jti"), LONGEST_SUBJECT)
    if token_id is None and payload.get("jti") is not None:
        raise _refusal("has a `jti` that is not text")
    email = _text(payload.get(config.email_claim), LONGEST_EMAIL)
    return OutsideClaims(
        issuer=config.name,
        subject=subject,
        expires_at=moments["exp"],
        email=email if email is not None and "@" in email else None,
        email_verified=payload.get(config.email_verified_claim) is True,
        name=_text(payload.get(config.name_claim), LONGEST_NAME),
        token_id=token_id,
        rights=rights_in(payload, config.scopes),
    )


def _moment(payload: Mapping[str, Any], claim: str) -> float:
    # The library would also take "1" and true, which RFC 7519 §2 does not call a NumericDate.
    value = payload[claim]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST_TIME:
        raise _refusal(f"has an `{claim}` that is not a time")
    return float(value)


def _text(value: object, longest: int) -> str | None:
    if not isinstance(value, str) or not value.strip() or len(value) > longest:
        return None
    # Cc are control characters, NUL among them; Cs are lone surrogates, which no database stores.
    return None if any(unicodedata.category(character) in ("Cc", "Cs") for character in value) else value
