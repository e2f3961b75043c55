"""Tokens of outside issuers: whose count, with which keys, and what a rotation, a flood or an outage changes."""

import asyncio
import gzip
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jwt
import pytest

from duly.errors import Unauthenticated, Unavailable
from duly.identity.issuer_settings import IssuerConfig, issuers_from
from duly.identity.issuers import TrustedIssuers
from duly.identity.jwks import Pauses
from duly.settings import Settings
from tests.better_auth.issuing import JwksServer, SigningKey, claims_for, jwks_server, seal
from tests.better_auth.running import BetterAuth, better_auth_server
from tests.fixtures.application import StartApp

SECRET = "the-secret-that-both-sides-of-these-tests-share"
FIRST, SECOND, THIRD = (SigningKey(name) for name in ("first", "second", "third"))
QUICK = Pauses(unknown_key=0.3, failure=0.1, refresh=600)


@pytest.fixture
def issuer() -> Iterator[JwksServer]:
    with jwks_server() as server:
        server.publish(FIRST)
        yield server


@pytest.fixture
async def trusted(issuer: JwksServer) -> AsyncIterator[TrustedIssuers]:
    """Trusts the issuer's URL, warmed up, with the pauses that ship."""
    trusted = TrustedIssuers(issuers_from(issuer.origin, None, []))
    await trusted.start()
    yield trusted
    await trusted.close()


@pytest.fixture(scope="module")
def better_auth() -> Iterator[BetterAuth]:
    yield from better_auth_server()


@pytest.fixture
def rotating_better_auth() -> Iterator[BetterAuth]:
    yield from better_auth_server(rotation_seconds=1)


@pytest.fixture
def cookie_signing_better_auth() -> Iterator[BetterAuth]:
    yield from better_auth_server(session_cookie="jwks")


def secret_token(secret: str = SECRET, algorithm: str = "HS256", **claims: object) -> str:
    """What a hand-written route signs: no issuer, no audience."""
    plain = claims_for("", **{"iss": None, "aud": None, **claims})
    return seal({"alg": algorithm}, plain, secret.encode(), algorithm)


async def refused(trusted: TrustedIssuers, token: str) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as caught:
        await trusted.verify(token)
    return caught.value


async def is_taken(trusted: TrustedIssuers, token: str) -> bool:
    try:
        await trusted.verify(token)
    except Unauthenticated:
        return False
    return True


# The real Better Auth


@pytest.mark.covers("E098", "C041", "E043")
async def test_the_token_of_a_real_sign_up_is_accepted(better_auth: BetterAuth) -> None:
    trusted = TrustedIssuers(issuers_from(f"{better_auth.origin}/api/auth/", None, []))
    person = better_auth.sign_up_fully("ann@example.com")
    claims = await trusted.verify(person.jwt)
    assert (claims.issuer, claims.subject) == (better_auth.origin, person.user_id)
    assert (claims.email, claims.email_verified, claims.name) == ("ann@example.com", False, "ann")
    assert claims.expires_at == pytest.approx(time.time() + 900, abs=30)
    head, body, signature = person.jwt.split(".")
    other_body = better_auth.sign_up("eve@example.com").split(".")[1]
    for tampered in (f"{head}.{other_body}.{signature}", f"{head}.{body}.{signature[:-4]}AAAA"):
        assert (await refused(trusted, tampered)).code == "INVALID_TOKEN"
    await trusted.close()


async def test_a_real_rotated_key_works_at_once(rotating_better_auth: BetterAuth) -> None:
    trusted = TrustedIssuers(issuers_from(rotating_better_auth.origin, None, []))
    person = rotating_better_auth.sign_up_fully("ann@example.com")
    tokens = [person.jwt]
    await trusted.verify(tokens[0])
    for _ in range(2):
        await asyncio.sleep(1.2)
        tokens.append(rotating_better_auth.new_jwt(person.session_token))
        assert (await trusted.verify(tokens[-1])).subject == person.user_id
    assert len({jwt.get_unverified_header(token)["kid"] for token in tokens}) == 3
    for token in tokens:
        await trusted.verify(token)
    await trusted.close()


async def test_tokens_that_better_auth_signs_for_itself_are_refused(
    better_auth: BetterAuth, cookie_signing_better_auth: BetterAuth
) -> None:
    trusted = TrustedIssuers(issuers_from(better_auth.origin, better_auth.secret, []))
    person = better_auth.sign_up_fully("bob@example.com")
    await trusted.verify(person.jwt)
    for internal in (person.mailed_token, person.session_cookie):
        assert jwt.decode(internal, better_auth.secret, ["HS256"])["exp"] > time.time()
        assert "names no user" in (await refused(trusted, internal)).message
    for session in (person.session_token, person.session_token.partition(".")[0]):
        assert "not the session token" in (await refused(trusted, session)).message
    await trusted.close()
    trusted = TrustedIssuers(issuers_from(cookie_signing_better_auth.origin, better_auth.secret, []))
    person = cookie_signing_better_auth.sign_up_fully("bob@example.com")
    await trusted.verify(person.jwt)
    assert "another purpose" in (await refused(trusted, person.session_cookie)).message
    await trusted.close()


# Whose tokens count


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "ES512", "RS256", "PS256"])
async def test_every_algorithm_of_better_auth_verifies(
    issuer: JwksServer, trusted: TrustedIssuers, algorithm: str
) -> None:
    key = SigningKey("another", algorithm)
    issuer.publish(FIRST, key)
    assert (await trusted.verify(key.sign(claims_for(issuer.origin)))).issuer == issuer.origin
    several = claims_for(issuer.origin, aud=["https://elsewhere.example", issuer.origin])
    await trusted.verify(key.sign(several, typ="JWT"))


@pytest.mark.covers("C040", "E042")
async def test_url_and_secret_are_two_issuers(issuer: JwksServer) -> None:
    trusted = TrustedIssuers(issuers_from(issuer.origin, SECRET, []))
    assert (await trusted.verify(secret_token())).issuer == "better-auth"
    assert (await trusted.verify(FIRST.sign(claims_for(issuer.origin)))).issuer == issuer.origin
    for wrong in (secret_token(SECRET + "x"), secret_token(algorithm="HS512"), secret_token(algorithm="HS384")):
        await refused(trusted, wrong)
    await trusted.close()


async def test_a_short_secret_still_verifies_and_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    trusted = TrustedIssuers(issuers_from(None, "short", []))
    await trusted.start()
    assert (await trusted.verify(secret_token("short", sub="1"))).subject == "1"
    assert "shorter than 32 bytes" in caplog.text
    await trusted.close()


async def test_further_issuers_have_their_own_names_audiences_and_claims(issuer: JwksServer) -> None:
    entries: list[dict[str, object]] = [
        {"issuer": "https://id.example", "jwks_url": f"{issuer.origin}/keys", "audiences": ["duly"],
         "algorithms": ["PS256"], "subject_claim": "uid", "email_verified_claim": "email_verified"},
        {"issuer": "batch", "secret": SECRET[::-1], "algorithms": ["HS512"]},
        {"issuer": "cron", "secret": SECRET * 2},
    ]  # fmt: skip
    key = SigningKey("unnamed", "PS256")
    issuer.publish(key.public_jwk(alg=None))
    trusted = TrustedIssuers(issuers_from(None, SECRET, entries))
    claims = claims_for("https://id.example", aud="duly", uid="u 1", sub=7, email_verified=True, jti="t1")
    verified = await trusted.verify(key.sign(claims))
    assert (verified.issuer, verified.subject) == ("https://id.example", "u 1")
    assert (verified.email_verified, verified.token_id) == (True, "t1")
    await refused(trusted, key.sign(claims | {"aud": "other"}))
    await refused(trusted, key.sign({**claims, "uid": None}))
    assert (await trusted.verify(secret_token(SECRET[::-1], "HS512", iss="batch"))).issuer == "batch"
    await refused(trusted, secret_token(SECRET[::-1], "HS256", iss="batch"))
    assert (await trusted.verify(secret_token(SECRET * 2, iss="cron"))).issuer == "cron"
    await refused(trusted, secret_token(SECRET, iss="cron"))
    await trusted.close()


async def test_an_issuer_cannot_vouch_for_the_users_of_another(issuer: JwksServer) -> None:
    with jwks_server() as other:
        other.publish(SECOND)
        entry = {"issuer": "other", "jwks_url": f"{other.origin}/keys", "audiences": [issuer.origin]}
        trusted = TrustedIssuers(issuers_from(issuer.origin, None, [entry]))
        own, foreign = claims_for(issuer.origin), claims_for(issuer.origin, iss="other")
        assert (await trusted.verify(FIRST.sign(own))).issuer == issuer.origin
        assert (await trusted.verify(SECOND.sign(foreign))).issuer == "other"
        await refused(trusted, SECOND.sign(own))
        await refused(trusted, FIRST.sign(foreign))
        await trusted.close()


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        ("http://h:3000", "http://h:3000"),
        (" HTTPS://App.Example.COM:443/api/auth ", "https://app.example.com"),
        ("http://h:80/", "http://h"),
        ("http://h:443/?x#y", "http://h:443"),
        ("http://[::1]:3000/", "http://[::1]:3000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_the_url_is_reduced_to_its_origin(written: str, origin: str) -> None:
    [config] = issuers_from(written, "", [])
    assert (config.name, config.issuer, config.audiences) == (origin, origin, (origin,))
    assert config.jwks_url == f"{origin}/api/auth/jwks"


PLAIN = {"issuer": "https://id.example", "jwks_url": "https://id.example/keys"}


@pytest.mark.parametrize(
    ("url", "secret", "entries", "fault"),
    [
        ("localhost:3000", None, [], "BETTER_AUTH_URL: must be an http or https address"),
        ("https://user:pw@app.example", None, [], "BETTER_AUTH_URL: must be"),
        ("https://", None, [], "BETTER_AUTH_URL: must be"),
        ("http://h:0", None, [], "BETTER_AUTH_URL: must be"),
        ("http://h:65536", None, [], "BETTER_AUTH_URL: must be"),
        (None, "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----", [], "BETTER_AUTH_SECRET: "),
        (None, None, [{**PLAIN, "secret": SECRET}], r"TRUSTED_ISSUERS\[0\]: .* exactly one"),
        (None, None, [{"issuer": "x"}], r"TRUSTED_ISSUERS\[0\]: .* exactly one"),
        (None, None, [{"jwks_url": "https://id.example/keys"}], r"TRUSTED_ISSUERS\[0\].issuer: is missing"),
        (None, None, [PLAIN, PLAIN], r"TRUSTED_ISSUERS\[1\]: its issuer is already trusted"),
        ("https://id.example", None, [PLAIN], r"TRUSTED_ISSUERS\[0\]: its issuer is already trusted"),
        (None, None, [{**PLAIN, "algorithms": ["HS256"]}], r"TRUSTED_ISSUERS\[0\]: `algorithms`"),
        (None, None, [{**PLAIN, "algorithms": ["none"]}], r"TRUSTED_ISSUERS\[0\]: `algorithms`"),
        (None, None, [{"issuer": "x", "secret": SECRET, "algorithms": ["RS256"]}], "`algorithms`"),
        (None, None, [{**PLAIN, "algorithms": []}], "`algorithms`"),
        (None, None, [{"issuer": "x", "secret": "short"}], r"TRUSTED_ISSUERS\[0\].secret: is too short"),
        (None, None, [{**PLAIN, "jwks_url": "ftp://id.example"}], r"TRUSTED_ISSUERS\[0\].jwks_url: must be"),
        (None, None, [{**PLAIN, "audience": "x"}], "did you mean audiences"),
        (None, None, [{**PLAIN, "subject_claim": ""}], r"TRUSTED_ISSUERS\[0\].subject_claim: must be text"),
        (None, None, [{**PLAIN, "audiences": [1]}], r"TRUSTED_ISSUERS\[0\].audiences: must be a list"),
    ],
)
def test_a_wrong_setting_is_named(url: str | None, secret: str | None, entries: list[Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        issuers_from(url, secret, entries)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_one_name_cannot_be_trusted_twice() -> None:
    configs = issuers_from(None, SECRET, [])
    assert SECRET not in repr(configs)
    with pytest.raises(ValueError, match="same name"):
        TrustedIssuers(configs * 2)
    with pytest.raises(ValueError, match="exactly one"):
        IssuerConfig("x", None, (), None, None, ("HS256",))


async def test_a_secret_alone_hints_at_better_auths_default_once(caplog: pytest.LogCaptureFixture) -> None:
    trusted = TrustedIssuers(issuers_from(None, SECRET, []))
    await trusted.verify(secret_token())
    for _ in range(3):
        await refused(trusted, FIRST.sign(claims_for("https://app.example")))
        await refused(trusted, FIRST.sign(claims_for("https://app.example"), alg="nonsense"))
    assert caplog.text.count("set BETTER_AUTH_URL") == 1


# Keys that come, go and fail


async def test_a_rotated_key_works_at_once_however_often(issuer: JwksServer, trusted: TrustedIssuers) -> None:
    for published in ([FIRST, SECOND], [FIRST, SECOND, THIRD]):
        issuer.publish(*published)
        await asyncio.gather(*(trusted.verify(published[-1].sign(claims_for(issuer.origin))) for _ in range(20)))
    assert len(issuer.paths) == 3
    await trusted.verify(FIRST.sign(claims_for(issuer.origin)))
    assert set(issuer.paths) == {"/api/auth/jwks"}


async def test_a_flood_of_invented_keys_causes_one_fetch(issuer: JwksServer) -> None:
    trusted = TrustedIssuers(issuers_from(issuer.origin, None, []), pauses=QUICK)
    await trusted.start()
    forged = [SECOND.sign(claims_for(issuer.origin), kid=f"invented-{number}") for number in range(200)]
    await asyncio.gather(*(refused(trusted, token) for token in forged[:100]))
    for token in forged[100:]:
        await refused(trusted, token)
    assert len(issuer.paths) == 2
    await asyncio.sleep(0.35)
    for nameless in (None, "", 1, ["first"]):
        await refused(trusted, FIRST.sign(claims_for(issuer.origin), kid=nameless))
    assert len(issuer.paths) == 2
    issuer.publish(FIRST, THIRD)
    await trusted.verify(THIRD.sign(claims_for(issuer.origin)))
    assert len(issuer.paths) == 3
    await trusted.close()


async def test_callers_who_hang_up_do_not_lift_the_limit(issuer: JwksServer, trusted: TrustedIssuers) -> None:
    issuer.delay = 2.0
    for number in range(5):
        token = SECOND.sign(claims_for(issuer.origin), kid=f"invented-{number}")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(trusted.verify(token), 0.02)
    await refused(trusted, SECOND.sign(claims_for(issuer.origin)))
    assert len(issuer.paths) == 2


async def test_known_keys_outlive_the_issuer_and_missing_ones_are_unavailable(issuer: JwksServer) -> None:
    good = FIRST.sign(claims_for(issuer.origin))
    configs = issuers_from(issuer.origin, None, [])
    warm, cold = (TrustedIssuers(configs, pauses=Pauses(0.1, 0.1, 0)) for _ in range(2))
    await warm.verify(good)
    issuer.status = 503
    for _ in range(3):
        await warm.verify(good)
        await refused(warm, SECOND.sign(claims_for(issuer.origin)))
        with pytest.raises(Unavailable) as caught:
            await cold.verify(good)
        assert caught.value.retry_after == 5
        await asyncio.sleep(0.12)
    issuer.publish(FIRST)
    await asyncio.sleep(0.12)
    assert (await cold.verify(good)).issuer == issuer.origin
    await warm.close()
    await cold.close()


async def test_a_withdrawn_key_stops_counting(issuer: JwksServer) -> None:
    trusted = TrustedIssuers(issuers_from(issuer.origin, None, []), pauses=Pauses(refresh=0.0))
    issuer.publish(FIRST, SECOND)
    good = SECOND.sign(claims_for(issuer.origin))
    await trusted.verify(good)
    issuer.publish(FIRST)
    await trusted.verify(FIRST.sign(claims_for(issuer.origin)))
    deadline = time.monotonic() + 20
    while await is_taken(trusted, good):  # the keys are fetched behind the answers
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await refused(trusted, good)
    await trusted.close()


@pytest.mark.parametrize(("delay", "drip"), [(8.0, 0.0), (0.0, 0.2)])
async def test_a_hung_or_absent_issuer_is_unavailable_in_time(issuer: JwksServer, delay: float, drip: float) -> None:
    issuer.delay, issuer.drip = delay, drip
    absent = IssuerConfig("absent", "absent", (), "http://127.0.0.1:9/keys", None, ("EdDSA",))
    trusted = TrustedIssuers([*issuers_from(issuer.origin, None, []), absent])
    began = time.monotonic()
    for name in (issuer.origin, "absent"):
        with pytest.raises(Unavailable):
            await trusted.verify(FIRST.sign(claims_for(name)))
    assert time.monotonic() - began < 4
    await trusted.close()


KEY_SET = b'{"keys": [%s]}'
GOOD_KEY = json.dumps(FIRST.public_jwk()).encode()


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (500, b"", {}),
        (200, b"<html>", {}),
        (200, b"\xff\xfe", {}),
        (200, b"[" * 100_000, {}),
        (200, b"[]", {}),
        (200, b'{"keys": {}}', {}),
        (200, KEY_SET % b"", {}),
        (200, KEY_SET % b",".join([GOOD_KEY] * 101), {}),
        (200, KEY_SET % b'1, null, "x", [], {"kid": 1}, {"kid": "a", "kty": []}, {"kid": "a", "alg": {}}', {}),
        (200, KEY_SET % (GOOD_KEY + b" " * 300_000), {}),
        (200, gzip.compress(KEY_SET % GOOD_KEY), {"Content-Encoding": "gzip"}),
        (302, b"", {"Location": "/api/auth/jwks"}),
        (302, b"", {"Location": "http://[bad"}),
    ],
)
async def test_an_answer_that_is_no_key_set_changes_nothing(
    issuer: JwksServer, status: int, body: bytes, headers: dict[str, str]
) -> None:
    good, unknown = (key.sign(claims_for(issuer.origin)) for key in (FIRST, SECOND))
    configs = issuers_from(issuer.origin, None, [])
    warm, cold = TrustedIssuers(configs), TrustedIssuers(configs)
    await warm.start()
    issuer.status, issuer.body, issuer.headers = status, body, headers
    await cold.start()
    with pytest.raises(Unavailable):
        await cold.verify(good)
    await refused(warm, unknown)
    assert len(issuer.paths) > 2
    await warm.verify(good)
    await warm.close()
    await cold.close()


async def test_a_redirect_is_followed_within_the_origin_only(issuer: JwksServer) -> None:
    with jwks_server() as other:
        other.publish(FIRST)
        configs = issuers_from(issuer.origin, None, [])
        issuer.status, issuer.headers = 302, {"Location": f"{other.origin}/keys"}
        trusted = TrustedIssuers(configs)
        with pytest.raises(Unavailable):
            await trusted.verify(FIRST.sign(claims_for(issuer.origin)))
        await trusted.close()
        assert other.paths == []
    issuer.publish(FIRST)
    issuer.moved_from = "/api/auth/jwks"
    trusted = TrustedIssuers(configs)
    await trusted.verify(FIRST.sign(claims_for(issuer.origin)))
    assert issuer.paths == ["/api/auth/jwks", "/api/auth/jwks", "/moved"]
    await trusted.close()


@pytest.mark.parametrize(
    ("algorithm", "bits", "changes", "reason"),
    [
        ("EdDSA", 0, {"d": "c2VjcmV0"}, "private key"),
        ("RS256", 2048, {"p": "AQAB"}, "private key"),
        ("EdDSA", 0, {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}, "symmetric key"),
        ("RS256", 1024, {}, "RSA key of 1024 bits, and MIN_RSA_BITS asks for 2048"),
        ("EdDSA", 0, {"kid": None}, "has no kid"),
        ("EdDSA", 0, {"use": "enc"}, "not meant for signatures"),
        ("EdDSA", 0, {"key_ops": ["sign"]}, "not meant for signatures"),
        ("RS256", 2048, {"alg": "RS512"}, "its algorithm is none of"),
        ("ES256", 0, {"alg": "ES512"}, "do not make a key"),
        ("EdDSA", 0, {"x": "AA"}, "do not make a key"),
        ("ES256", 0, {"y": "A" * 43}, "do not make a key"),
        ("EdDSA", 0, {"kid": "first"}, "same kid"),
    ],
)
async def test_a_key_that_cannot_be_trusted_is_skipped(
    issuer: JwksServer, caplog: pytest.LogCaptureFixture, *, algorithm: str, bits: int, changes: Any, reason: str
) -> None:
    bad = SigningKey("bad", algorithm, bits)
    issuer.publish(FIRST, bad.public_jwk(**changes))
    trusted = TrustedIssuers(issuers_from(issuer.origin, None, []))
    await trusted.verify(FIRST.sign(claims_for(issuer.origin)))
    await refused(trusted, bad.sign(claims_for(issuer.origin), kid=changes.get("kid", "bad")))
    assert reason in caplog.text
    await trusted.close()


async def test_short_rsa_keys_are_refused_where_the_operator_says_so(
    issuer: JwksServer, start_app: StartApp, caplog: pytest.LogCaptureFixture
) -> None:
    short, long = SigningKey("short", "RS256", 2048), SigningKey("long", "PS256", 3072)
    issuer.publish(FIRST, short, long)
    answers = []
    for settings in ({}, {"min_rsa_bits": 3072}):
        api = await start_app(better_auth_url=issuer.origin, **settings)
        for key in (FIRST, short, long):
            token = key.sign(claims_for(issuer.origin))
            answer = await api.client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"})
            answers.append(answer.status_code)
    assert answers == [200, 200, 200, 200, 401, 200]
    assert "RSA key of 2048 bits, and MIN_RSA_BITS asks for 3072" in caplog.text
    for bits in (1024, 2047, 8193):
        with pytest.raises(ValueError, match="min_rsa_bits"):
            Settings(_env_file=None, min_rsa_bits=bits)


async def test_a_warning_tells_of_an_issuer_without_audiences(
    issuer: JwksServer, caplog: pytest.LogCaptureFixture
) -> None:
    trusted = TrustedIssuers(issuers_from(None, None, [{"issuer": "x", "jwks_url": issuer.origin}]))
    await trusted.start()
    assert "Issuer x has no audiences" in caplog.text
    await trusted.close()


@pytest.mark.covers("E075", "C112")
async def test_verification_takes_under_10_ms_and_logs_no_token(
    issuer: JwksServer, trusted: TrustedIssuers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token, forged = (key.sign(claims_for(issuer.origin)) for key in (FIRST, SECOND))
    await refused(trusted, forged)
    began = time.perf_counter()
    for _ in range(100):
        await trusted.verify(token)
    assert (time.perf_counter() - began) / 100 < 0.01
    assert "jwks" in caplog.text
    for part in (*token.split("."), *forged.split(".")):
        assert part not in caplog.text
