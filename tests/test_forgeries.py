"""Forged bearer tokens over HTTP: whatever the trick, 401 `invalid_token`, on the hot routes' way and on the plain one.

tests/test_access_tokens.py and tests/test_outside_forgeries.py look at each verifier alone; here is the whole house,
once with its own tokens only, and once beside an outside issuer, where a forger can also choose the verifier.
"""

import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from duly.kit.secrets import derive_key
from duly.settings import Settings
from tests.better_auth.issuing import Claims, JwksServer, SigningKey, claims_for, encode, jwks_server, seal
from tests.fixtures.application import PASSWORD, Api, Person, running
from tests.fixtures.database import migrated_database
from tests.fixtures.server import StartServer

SECRET = "a-key-that-is-only-in-these-forgeries"
OUTSIDE_SECRET = "the-outside-secret-of-these-forgeries"
ROUTES = ("/api/v1/tasks", "/api/v1/auth/me")
REFUSED = (401, "INVALID_TOKEN", 'Bearer realm="duly", error="invalid_token"')
ISSUER = SigningKey("issuer", "RS256")
MALLORY = SigningKey("mallory")
MALLORY_RSA = SigningKey("mallory", "RS256")
HS256 = {"alg": "HS256", "typ": "JWT"}


Forgery = Callable[["Forge"], str]


@dataclass(frozen=True)
class Forge:
    """What a forger has: a good token and what it says, the server's keys for other purposes, and Mallory's server."""

    api: Api
    ann: Person
    ben: Person
    claims: Claims
    issuer: JwksServer
    mallory: JwksServer

    @property
    def key(self) -> bytes:
        """The one key that no forger has; with it a token is wrong in what it says and in nothing else."""
        return derive_key(SECRET, "access-token")

    def says(self, header: Claims | None = None, key: bytes | None = None, /, **changes: object) -> str:
        """A well-signed token with other claims; a change to None leaves a claim out."""
        claims = {name: value for name, value in {**self.claims, **changes}.items() if value is not None}
        return seal(header or HS256, claims, self.key if key is None else key, "HS256")

    def other_part(self, number: int, part: str) -> str:
        """The good token with one of its three parts replaced."""
        parts = self.ann.access_token.split(".")
        parts[number] = part
        return ".".join(parts)

    def unsigned(self, algorithm: object, signature: str = "") -> str:
        """A token that says it needs no signature."""
        return f"{encode_json({'alg': algorithm})}.{encode_json(self.claims)}.{signature}"

    def lured(self, key: SigningKey = MALLORY, claims: Claims | None = None, **header: Any) -> str:
        """Signed by Mallory, with a header that tells the server where to find Mallory's key."""
        return key.sign(claims or self.claims, **header)

    def outside(self, **changes: object) -> Claims:
        """What the outside issuer would say."""
        return claims_for(self.issuer.origin, **changes)


def encode_json(value: object) -> str:
    return encode(json.dumps(value).encode())


def pem(key: SigningKey) -> bytes:
    public: bytes = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public


def seconds(ahead: float) -> int:
    return int(time.time() + ahead)


def raw(forge: Forge, payload: str) -> str:
    """Signed with the right key, whatever the payload is."""
    return seal(HS256, payload.encode(), forge.key, "HS256")


def twice(forge: Forge, name: str, value: str) -> str:
    """The claims with one of them said twice; readers differ in which one they take (RFC 8725 §2.6)."""
    return raw(forge, json.dumps(forge.claims)[:-1] + f', "{name}": {json.dumps(value)}}}')


def unsigned(algorithm: str) -> Forgery:
    return lambda forge: forge.unsigned(algorithm)


def with_key_for(purpose: str, secret: str = SECRET) -> Forgery:
    return lambda forge: forge.says(HS256, derive_key(secret, purpose))


def saying(**changes: object) -> Forgery:
    return lambda forge: forge.says(**changes)


FORGERIES: dict[str, Forgery] = {
    # No signature, or one that is not for this token
    **{f"alg {name}": unsigned(name) for name in ("none", "None", "NONE", "nOnE", " none", "")},
    "alg none with the good signature": lambda f: f.unsigned("none", f.ann.access_token.split(".")[2]),
    "alg null": lambda f: f.unsigned(None, "AAAA"),
    "signature stripped": lambda f: f.ann.access_token.rpartition(".")[0],
    "signature empty": lambda f: f.other_part(2, ""),
    "signature of zeros": lambda f: f.other_part(2, encode(bytes(32))),
    "signature cut": lambda f: f.ann.access_token[:-4],
    "signature of another's token": lambda f: f.other_part(2, f.ben.access_token.split(".")[2]),
    "another's payload": lambda f: f.other_part(1, f.ben.access_token.split(".")[1]),
    "sub of another, same session": lambda f: f.other_part(1, encode_json(f.claims | {"sub": f.ben.user_id})),
    "exp far away": lambda f: f.other_part(1, encode_json(f.claims | {"exp": seconds(10**8)})),
    "role added": lambda f: f.other_part(1, encode_json(f.claims | {"role": "admin"})),
    # Another key
    "key empty": lambda f: f.says(HS256, b""),
    "key of zeros": lambda f: f.says(HS256, bytes(32)),
    "key guessed": lambda f: f.says(HS256, b"secret" * 8),
    "key is the bare secret": lambda f: f.says(HS256, SECRET.encode()),
    "key of another secret": with_key_for("access-token", "another-key-of-another-server-altogether"),
    **{
        f"key for {purpose}": with_key_for(purpose)
        for purpose in ("refresh-token-hash", "refresh-token-child", "cursor", "one-time-token", "audit", "lockout")
    },
    # Another algorithm
    "HS384 with the right key": lambda f: seal({"alg": "HS384"}, f.claims, f.key, "HS384"),
    "HS512 with the right key": lambda f: seal({"alg": "HS512"}, f.claims, f.key, "HS512"),
    "RS256 said, HS256 made": lambda f: f.says({"alg": "RS256"}),
    "hs256 in small letters": lambda f: f.says({"alg": "hs256"}),
    "RS256 of a key of its own": lambda f: MALLORY_RSA.sign(f.claims),
    "HS256 with the issuer's public key": lambda f: f.says(HS256, pem(ISSUER)),
    "HS256 with it and its kid": lambda f: f.says({**HS256, "kid": "issuer"}, pem(ISSUER)),
    "HS256 with it for the issuer": lambda f: seal({**HS256, "kid": "issuer"}, f.outside(), pem(ISSUER), "HS256"),
    "HS256 with the published document": lambda f: f.says(HS256, json.dumps(ISSUER.public_jwk()).encode()),
    # The other verifier
    "the issuer speaks for this server": lambda f: ISSUER.sign(f.claims),
    "the outside secret speaks for this server": lambda f: f.says(HS256, OUTSIDE_SECRET.encode()),
    "this server speaks for the issuer": lambda f: seal(HS256, f.outside(), f.key, "HS256"),
    "this server's key, and no issuer": lambda f: f.says(iss=None),
    # What the header would have the server do
    "kid is a path to nothing": lambda f: f.says({**HS256, "kid": "../../../../../../dev/null"}, b""),
    "kid is a file that all know": lambda f: f.says({**HS256, "kid": "/proc/sys/kernel/ostype"}, b"Linux\n"),
    "kid is SQL": lambda f: f.says({**HS256, "kid": "x' UNION SELECT 'mallory' -- "}, b"mallory"),
    "kid is a command": lambda f: f.says({**HS256, "kid": "|echo mallory"}, b"mallory"),
    "kid has a NUL": lambda f: f.says({**HS256, "kid": "issuer\0"}, b"mallory"),
    "kid is null": lambda f: seal({"alg": "HS256"}, f.claims, b"null", "HS256"),
    "kid is no text": lambda f: f.says({**HS256, "kid": ["issuer"]}),
    "jku": lambda f: f.lured(jku=f"{f.mallory.origin}/keys"),
    "jku for the issuer": lambda f: f.lured(MALLORY, f.outside(), kid="issuer", jku=f"{f.mallory.origin}/keys"),
    "x5u": lambda f: f.lured(MALLORY_RSA, x5u=f"{f.mallory.origin}/chain.pem"),
    "x5c": lambda f: f.lured(MALLORY_RSA, x5c=[encode(pem(MALLORY_RSA))]),
    "jwk": lambda f: f.lured(jwk=MALLORY.public_jwk()),
    "jwk of a secret": lambda f: f.says({**HS256, "jwk": {"kty": "oct", "k": encode(b"mallory" * 5)}}, b"mallory" * 5),
    "crit": lambda f: f.says({**HS256, "crit": ["exp"]}),
    "crit unknown": lambda f: f.says({**HS256, "crit": ["mallory"], "mallory": True}),
    "b64 false": lambda f: f.says({**HS256, "b64": False, "crit": ["b64"]}),
    "b64 false, not critical": lambda f: f.says({**HS256, "b64": False}),
    # Well signed, and wrong in what it says
    "no exp": lambda f: f.says(exp=None),
    "exp is text": lambda f: f.says(exp=str(seconds(600))),
    "exp has a fraction": lambda f: f.says(exp=time.time() + 600),
    "exp is a whole float": lambda f: f.says(exp=float(seconds(600))),
    "exp beyond every calendar": lambda f: f.says(exp=10**18),
    "exp negative": lambda f: f.says(exp=-1),
    "exp true": lambda f: f.says(exp=True),
    "exp before iat": lambda f: f.says(exp=f.claims["iat"] - 1),
    "exp twice": lambda f: raw(f, json.dumps(f.claims)[:-1] + f', "exp": "{seconds(600)}"}}'),
    "no iat": lambda f: f.says(iat=None),
    "iat in the future": lambda f: f.says(iat=seconds(3600), exp=seconds(7200)),
    "nbf in the future": lambda f: f.says(nbf=seconds(3600)),
    "nbf is text": lambda f: f.says(nbf="now"),
    "iss of another": lambda f: f.says(iss="https://mallory.example"),
    "iss in capitals": lambda f: f.says(iss="Duly"),
    "iss in a list": lambda f: f.says(iss=["duly"]),
    "aud of another": lambda f: f.says(aud="mallory"),
    "aud in a list": lambda f: f.says(aud=["duly", "mallory"]),
    "aud missing": lambda f: f.says(aud=None),
    **{f"{name} missing": saying(**{name: None}) for name in ("sub", "sid", "jti", "typ")},
    **{f"{name} empty": saying(**{name: ""}) for name in ("sub", "sid", "jti")},
    "sub is a number": lambda f: f.says(sub=1),
    "sub is a list": lambda f: f.says(sub=[f.ann.user_id]),
    "typ refresh": lambda f: f.says(typ="refresh"),
    "typ reset_password": lambda f: f.says(typ="reset_password"),
    "sub twice": lambda f: twice(f, "sub", f.ben.user_id),
    "sid twice": lambda f: twice(f, "sid", "another"),
    # Something else in the place of a token
    "a refresh token": lambda f: f.ann.refresh_token,
    "a token inside a token": lambda f: seal({**HS256, "cty": "JWT"}, f.ann.access_token.encode(), f.key, "HS256"),
    "JWE": lambda _: ".".join([encode_json({"alg": "dir", "enc": "A256GCM"}), "", *["AAAA"] * 3]),
    "JWS as JSON": lambda f: encode_json(dict(zip(("protected", "payload", "signature"), f.claims, strict=False))),
    "four parts": lambda f: f.ann.access_token + ".AAAA",
    "claims alone": lambda f: encode_json(f.claims),
    "longer than any": lambda f: f.says(name="x" * 9000),
    "longer than a header": lambda f: f.ann.access_token + "A" * 60_000,
    # Another spelling of the good one
    "padded": lambda f: f.ann.access_token + "=",
    "parts padded": lambda f: f.ann.access_token.replace(".", "=."),
    "a blank inside": lambda f: f.ann.access_token.replace(".", ". ", 1),
    "a tab after": lambda f: f.ann.access_token + "\tx",
    "a vertical tab after": lambda f: f.ann.access_token + "\x0bx",
    "a next line after": lambda f: f.ann.access_token + "\x85x",
    "a dot after": lambda f: f.ann.access_token + ".",
    "quoted": lambda f: f'"{f.ann.access_token}"',
    "percent-encoded dots": lambda f: f.ann.access_token.replace(".", "%2E"),
    "twice with a comma": lambda f: f"{f.ann.access_token},{f.ann.access_token}",
    "standard alphabet": lambda f: f.ann.access_token.replace(".", "+."),
    "digits of another script": lambda f: f.other_part(2, "\u0661\u0662\u0663" + f.ann.access_token.split(".")[2][3:]),
    "letters of full width": lambda f: "\uff45" + f.ann.access_token[1:],
}  # fmt: skip


@pytest.fixture(scope="module", params=["alone", "beside an outside issuer"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """An application without and with an outside issuer; no token gets as far as the database, so one dialect does."""
    folder = tmp_path_factory.mktemp("forge")
    with migrated_database("sqlite", request, folder) as url, jwks_server() as issuer, jwks_server() as mallory:
        issuer.publish(ISSUER)
        mallory.publish(MALLORY)
        outside = {"better_auth_url": issuer.origin, "better_auth_secret": OUTSIDE_SECRET}
        values = {
            "database_url": url, "data_dir": folder, "log_level": "warning", "secret_key": SECRET,
            "rate_limit_enabled": False, **(outside if request.param != "alone" else {}),
        }  # fmt: skip
        yield {"values": values, "issuer": issuer, "mallory": mallory}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def forge(settings: dict[str, Any]) -> AsyncIterator[Forge]:
    """The application, two people, and all that a forger could want."""
    async with running(Settings(_env_file=None, **settings["values"])) as api:
        ann, ben = await api.register(), await api.register()
        claims = jwt.decode(ann.access_token, options={"verify_signature": False})
        yield Forge(api, ann, ben, claims, settings["issuer"], settings["mallory"])


async def verdicts(forge: Forge, *headers: str) -> list[tuple[int, str, str]]:
    """What each route says to a request with these Authorization headers."""
    found = []
    for path in ROUTES:
        sent = [(b"Authorization", header.encode()) for header in headers]
        answer = await forge.api.client.get(path, headers=sent)
        code = "" if answer.status_code == 200 else answer.json()["code"]
        found.append((answer.status_code, code, answer.headers.get("www-authenticate", "")))
    return found


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.covers("A033", "A037", "B040", "B041", "D021", "E023")
async def test_the_same_tools_make_a_token_that_is_good(forge: Forge) -> None:
    """Otherwise every refusal below could be due to the tools."""
    for token in (forge.ann.access_token, forge.says(), forge.says({"alg": "HS256"}, jti="another")):
        assert await verdicts(forge, f"Bearer {token}") == [(200, "", "")] * 2


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.covers("A033", "A037", "B040", "B041", "D021")
async def test_a_forged_token_is_refused_on_either_way(forge: Forge, name: str) -> None:
    before = list(forge.mallory.paths)
    assert await verdicts(forge, f"Bearer {FORGERIES[name](forge)}") == [REFUSED] * 2
    assert forge.mallory.paths == before, "the server went where the token sent it"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.covers("B040", "B043")
async def test_a_token_that_is_over_is_invalid_too_and_says_that_it_is_over(forge: Forge) -> None:
    ends = forge.claims["iat"] - 1
    over = [forge.says(iat=ends - 900, exp=ends), forge.says(iat=0, exp=ends), forge.says(iat=0, exp=seconds(10**8))]
    for token in over:
        assert await verdicts(forge, f"Bearer {token}") == [(401, "TOKEN_EXPIRED", REFUSED[2])] * 2


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.covers("A033", "B041")
async def test_of_two_headers_none_counts_not_even_with_a_good_token_in_both(forge: Forge) -> None:
    good, forged = f"Bearer {forge.ann.access_token}", f"Bearer {forge.unsigned('none')}"
    assert await verdicts(forge, good) == [(200, "", "")] * 2
    for pair in ((good, good), (good, forged), (forged, good), (good, f"Bearer {forge.ben.access_token}")):
        assert await verdicts(forge, *pair) == [REFUSED] * 2


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.covers("A033", "B041")
async def test_a_forgery_profits_from_no_good_token_before_it(forge: Forge) -> None:
    """What was verified is remembered by the whole text, and a refusal forgets nothing."""
    good = f"Bearer {forge.ben.access_token}"
    for forgery in (f"{good}A", good[:-1], f"{good}.", good.replace(".", "..", 1), forge.unsigned("none")):
        assert await verdicts(forge, good) == [(200, "", "")] * 2
        assert await verdicts(forge, f"Bearer {forgery.removeprefix('Bearer ')}") == [REFUSED] * 2
    assert await verdicts(forge, good) == [(200, "", "")] * 2


def first_line(base_url: str, *lines: bytes) -> int:
    """The status of a request whose head is sent as it is."""
    parts = urlsplit(base_url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 80)), timeout=10) as connection:
        head = b"\r\n".join([b"GET /api/v1/auth/me HTTP/1.1", b"Host: test", b"Connection: close", *lines, b"", b""])
        connection.sendall(head)
        answer = connection.recv(65536)
    return int(answer.split(b" ", 2)[1])


@pytest.mark.covers("A033", "B041")
def test_no_trick_with_the_lines_of_a_request_makes_one_good_header_of_two_bad_ones(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(database_url=f"sqlite:///{tmp_path}/duly.db", secret_key=SECRET)
    with httpx.Client(base_url=server.base_url, trust_env=False, timeout=20) as client:
        body = {"email": "ann@example.com", "password": PASSWORD}
        token = client.post("/api/v1/auth/register", json=body).raise_for_status().json()["access_token"].encode()
    half = len(token) // 2
    assert first_line(server.base_url, b"Authorization: Bearer " + token) == 200
    assert first_line(server.base_url, b"aUTHORIZATION:bearer " + token) == 200
    for lines in (
        [b"Authorization: Bearer " + token, b"Authorization: Bearer " + token],
        [b"Authorization: Bearer " + token, b"authorization: Basic x"],
        [b"Authorization: Bearer " + token[:half], b" " + token[half:]],
        [b"Authorization: Bearer", b"\t" + token],
        [b"Authorization : Bearer " + token],
        [b"Authorization\0: Bearer " + token],
        [b"Authorization: Bearer " + token + b"\0"],
        [b"Authorization: Bearer " + token[:half] + b"\r" + token[half:]],
        [b"Authorization: Bearer " + token[:half] + b"\n " + token[half:]],
        [b"X-Other: a\0Authorization: Bearer " + token],
        [b"Proxy-Authorization: Bearer " + token],
        [b"Authorization_: Bearer " + token],
        [b"Cookie: Authorization=Bearer " + token],
    ):
        assert first_line(server.base_url, *lines) in {400, 401}, lines[0][:40]
