"""An issuer of the test's own: keys of every algorithm, tokens signed with them, and a key set served on loopback."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

Claims = dict[str, Any]


@dataclass(frozen=True)
class SigningKey:
    """A private key; `bits` counts for RSA only."""

    kid: str
    algorithm: str = "EdDSA"
    bits: int = 2048

    @cached_property
    def private(self) -> Any:
        """The key itself, made at first use."""
        if self.algorithm == "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        if self.algorithm.startswith("ES"):
            curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
            return ec.generate_private_key(curves[self.algorithm])
        return rsa.generate_private_key(65537, self.bits)

    def public_jwk(self, **changes: object) -> dict[str, Any]:
        """As a JWKS publishes it; a change to None leaves the member out."""
        kind: Any = get_default_algorithms()[self.algorithm]
        jwk = kind.to_jwk(self.private.public_key(), as_dict=True)
        jwk.pop("key_ops", None)
        jwk |= {"kid": self.kid, "alg": self.algorithm, **changes}
        return {name: value for name, value in jwk.items() if value is not None}

    def sign(self, claims: Claims, **header: Any) -> str:
        """A token; a header member set to None is left out."""
        return seal({"alg": self.algorithm, "kid": self.kid, **header}, claims, self.private, self.algorithm)


def seal(header: Claims, claims: Claims | bytes, key: Any, algorithm: str) -> str:
    """A token signed with `algorithm`, whatever its header says; HMAC takes the key as bytes."""
    fields = {name: value for name, value in header.items() if value is not None}
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    parts = [encode(json.dumps(fields).encode()), encode(body)]
    parts.append(encode(get_default_algorithms()[algorithm].sign(".".join(parts).encode(), key)))
    return ".".join(parts)


def encode(raw: bytes) -> str:
    """Base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims_for(issuer: str, **changes: object) -> Claims:
    """The claims that Better Auth signs for a new user; a change to None leaves the claim out."""
    now = int(time.time())
    claims: Claims = {"sub": "W1CWZbbZ08jBd1SXMtzRojLYRAVIzV8a", "name": "Ann", "email": "ann@example.com"}
    claims |= {"emailVerified": False, "iat": now, "exp": now + 900, "iss": issuer, "aud": issuer, **changes}
    return {name: value for name, value in claims.items() if value is not None}


@dataclass
class JwksServer:
    """What the server answers may be changed at any time; `paths` are the requests it got.

    `delay` is in seconds before the answer, `drip` between its bytes; `moved_from` is a path that redirects.
    """

    origin: str
    body: bytes = b'{"keys": []}'
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drip: float = 0.0
    moved_from: str = ""
    paths: list[str] = field(default_factory=list)

    def publish(self, *keys: SigningKey | dict[str, Any] | object) -> None:
        """Serve these keys from now on."""
        members = [key.public_jwk() if isinstance(key, SigningKey) else key for key in keys]
        self.body, self.status, self.headers, self.delay = json.dumps({"keys": members}).encode(), 200, {}, 0.0


class _Handler(BaseHTTPRequestHandler):
    state: JwksServer

    def do_GET(self) -> None:
        state = self.state
        state.paths.append(self.path)
        time.sleep(state.delay)
        moves = state.moved_from == self.path
        self.send_response(307 if moves else state.status)
        body = b"" if moves else state.body
        for name, value in ({"Location": "/moved"} if moves else state.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            for number in range(len(body) if state.drip else 0):
                self.wfile.write(body[number : number + 1])
                time.sleep(state.drip)
            self.wfile.write(b"" if state.drip else body)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Keep the test's output clean."""


@contextmanager
def jwks_server(port: int = 0) -> Iterator[JwksServer]:
    """A key set at /api/auth/jwks, and everywhere else, of a loopback port."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    handler.state = JwksServer(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield handler.state  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
