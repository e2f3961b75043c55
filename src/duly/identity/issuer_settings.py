"""Which outside issuers are trusted, read from the settings: their keys, audiences, claims and scopes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import httpx

from duly.identity.delegation import Scopes
from duly.identity.jwks import secret_key

BETTER_AUTH_ALGORITHMS = ("EdDSA", "ES256", "ES512", "RS256", "PS256")
PUBLIC_KEY_ALGORITHMS = (*BETTER_AUTH_ALGORITHMS, "ES384", "RS384", "RS512", "PS384", "PS512")
SECRET_ALGORITHMS = ("HS256", "HS384", "HS512")
LEAST_SECRET_BYTES = 32

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ENTRY_CLAIMS = ("subject_claim", "email_claim", "name_claim", "email_verified_claim")
_ENTRY_SCOPES = ("read_scope", "write_scope")
_ENTRY_FIELDS = ("issuer", "jwks_url", "secret", "audiences", "algorithms", *_ENTRY_CLAIMS, *_ENTRY_SCOPES)


@dataclass(frozen=True, slots=True)
class IssuerConfig:
    """One trusted issuer. Raises ValueError when it mixes a secret with public keys, or an algorithm of the other kind.

    `name` is kept with each user that the issuer vouches for. `issuer` None and empty `audiences` are not checked.
    Without `scopes` each of its tokens carries all rights of its user.
    """

    name: str
    issuer: str | None
    audiences: tuple[str, ...]
    jwks_url: str | None
    secret: str | None = field(repr=False)
    algorithms: tuple[str, ...]
    subject_claim: str = "sub"
    email_claim: str = "email"
    name_claim: str = "name"
    email_verified_claim: str = "emailVerified"
    scopes: Scopes | None = None

    def __post_init__(self) -> None:
        if (self.jwks_url is None) == (self.secret is None):
            raise ValueError("a trusted issuer has either `jwks_url` or `secret`; give exactly one of them")
        fitting = PUBLIC_KEY_ALGORITHMS if self.secret is None else SECRET_ALGORITHMS
        if not self.algorithms or not set(self.algorithms) <= set(fitting):
            kind = "`jwks_url`" if self.secret is None else "`secret`"
            raise ValueError(f"`algorithms` of an issuer with {kind} must be some of {', '.join(fitting)}")
        if self.secret is not None:
            secret_key(self.secret, self.algorithms[0])


def issuers_from(
    better_auth_url: str | None,
    better_auth_secret: str | None,
    trusted_issuers: Sequence[Mapping[str, object]],
    *,
    better_auth_scopes: tuple[str | None, str | None] = (None, None),
) -> list[IssuerConfig]:
    """The issuers that the settings name; empty text counts as not set. Scopes are those to read and to write with.

    Raises ValueError with one sentence that names the setting and says what to do.
    """
    configs: list[IssuerConfig] = []
    scopes = _scopes("BETTER_AUTH_READ_SCOPE", "BETTER_AUTH_WRITE_SCOPE", *better_auth_scopes)
    if better_auth_url and better_auth_url.strip():
        origin = _origin("BETTER_AUTH_URL", better_auth_url)
        jwks_url = f"{origin}/api/auth/jwks"
        configs.append(IssuerConfig(origin, origin, (origin,), jwks_url, None, BETTER_AUTH_ALGORITHMS, scopes=scopes))
    if better_auth_secret and better_auth_secret.strip():
        try:
            configs.append(IssuerConfig("better-auth", None, (), None, better_auth_secret, ("HS256",), scopes=scopes))
        except ValueError as error:
            raise ValueError(f"BETTER_AUTH_SECRET: {error}") from None
    if scopes is not None and not configs:
        raise ValueError("BETTER_AUTH_READ_SCOPE: is set without BETTER_AUTH_URL or BETTER_AUTH_SECRET; an issuer of"
                         " TRUSTED_ISSUERS has a read_scope and a write_scope of its own")  # fmt: skip
    for number, entry in enumerate(trusted_issuers):
        setting = f"TRUSTED_ISSUERS[{number}]"
        configs.append(_trusted_issuer(setting, entry))
        if configs[-1].name in [config.name for config in configs[:-1]]:
            raise ValueError(f"{setting}: its issuer is already trusted by another setting; remove one of the two")
    return configs


def _origin(setting: str, address: str) -> str:
    """Scheme, lower-case host and port unless default (RFC 6454 §6.1): what Better Auth writes into `iss` and `aud`."""
    url = _http_url(setting, address)
    host = url.copy_with(port=None).netloc.decode("ascii")
    port = "" if url.port in (None, _DEFAULT_PORTS[url.scheme]) else f":{url.port}"
    return f"{url.scheme}://{host}{port}"


def _http_url(setting: str, address: str) -> httpx.URL:
    try:
        url = httpx.URL(address.strip())
        port = _DEFAULT_PORTS.get(url.scheme, 0) if url.port is None else url.port
        if url.scheme in _DEFAULT_PORTS and url.host and not url.userinfo and 0 < port < 65536:
            return url
    except httpx.InvalidURL:
        pass
    raise ValueError(f"{setting}: must be an http or https address without a user, such as https://app.example.com")


def _trusted_issuer(setting: str, entry: Mapping[str, object]) -> IssuerConfig:
    for key in entry:
        if key not in _ENTRY_FIELDS:
            close = get_close_matches(str(key), _ENTRY_FIELDS, n=1)
            instead = f"did you mean {close[0]}?" if close else f"use {', '.join(_ENTRY_FIELDS)}"
            raise ValueError(f"{setting}: has an unknown field; {instead}")
    issuer, jwks_url, secret = (_entry_text(setting, entry, key) for key in ("issuer", "jwks_url", "secret"))
    claims = {key: claim for key in _ENTRY_CLAIMS if (claim := _entry_text(setting, entry, key)) is not None}
    if issuer is None:
        raise ValueError(f"{setting}.issuer: is missing; set it to the `iss` of its tokens")
    if jwks_url is not None:
        jwks_url = str(_http_url(f"{setting}.jwks_url", jwks_url))
    if secret is not None and len(secret.encode(errors="replace")) < LEAST_SECRET_BYTES:
        raise ValueError(f"{setting}.secret: is too short; use {LEAST_SECRET_BYTES} or more bytes (RFC 7518 §3.2)")
    read, write = (_entry_text(setting, entry, key) for key in _ENTRY_SCOPES)
    scopes = _scopes(f"{setting}.read_scope", f"{setting}.write_scope", read, write)
    audiences = _entry_list(setting, entry, "audiences", ())
    usual = BETTER_AUTH_ALGORITHMS if secret is None else SECRET_ALGORITHMS[:1]
    algorithms = _entry_list(setting, entry, "algorithms", usual)
    try:
        return IssuerConfig(issuer, issuer, audiences, jwks_url, secret, algorithms, **claims, scopes=scopes)
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from None


def _scopes(read_name: str, write_name: str, read: str | None, write: str | None) -> Scopes | None:
    if not read and not write:
        return None
    if not read or not write:
        missing, given = (write_name, read_name) if read else (read_name, write_name)
        raise ValueError(f"{missing}: is missing beside {given}; set both, or the same scope twice")
    try:
        return Scopes(read, write)
    except ValueError as error:
        raise ValueError(f"{read_name}, {write_name}: {error}") from None


def _entry_text(setting: str, entry: Mapping[str, object], key: str) -> str | None:
    value = entry.get(key)
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    raise ValueError(f"{setting}.{key}: must be text that is not empty")


def _entry_list(setting: str, entry: Mapping[str, object], key: str, usual: tuple[str, ...]) -> tuple[str, ...]:
    value = entry.get(key)
    if value is None:
        return usual
    if isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value):
        return tuple(value)
    raise ValueError(f"{setting}.{key}: must be a list of texts")
