"""The keys of outside issuers: public ones fetched, checked, kept and renewed; a shared secret as a key of its own."""

import asyncio
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256, sha384, sha512
from typing import Any

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import PyJWTError

from duly.errors import Unavailable
from duly.kit.logs import request_id_var
from duly.kit.secrets import encode_bytes

log = logging.getLogger(__name__)

FETCH_SECONDS = 3.0
FETCH_BYTES = 256 * 1024
MOST_KEYS = 100
MOST_REDIRECTS = 3
LEAST_RSA_BITS = 2048
LONGEST_KEY_ID = 255

_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
_HASHES = {"HS256": sha256, "HS384": sha384, "HS512": sha512}
_HEADERS = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds between fetches of one key set.

    `unknown_key` follows a fetch that did not bring the key a token named, so that invented key ids cannot make
    Duly hammer the issuer; a fetch that did bring it costs nothing, so that a rotated key works at once.
    `failure` follows a fetch that failed. `refresh` is the age at which keys in use are fetched again in the
    background, so that a key the issuer has withdrawn stops counting.
    """

    unknown_key: float = 10.0
    failure: float = 1.0
    refresh: float = 600.0


class KeySet:
    """The keys published at one address. At most one fetch is under way; a failing one never drops the known keys."""

    def __init__(
        self,
        url: str,
        algorithms: Sequence[str],
        client: httpx.AsyncClient,
        pauses: Pauses,
        least_rsa_bits: int = LEAST_RSA_BITS,
    ) -> None:
        self._url = url
        self._algorithms = tuple(algorithms)
        self._client = client
        self._pauses = pauses
        self._least_rsa_bits = least_rsa_bits
        self._keys: dict[str, PyJWK] = {}
        self._fetching: asyncio.Task[None] | None = None
        self._fetched_at = 0.0
        self._not_before = 0.0

    async def find(self, key_id: str) -> PyJWK | None:
        """The key with this id, or None if the issuer has no such key; raises Unavailable when there are no keys."""
        key = self._keys.get(key_id)
        if key is not None:
            if time.monotonic() - self._fetched_at > self._pauses.refresh:
                self._begin(None)
            return key
        fetching = self._begin(key_id)
        if fetching is not None:
            # `wait` leaves the fetch alone when this caller is cancelled: others wait for the same one.
            await asyncio.wait({fetching})
        if not self._keys:
            raise Unavailable("The token issuer's keys cannot be fetched at the moment. Try again in a few seconds.")
        return self._keys.get(key_id)

    async def load(self) -> None:
        """Fetch now; what fails is logged and tried again when the first token comes."""
        fetching = self._begin(None)
        if fetching is not None:
            await asyncio.wait({fetching})

    async def close(self) -> None:
        """End a fetch that is under way, and begin none any more."""
        self._not_before = math.inf
        if self._fetching is not None and not self._fetching.done():
            self._fetching.cancel()
            await asyncio.wait({self._fetching})

    def _begin(self, wanted: str | None) -> asyncio.Task[None] | None:
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        if time.monotonic() < self._not_before:
            return None
        self._fetching = asyncio.create_task(self._fetch(wanted), name="fetch-jwks")
        return self._fetching

    async def _fetch(self, wanted: str | None) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                body = await _download(self._client, httpx.URL(self._url))
            keys = _read_keys(body, self._algorithms, self._url, self._least_rsa_bits)
        except Exception as error:  # noqa: BLE001  # Whatever the issuer or the network does, the known keys stay.
            # Somebody waits for this one, unless it was a refresh of keys that still serve.
            urgent = wanted is not None or not self._keys
            self._not_before = time.monotonic() + (self._pauses.failure if urgent else self._pauses.unknown_key)
            known = f"the {len(self._keys)} known keys stay in use" if self._keys else "its tokens cannot be checked"
            log.warning("Fetching the keys at %s failed (%s); %s", self._url, _reason(error), known)
            return
        self._keys = keys
        self._fetched_at = time.monotonic()
        if wanted is not None and wanted not in keys:
            # Set here and not by the caller, who may have hung up meanwhile.
            self._not_before = self._fetched_at + self._pauses.unknown_key


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return f"no complete answer within {FETCH_SECONDS:g} s"
    return str(error) or type(error).__name__


async def _download(client: httpx.AsyncClient, url: httpx.URL) -> bytes:
    asked_by = request_id_var.get()  # the issuer's log then names what ours does
    headers = {**_HEADERS, "X-Request-ID": asked_by} if asked_by else _HEADERS
    for _ in range(MOST_REDIRECTS + 1):
        request = client.stream("GET", url, headers=headers, follow_redirects=False, timeout=FETCH_SECONDS)
        async with request as response:
            if not response.has_redirect_location:
                return await _read_body(response)
            target = url.join(response.headers["Location"])
        if (target.scheme, target.host, target.port) != (url.scheme, url.host, url.port):
            raise ValueError("the answer is a redirect to another origin; configure the final address")
        url = target
    raise ValueError(f"more than {MOST_REDIRECTS} redirects")


async def _read_body(response: httpx.Response) -> bytes:
    if response.status_code != httpx.codes.OK:
        raise ValueError(f"the answer is {response.status_code} instead of 200")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        # A few compressed bytes could unpack to more memory than the limit below allows.
        raise ValueError("the answer is compressed although that was not asked for")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > FETCH_BYTES:
            raise ValueError(f"the answer is longer than {FETCH_BYTES} bytes")
    return bytes(body)


def _read_keys(body: bytes, algorithms: Sequence[str], url: str, least_rsa_bits: int) -> dict[str, PyJWK]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the answer is not JSON") from None
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list) or len(members) > MOST_KEYS:
        raise ValueError(f"the answer is not a key set of at most {MOST_KEYS} keys (RFC 7517 §5)")
    keys: dict[str, PyJWK] = {}
    for number, member in enumerate(members, start=1):
        try:
            key_id, key = _read_key(member, algorithms, least_rsa_bits)
            if key_id in keys:
                raise ValueError("an earlier key has the same kid")
            keys[key_id] = key
        except ValueError as error:
            log.warning("Key %d of %s is skipped: %s", number, url, error)
    if not keys:
        raise ValueError("the answer has no usable key")
    return keys


def _read_key(member: object, algorithms: Sequence[str], least_rsa_bits: int) -> tuple[str, PyJWK]:
    """RFC 7517 §4. Raises ValueError with the reason why this key may not verify tokens."""
    if not isinstance(member, dict):
        raise ValueError("it is not a JSON object")
    if member.get("kty") == "oct" or "k" in member:
        raise ValueError("it is a symmetric key, and whoever reads it could sign tokens")
    if not _PRIVATE_MEMBERS.isdisjoint(member):
        raise ValueError("it is a private key, and whoever reads it could sign tokens; replace it at the issuer")
    key_id = member.get("kid")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= LONGEST_KEY_ID:
        raise ValueError("it has no kid")
    operations = member.get("key_ops", ["verify"])
    if member.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("it is not meant for signatures")
    algorithm = member.get("alg") or _implied_algorithm(member, algorithms)
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise ValueError(f"its algorithm is none of {', '.join(algorithms)}")
    return key_id, _build_key(member, algorithm, least_rsa_bits)


def _implied_algorithm(member: Mapping[str, Any], algorithms: Sequence[str]) -> str | None:
    # `alg` is optional (RFC 7517 §4.4). A curve implies it; an RSA key takes the operator's first RSA algorithm.
    if member.get("kty") == "RSA":
        return next((name for name in algorithms if name.startswith(("RS", "PS"))), None)
    curve = member.get("crv")
    curves = {"Ed25519": "EdDSA", "P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
    return curves.get(curve) if isinstance(curve, str) else None


def _build_key(member: dict[str, Any], algorithm: str, least_rsa_bits: int) -> PyJWK:
    try:
        key = PyJWK(member, algorithm)
        # Only this compares the curve with the algorithm; without it the key would fail at each token.
        key.Algorithm.prepare_key(key.key)
    except (PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        # The library's message repeats the key, so it stays out of the log.
        raise ValueError(f"its parts do not make a key for {algorithm}") from None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < least_rsa_bits:
        raise ValueError(
            f"it is an RSA key of {key.key.key_size} bits, and MIN_RSA_BITS asks for {least_rsa_bits};"
            " let the issuer use a longer one, or EdDSA or ES256"
        )
    return key


class _SharedSecret(HMACAlgorithm):
    """HMAC with a secret whose form was checked when it was configured, and not again at each token."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key.encode() if isinstance(key, str) else key

    def check_key_length(self, key: bytes) -> None:
        return None


def secret_key(secret: str, algorithm: str) -> PyJWK:
    """A key from the secret's UTF-8 bytes as they stand; raises ValueError for what no shared secret looks like."""
    try:
        raw = HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret.encode())
    except (PyJWTError, ValueError):
        raise ValueError("is empty, not UTF-8, or a key file; set the issuer's secret as plain text") from None
    key = PyJWK({"kty": "oct", "k": encode_bytes(raw)}, algorithm)
    key.Algorithm = _SharedSecret(_HASHES[algorithm])
    return key
