"""Access tokens: the good one is read, every forgery is refused alike, and what is remembered stays bounded."""

import base64
import hashlib
import hmac
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.errors import Unauthenticated
from duly.kit.jwt import AccessClaims, AccessTokens, VerifiedTokens, unverified_issuer

KEY = b"0123456789abcdef0123456789abcdef"
TOKENS = AccessTokens(KEY, "https://duly.example", "duly", 900)
NOW = datetime.now(UTC).replace(microsecond=0)
EPOCH = int(NOW.timestamp())
GOOD: dict[str, Any] = {
    "iss": "https://duly.example", "aud": "duly", "sub": "ann", "sid": "s1", "jti": "t1", "iat": EPOCH,
    "exp": EPOCH + 900, "typ": "access",
}  # fmt: skip


def encode(part: object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(claims: object, header: object = None, key: bytes = KEY, digest: str = "sha256") -> str:
    """A token made by hand, because a library refuses to make most of these."""
    signed = f"{encode(header if header is not None else {'alg': 'HS256', 'typ': 'JWT'})}.{encode(claims)}"
    return f"{signed}.{encode(hmac.digest(key, signed.encode(), digest))}"


def issue(**changes: Any) -> str:
    options: dict[str, Any] = {"user_id": "ann", "session_id": "s1", "token_id": "t1", "issued_at": NOW}
    return TOKENS.issue(**options | changes)


def refusal(token: str, tokens: AccessTokens = TOKENS) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as caught:
        tokens.read(token)
    return caught.value


@pytest.mark.covers("A030", "A067", "A080", "A082", "B021", "C004", "C119", "D016")
def test_what_was_issued_is_read_back() -> None:
    claims = TOKENS.read(issue())
    assert claims == AccessClaims("ann", "s1", "t1", NOW, NOW + timedelta(seconds=900))


@pytest.mark.covers("B044", "D018")
def test_the_claims_are_the_documented_ones() -> None:
    assert jwt.decode(issue(), KEY, algorithms=["HS256"], audience="duly") == GOOD
    assert jwt.get_unverified_header(issue()) == {"alg": "HS256", "typ": "JWT"}


def test_equal_input_gives_an_equal_token() -> None:
    assert issue() == issue(issued_at=NOW.astimezone())
    assert issue() == issue(issued_at=NOW + timedelta(microseconds=999_999))
    assert issue() != issue(token_id="t2")
    with pytest.raises(ValueError, match="offset"):
        issue(issued_at=NOW.replace(tzinfo=None))


def test_a_token_by_hand_is_as_good() -> None:
    assert TOKENS.read(sign(GOOD)).user_id == "ann"


@pytest.mark.covers("B040", "B043", "C042", "C121", "E046")
def test_expired_is_told_apart_and_says_what_to_do() -> None:
    now = datetime.now(UTC)
    expired = refusal(issue(issued_at=now - timedelta(seconds=900)))
    assert (expired.code, "refresh it" in expired.message) == ("TOKEN_EXPIRED", True)
    invalid = refusal(issue()[:-4] + "AAAA")
    assert (invalid.code, "sign in again" in invalid.message) == ("INVALID_TOKEN", True)
    assert TOKENS.read(issue(issued_at=now - timedelta(seconds=870))).user_id == "ann"


def test_only_an_otherwise_good_token_is_called_expired() -> None:
    over = {"iat": EPOCH - 1000, "exp": EPOCH - 100}
    assert refusal(sign(GOOD | over)).code == "TOKEN_EXPIRED"
    for fault in ({"typ": "refresh"}, {"aud": "other"}, {"iss": "https://other.example"}, {"sid": ""}):
        assert refusal(sign(GOOD | over | fault)).code == "INVALID_TOKEN"
    assert refusal(sign(GOOD | over, key=b"x" * 32)).code == "INVALID_TOKEN"


FORGED_HEADERS: list[object] = [
    {"alg": "none"}, {"alg": "None"}, {"alg": "hs256"}, {"alg": "HS384"}, {"alg": "HS512"}, {"alg": "RS256"},
    {"alg": "EdDSA"}, {"alg": ["HS256"]}, {"alg": None}, {"alg": {}}, {}, [], "HS256", 1, None,
    {"alg": "HS256", "crit": ["exp"]}, {"alg": "HS256", "crit": ["b64"], "b64": True},
    {"alg": "HS256", "crit": ["b64"], "b64": False}, {"alg": "HS256", "b64": True}, {"alg": "HS256", "b64": False},
    {"alg": "HS256", "crit": []}, {"alg": "HS256", "kid": 5}, b"{", b"\xff", b"[" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("header", FORGED_HEADERS, ids=range(len(FORGED_HEADERS)))
@pytest.mark.covers("E042", "C049", "C120")
def test_forged_headers(header: object) -> None:
    wanted = str(header.get("alg")) if isinstance(header, dict) else ""
    digest = {"HS384": "sha384", "HS512": "sha512"}.get(wanted, "sha256")
    assert refusal(sign(GOOD, b"null" if header is None else header, digest=digest)).code == "INVALID_TOKEN"


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


FORGED_CLAIMS: list[object] = [
    *(without(name) for name in GOOD),
    *(GOOD | {name: None} for name in GOOD),
    *(GOOD | {name: value} for name in ("sub", "sid", "jti") for value in ("", 1, True, ["a"], {"a": 1})),
    *(GOOD | {name: value} for name in ("iat", "exp") for value in ("x", str(EPOCH + 900), 1e300, True, [1], -1)),
    *(GOOD | {"exp": value} for value in (EPOCH + 0.5, 10**400, 2**63, EPOCH - 1_000_000)),
    *(GOOD | {"aud": value} for value in ("other", ["duly"], ["duly", "other"], [], 1, {"duly": 1})),
    *(GOOD | {"iss": value} for value in ("https://other.example", "https://duly.example/", ["https://duly.example"])),
    *(GOOD | {"typ": value} for value in ("refresh", "Access", "", 1, ["access"])),
    GOOD | {"nbf": EPOCH + 3600}, GOOD | {"nbf": "x"}, GOOD | {"iat": EPOCH + 3600, "exp": EPOCH + 7200},
    [], "text", 5, b"", b"{", b"null", b"\xff", b'{"exp": NaN}', b"[" * 3000, b'{"exp": ' + b"9" * 5000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("claims", FORGED_CLAIMS, ids=range(len(FORGED_CLAIMS)))
@pytest.mark.covers("E043", "C042", "C049")
def test_signed_but_wrong_claims(claims: object) -> None:
    assert refusal(sign(claims)).code == "INVALID_TOKEN"


def test_a_clock_a_little_ahead_is_forgiven() -> None:
    now = datetime.now(UTC)
    assert TOKENS.read(issue(issued_at=now + timedelta(seconds=30))).user_id == "ann"
    assert refusal(issue(issued_at=now + timedelta(seconds=90))).code == "INVALID_TOKEN"


NO_TOKENS = [
    "", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "é.é.é", "\ud800.a.b", "\0", "Bearer x", "A" * 8193,
    "A.A." + "A" * 1_000_000, issue() + ".", issue() + "=", issue() + "\n", " " + issue(),
    issue().replace(".", ".."), issue().replace(".", " "), issue().rsplit(".", 1)[0], issue().rsplit(".", 1)[0] + ".",
]  # fmt: skip


@pytest.mark.parametrize("token", NO_TOKENS, ids=range(len(NO_TOKENS)))
def test_texts_that_are_no_token(token: str) -> None:
    assert refusal(token).code == "INVALID_TOKEN"


def test_no_changed_character_passes() -> None:
    token = issue()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for position, character in enumerate(token):
        if character != ".":
            other = alphabet[alphabet.index(character) ^ 1]
            assert refusal(token[:position] + other + token[position + 1 :]).code == "INVALID_TOKEN"


@pytest.mark.covers("A014")
def test_another_key_or_a_public_looking_one_is_refused() -> None:
    assert refusal(sign(GOOD, key=b"other-key-other-key-other-key-xx")).code == "INVALID_TOKEN"
    assert refusal(sign(GOOD, key=b"")).code == "INVALID_TOKEN"
    assert refusal(sign(GOOD, key=hashlib.sha256(KEY).digest())).code == "INVALID_TOKEN"
    with pytest.raises(ValueError, match="32 bytes"):
        AccessTokens(b"short", "i", "a", 900)


@given(st.text(max_size=80))
def test_any_text_is_unauthenticated_and_nothing_else(text: str) -> None:
    refusal(text)
    assert unverified_issuer(text) is None or text.count(".") == 2


@pytest.mark.parametrize(
    ("token", "issuer"),
    [
        (sign({"iss": "https://app.example"}, key=b"any"), "https://app.example"),
        (issue(), "https://duly.example"),
        (sign({"sub": "ann"}), None), (sign({"iss": 5}), None), (sign({"iss": None}), None), (sign([]), None),
        (sign(b"\xff"), None), (sign(b"[" * 3000), None), ("a.b", None), ("a.b.c", None), ("", None), ("é.é.é", None),
        (sign({"iss": "x" * 9000}), None),
    ],
    ids=range(13),
)  # fmt: skip
def test_the_issuer_that_a_token_claims(token: str, issuer: str | None) -> None:
    assert unverified_issuer(token) == issuer


def remember(cache: VerifiedTokens[str], token: str, session: str = "s", until: float = 100.0) -> bool:
    return cache.put(token, f"claims of {token}", session_id=session, expires_epoch=until, generation=cache.generation)


def test_remembered_until_it_expires() -> None:
    cache: VerifiedTokens[str] = VerifiedTokens()
    assert remember(cache, "a")
    assert cache.get("a", 99.9) == "claims of a"
    assert cache.get("b", 99.9) is None
    assert cache.get("a", 100.0) is None
    assert len(cache) == 0


def test_a_forgotten_session_takes_all_its_tokens_and_no_other() -> None:
    cache: VerifiedTokens[str] = VerifiedTokens()
    for token, session in (("a", "s1"), ("b", "s1"), ("c", "s2")):
        remember(cache, token, session)
    cache.forget_session("s1")
    cache.forget_session("never seen")
    assert [cache.get(token, 0.0) for token in "abc"] == [None, None, "claims of c"]


@pytest.mark.covers("B046", "B047")
def test_a_check_under_way_during_a_revocation_is_not_remembered() -> None:
    cache: VerifiedTokens[str] = VerifiedTokens()
    before = cache.generation
    cache.forget_session("s")
    assert not cache.put("a", "claims", session_id="s", expires_epoch=100.0, generation=before)
    assert cache.get("a", 0.0) is None
    before = cache.generation
    cache.clear()
    assert not cache.put("a", "claims", session_id="s", expires_epoch=100.0, generation=before)


def test_the_oldest_goes_first_and_the_size_is_bounded() -> None:
    cache: VerifiedTokens[str] = VerifiedTokens(most=3)
    for token in "abcd":
        remember(cache, token)
    assert [cache.get(token, 0.0) is None for token in "abcd"] == [True, False, False, False]
    remember(cache, "b")
    remember(cache, "e")
    assert [cache.get(token, 0.0) is None for token in "bcde"] == [False, True, False, False]
    assert len(cache) == 3


def test_ten_thousand_are_kept_by_default() -> None:
    cache: VerifiedTokens[str] = VerifiedTokens()
    for number in range(25_000):
        remember(cache, f"t{number}", f"s{number // 2}")
    assert len(cache) == 10_000
    # A session whose tokens were all pushed out has left nothing behind.
    cache.forget_session("s0")
    assert len(cache) == 10_000
    cache.forget_session("s12000")
    assert len(cache) == 9_998
    cache.clear()
    cache.forget_session("s12001")
    assert len(cache) == 0


def test_sessions_that_were_pushed_out_leave_nothing_behind() -> None:
    cache: VerifiedTokens[str] = VerifiedTokens(most=10)
    tracemalloc.start()
    try:
        for number in range(20_000):
            remember(cache, f"t{number}", f"s{number}")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000
