"""The security headers of every response, as ready-made raw pairs."""

from collections.abc import Iterable

RawPair = tuple[bytes, bytes]

API_CSP = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
# Swagger UI and ReDoc set style attributes and data: icons; ReDoc searches in a worker that it makes from a blob.
DOCS_CSP = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    b"connect-src 'self'; worker-src blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
# A page with a one-time token in its address: its own script, its own style, and one request to this server.
ACCOUNT_CSP = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; "
    b"frame-ancestors 'none'; base-uri 'none'"
)

_HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")  # RFC 6797 §7.2: never over plain HTTP
_NO_STORE = (b"cache-control", b"no-store")
_SECURITY: tuple[RawPair, ...] = (
    (b"content-security-policy", API_CSP),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-permitted-cross-domain-policies", b"none"),
)

# By scheme; the second of each pair is for a response that brings its own Cache-Control, as most cacheable ones do.
_PLAIN = ((*_SECURITY, _NO_STORE), _SECURITY)
_SECURE = ((*_SECURITY, _HSTS, _NO_STORE), (*_SECURITY, _HSTS))
_NAMES = frozenset(name for name, _ in _SECURE[0])


def add_security(headers: Iterable[RawPair], scheme: str) -> list[RawPair]:
    """A new list: `headers`, then the security headers that it lacks.

    `headers` is read once and never changed, because a route may answer with one list again and again. Names in it
    are lower-case, as ASGI has them.
    """
    full, without_cache = _SECURE if scheme == "https" else _PLAIN
    dressed = [*headers]
    own: list[bytes] | None = None
    for name, _ in dressed:
        if name in _NAMES:
            if own is None:
                own = []
            own.append(name)
    if own is None:
        dressed += full
    elif own == [b"cache-control"]:
        dressed += without_cache
    else:
        dressed += [pair for pair in full if pair[0] not in own]
    return dressed
