"""Forged, stolen and broken tokens at an outside issuer's door: each is refused as such, and none breaks anything."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duly.errors import Unauthenticated
from duly.identity.issuer_settings import issuers_from
from duly.identity.issuers import TrustedIssuers
from tests.better_auth.issuing import Claims, JwksServer, SigningKey, claims_for, encode, jwks_server, seal

SECRET = b"the-secret-that-both-sides-of-these-tests-share"
ED, EC, RSA, PSS = (SigningKey(name, name) for name in ("EdDSA", "ES256", "RS256", "PS256"))
MALLORY = SigningKey("mallory")
MALLORY_RSA = SigningKey("mallory", "RS256")


@dataclass(frozen=True)
class Door:
    """One verifier that trusts a URL and a secret, and what a forger can reach."""

    trusted: TrustedIssuers
    issuer: JwksServer
    mallory: JwksServer

    def claims(self, **changes: object) -> Claims:
        return claims_for(self.issuer.origin, **changes)

    def good(self, **changes: object) -> str:
        return ED.sign(self.claims(**changes))


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[JwksServer, JwksServer]]:
    with jwks_server() as issuer, jwks_server() as mallory:
        issuer.publish(ED, EC, RSA, PSS)
        mallory.publish(MALLORY)
        yield issuer, mallory


@pytest.fixture
async def door(servers: tuple[JwksServer, JwksServer]) -> AsyncIterator[Door]:
    trusted = TrustedIssuers(issuers_from(servers[0].origin, SECRET.decode(), []))
    await trusted.start()
    yield Door(trusted, *servers)
    await trusted.close()


def pem(key: SigningKey) -> bytes:
    public: bytes = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public


def unsigned(door: Door, algorithm: object, signature: str = "") -> str:
    return f"{encode(json.dumps({'alg': algorithm, 'kid': 'EdDSA'}).encode())}.{encode_claims(door)}.{signature}"


def encode_claims(door: Door, **changes: object) -> str:
    return encode(json.dumps(door.claims(**changes)).encode())


def replace_part(token: str, number: int, part: str) -> str:
    parts = token.split(".")
    parts[number] = part
    return ".".join(parts)


def confused(door: Door, key: bytes, kid: object = "RS256", algorithm: str = "HS256") -> str:
    return seal({"alg": algorithm, "kid": kid}, door.claims(), key, algorithm)


def lured(door: Door, key: SigningKey = MALLORY, **header: Any) -> str:
    return key.sign(door.claims(), **header)


# One entry for each forgery that tools and textbooks know, and for each token that was made for something else.
FORGERIES: dict[str, Callable[[Door], str]] = {
    "alg none": lambda d: unsigned(d, "none"),
    "alg none with a signature": lambda d: unsigned(d, "none", "AAAA"),
    "alg nOnE": lambda d: unsigned(d, "nOnE", "AAAA"),
    "alg missing": lambda d: unsigned(d, None, "AAAA"),
    "alg is a list": lambda d: unsigned(d, ["EdDSA"], "AAAA"),
    "alg is an object": lambda d: unsigned(d, {}, "AAAA"),
    "signature stripped": lambda d: replace_part(d.good(), 2, ""),
    "signature of another token": lambda d: replace_part(d.good(), 2, d.good(sub="x").split(".")[2]),
    "signature of zeros": lambda d: replace_part(EC.sign(d.claims()), 2, encode(bytes(64))),
    "signature truncated": lambda d: d.good()[:-3],
    "signature padded": lambda d: d.good() + "==",
    "payload altered": lambda d: replace_part(d.good(), 1, encode_claims(d, sub="admin")),
    "header altered": lambda d: replace_part(d.good(), 0, encode(b'{"alg":"EdDSA","kid":"EdDSA","typ":"JWT"}')),
    "HS256 with the RSA key's PEM": lambda d: confused(d, pem(RSA)),
    "HS256 with the RSA key's PEM, no last newline": lambda d: confused(d, pem(RSA).strip()),
    "HS256 with the published key": lambda d: confused(d, json.dumps(RSA.public_jwk()).encode()),
    "HS256 with the Ed25519 key's bytes": lambda d: confused(d, ED.private.public_key().public_bytes_raw(), "EdDSA"),
    "HS512 with the right secret": lambda d: confused(d, SECRET, None, "HS512"),
    "HS256 with another secret": lambda d: confused(d, SECRET + b" ", None),
    "HS256 with no secret": lambda d: confused(d, b"", None),
    "EdDSA said, HS256 made": lambda d: seal({"alg": "EdDSA", "kid": "EdDSA"}, d.claims(), SECRET, "HS256"),
    "RS256 said, PS256 key": lambda d: RSA.sign(d.claims(), kid="PS256"),
    "PS256 made with the RS256 key": lambda d: seal({"alg": "PS256", "kid": "RS256"}, d.claims(), RSA.private, "PS256"),
    "RS512 made with the RS256 key": lambda d: seal({"alg": "RS512", "kid": "RS256"}, d.claims(), RSA.private, "RS512"),
    "kid of another algorithm's key": lambda d: ED.sign(d.claims(), kid="ES256"),
    "kid of a key that signed something else": lambda d: lured(d, kid="EdDSA"),
    "kid missing": lambda d: ED.sign(d.claims(), kid=None),
    "kid empty": lambda d: ED.sign(d.claims(), kid=""),
    "kid is a list": lambda d: ED.sign(d.claims(), kid=["EdDSA"]),
    "kid is a path": lambda d: confused(d, b"", "../../../../dev/null"),
    "kid is SQL": lambda d: confused(d, b"x", "x' UNION SELECT 'x'--"),
    "kid is an address": lambda d: lured(d, kid=f"{d.mallory.origin}/keys"),
    "jku": lambda d: lured(d, jku=f"{d.mallory.origin}/keys"),
    "jku with a known kid": lambda d: lured(d, kid="EdDSA", jku=f"{d.mallory.origin}/keys"),
    "x5u": lambda d: lured(d, MALLORY_RSA, x5u=f"{d.mallory.origin}/chain.pem"),
    "x5c": lambda d: lured(d, MALLORY_RSA, x5c=[encode(pem(MALLORY_RSA))]),
    "jwk": lambda d: lured(d, jwk=MALLORY.public_jwk()),
    "jwk with a known kid": lambda d: lured(d, kid="EdDSA", jwk=MALLORY.public_jwk(kid="EdDSA")),
    "crit": lambda d: ED.sign(d.claims(), crit=["exp"], exp=1),
    "crit b64": lambda d: ED.sign(d.claims(), crit=["b64"], b64=True),
    "crit empty": lambda d: ED.sign(d.claims(), crit=[]),
    "no exp": lambda d: d.good(exp=None),
    "exp as text": lambda d: d.good(exp=str(int(time.time()) + 900)),
    "nbf true": lambda d: d.good(nbf=True),
    "exp a list": lambda d: d.good(exp=[4102444800]),
    "exp infinite": lambda d: d.good(exp=float("inf")),
    "exp not a number": lambda d: d.good(exp=float("nan")),
    "exp beyond every calendar": lambda d: d.good(exp=10**18),
    "exp beyond every float": lambda d: d.good(exp=10**400),
    "exp beyond every parser": lambda _: raw(b'{"sub":"a","exp":1%s}' % (b"0" * 5000)),
    "exp null": lambda _: raw(b'{"sub":"a","exp":null}'),
    "not valid yet": lambda d: d.good(nbf=int(time.time()) + 60),
    "nbf as text": lambda d: d.good(nbf="0"),
    "issued in the future": lambda d: d.good(iat=int(time.time()) + 60),
    "audience of another service": lambda d: d.good(aud="https://other.example"),
    "audience longer": lambda d: d.good(aud=d.issuer.origin + "0"),
    "audience missing": lambda d: d.good(aud=None),
    "audience an object": lambda d: d.good(aud={d.issuer.origin: 1}),
    "issuer of another service": lambda d: d.good(iss="https://other.example"),
    "issuer with a slash": lambda d: d.good(iss=d.issuer.origin + "/"),
    "issuer missing": lambda d: d.good(iss=None),
    "issuer a list": lambda d: d.good(iss=[d.issuer.origin]),
    "session cache by typ": lambda d: ED.sign(d.claims(), typ="better-auth.session-cache+jwt"),
    "session cache by audience": lambda d: d.good(aud="better-auth:session-cache"),
    "typ a number": lambda d: ED.sign(d.claims(), typ=1),
    "logout token": lambda d: ED.sign(d.claims(), typ="logout+jwt"),
    "mailed link": lambda _: internal(email="ann@example.com", userId="W1CWZbbZ08jBd1SXMtzRojLYRAVIzV8a"),
    "session cookie": lambda _: internal(session={"userId": "a"}, user={"id": "a"}, id="a", version="1"),
    "four parts": lambda d: d.good() + ".AAAA",
    "five parts": lambda _: "e30.AAAA.AAAA.AAAA.AAAA",
    "two parts": lambda d: d.good().rpartition(".")[0],
    "session token": lambda _: "2Ad0h6QvFyuqYXm53A8fvpcBS5zCg7aB.36bgQbWs1Fp12wbLD51PiKNK9ZFR12H4PFSpfXZU3xc=",
    "empty": lambda _: "",
    "newline inside": lambda d: d.good().replace(".", ".\n"),
    "newline after": lambda d: d.good() + "\n",
    "NUL after": lambda d: d.good() + "\0",
    "lone surrogate": lambda d: d.good() + "\ud800",
    "longer than 8 KiB": lambda d: d.good(name="x" * 8192),
    "deep nesting": lambda _: raw(b"[" * 3000 + b"]" * 3000),
    "header not an object": lambda d: replace_part(d.good(), 0, encode(b"[]")),
    "payload not an object": lambda _: raw(b'["sub"]'),
    "payload not UTF-8": lambda _: raw(b'{"sub": "\xff"}'),
}  # fmt: skip


def raw(payload: bytes) -> str:
    return seal({"alg": "HS256"}, payload, SECRET, "HS256")


def internal(**claims: object) -> str:
    now = int(time.time())
    return seal({"alg": "HS256"}, {"iat": now, "exp": now + 3600, **claims}, SECRET, "HS256")


@pytest.mark.covers("E042", "E043", "C042", "C120", "B040")
@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forgery_is_refused(door: Door, name: str) -> None:
    await door.trusted.verify(door.good())
    await door.trusted.verify(internal(sub="a"))
    with pytest.raises(Unauthenticated) as caught:
        await door.trusted.verify(FORGERIES[name](door))
    assert caught.value.code == "INVALID_TOKEN"
    assert caught.value.message.startswith("The access token ")
    assert caught.value.message.endswith("Get a new one from the issuer that this server trusts.")
    assert door.mallory.paths == []


@pytest.mark.covers("C042", "C121", "B040")
async def test_expired_is_told_apart_from_invalid(door: Door) -> None:
    now = int(time.time())
    with pytest.raises(Unauthenticated, match=r"The access token has expired\. Get a new one") as caught:
        await door.trusted.verify(door.good(exp=now - 40))
    assert caught.value.code == "TOKEN_EXPIRED"
    with pytest.raises(Unauthenticated, match="is not valid") as caught:
        await door.trusted.verify(replace_part(door.good(exp=now - 40), 2, encode(bytes(64))))
    assert caught.value.code == "INVALID_TOKEN"


async def test_clocks_may_differ_by_half_a_minute(door: Door) -> None:
    now = int(time.time())
    claims = await door.trusted.verify(door.good(exp=now - 20, iat=now + 20, nbf=now + 20))
    assert claims.expires_at == now - 20


@pytest.mark.covers("C119", "C041")
@pytest.mark.parametrize(
    "subject", ["1", "a" * 255, "auth0|Ünïcode 用户", "../x?y#z", "0190d6e8-1111-7000-8000-000000000000"]
)
async def test_a_subject_is_kept_as_it_came(door: Door, subject: str) -> None:
    assert (await door.trusted.verify(door.good(sub=subject))).subject == subject


@pytest.mark.covers("E043")
@pytest.mark.parametrize(
    "subject", [None, "", " ", 7, True, ["a"], {"id": "a"}, "a" * 256, "a\0", "a\n", "\x7f", "\x85", "\ud800"]
)
async def test_what_is_no_subject_is_refused_whatever_else_the_token_says(door: Door, subject: object) -> None:
    for token in (
        door.good(sub=subject, id="a", user_id="a"),
        internal(sub=subject, userId="a", email="a@example.com"),
    ):
        with pytest.raises(Unauthenticated, match="names no user"):
            await door.trusted.verify(token)


@pytest.mark.parametrize(
    ("said", "email", "verified", "name"),
    [
        ({"emailVerified": True}, "ann@example.com", True, "Ann"),
        ({"emailVerified": "true"}, "ann@example.com", False, "Ann"),
        ({"emailVerified": 1}, "ann@example.com", False, "Ann"),
        ({"email": None, "name": None}, None, False, None),
        ({"email": "ann", "name": ["Ann"]}, None, False, None),
        ({"email": "a@b\0", "name": "A\ud800"}, None, False, None),
        ({"email": "a" * 250 + "@b.example", "name": " "}, None, False, None),
    ],
)
async def test_profile_claims_are_taken_only_where_they_are_sound(
    door: Door, said: dict[str, object], email: str | None, verified: bool, name: str | None
) -> None:
    claims = await door.trusted.verify(door.good(**said))
    assert (claims.email, claims.email_verified, claims.name) == (email, verified, name)


async def test_without_any_trusted_issuer_every_token_is_refused(door: Door) -> None:
    trusted = TrustedIssuers([])
    await trusted.start()
    for token in (door.good(), internal(sub="a"), ""):
        with pytest.raises(Unauthenticated):
            await trusted.verify(token)
    await trusted.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256", "EdDSA", "ES256", "none"]) | JSON},
    optional=dict.fromkeys(("kid", "typ", "crit", "b64", "jwk", "jku", "x5c", "zip", "cty"), JSON),
)
CLAIMS = st.dictionaries(
    st.sampled_from(["sub", "exp", "iat", "nbf", "iss", "aud", "jti", "email", "name"]) | st.text(), JSON
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=HEADERS, claims=CLAIMS, noise=st.text(max_size=40), cut=st.integers(0, 400))
async def test_no_token_breaks_the_verifier(door: Door, header: Claims, claims: Claims, noise: str, cut: int) -> None:
    signed = seal(header, claims, SECRET, "HS256")
    known = ED.sign(door.claims(**claims), **(header | {"alg": "EdDSA", "kid": "EdDSA"}))
    for token in (signed, known, known[:cut] + noise + known[cut:], noise, f"{noise}.{noise}.{noise}"):
        try:
            verified = await door.trusted.verify(token)
        except Unauthenticated:
            continue
        assert 0 < len(verified.subject) <= 255
        verified.subject.encode()
