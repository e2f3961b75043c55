"""Who gets in: no forged, expired, foreign or misplaced token does; sessions stay their owners', logs keep quiet."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio

from duly.kit.clock import now
from duly.kit.jwt import AccessTokens
from duly.kit.secrets import derive_key
from tests.better_auth.issuing import encode, seal
from tests.fixtures.application import PASSWORD, Api, Person, StartApp
from tests.fixtures.server import StartServer

shared = pytest.mark.asyncio(loop_scope="module")
PUBLIC = {
    ("GET", "/"), ("GET", "/health"), ("GET", "/health/live"), ("GET", "/health/ready"), ("GET", "/health/db"),
    ("GET", "/health/redis"), ("GET", "/metrics"), ("POST", "/api/v1/auth/register"), ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/auth/refresh"),
    *(("POST", f"/api/v1/auth/{name}") for name in (
        "forgot-password", "reset-password", "verify-email", "resend-verification", "confirm-email",
    )),
}  # fmt: skip
# Their refusals have a shape and tests of their own.
OTHER_CONTRACTS = ("/api/users/", "/api/admins/", "/api/password/", "/api/{user_id}/")
NO_TOKEN, BAD_TOKEN = 'Bearer realm="duly"', 'Bearer realm="duly", error="invalid_token"'


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    return answer.status_code, answer.json()["code"], answer.headers["www-authenticate"]


def key_of(api: Api) -> bytes:
    return derive_key((api.settings.data_dir / "secret_key").read_text().strip(), "access-token")


def protected(api: Api) -> Iterator[tuple[str, str]]:
    for path, operations in api.app.openapi()["paths"].items():
        for method in operations:
            if (method.upper(), path) not in PUBLIC and not path.startswith(OTHER_CONTRACTS):
                filled = re.sub(r"\{\w+\}", "0198f2d4-0000-7000-8000-000000000000", path)
                yield method.upper(), filled
                if filled.startswith("/api/v1/") and not filled.startswith("/api/v1/users"):
                    yield method.upper(), filled.replace("/api/v1/", "/api/", 1)


@pytest_asyncio.fixture(loop_scope="module")
async def claims(carol: Person) -> dict[str, Any]:
    """What a good token of Carol says."""
    found: dict[str, Any] = jwt.decode(carol.access_token, options={"verify_signature": False})
    return found


# No token, or none that can be read


@shared
@pytest.mark.covers("A033", "A037", "B041", "B070", "C050", "C081", "C097", "C122", "D021", "E046", "E067", "E068")
async def test_every_address_but_the_public_ones_wants_a_token_before_it_looks_at_anything(house: Api) -> None:
    found = list(protected(house))
    assert len(found) > 20
    wrong_bodies: list[dict[str, Any]] = [
        {}, {"content": b"{", "headers": {"Content-Type": "application/json"}}, {"json": {"title": 5, "x": 1}},
        {"content": b"x", "headers": {"Content-Type": "text/plain"}}, {"params": {"unknown": "1", "limit": "no"}},
    ]  # fmt: skip
    for method, path in found:
        for wrong in wrong_bodies:
            answer = await house.client.request(method, path, **wrong)
            assert refusal(answer) == (401, "NOT_AUTHENTICATED", NO_TOKEN), (method, path, wrong)
        answer = await house.client.request(method, path, headers={"Authorization": "Bearer a.b.c"})
        assert refusal(answer) == (401, "INVALID_TOKEN", BAD_TOKEN), (method, path)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"


@shared
@pytest.mark.parametrize("path", ["/auth/me", "/tasks", "/tasks/x"])
@pytest.mark.covers("A033", "B042", "C043", "C132", "E044")
async def test_the_header_is_bearer_and_one_token(house: Api, carol: Person, path: str) -> None:
    token, good = carol.access_token, {200, 404}
    for header in (f"Bearer {token}", f"bearer {token}", f"BEARER {token}", f"Bearer   {token}", f" Bearer {token} "):
        answer = await house.client.get(f"/api/v1{path}", headers={"Authorization": header})
        assert answer.status_code in good, header
    wrong = [
        "", "Bearer", "Bearer ", token, f"Token {token}", f"Basic {token}", f"Bearer{token}", f"Bearer {token} {token}",
        f"Bearer,{token}", f'Bearer "{token}"', f"Bearer\t{token}", f"Bearer {token}, Bearer {token}",
        f"Bearer token={token}", f"Bearer {token}.", f"Bearer {token}=", "Bearer null", "Bearer " + "a" * 8193,
        "Bearer " + f"{token}." * 30, b"Bearer \xff\xfe", b"Bearer \xc3\xa9.\xc3\xa9.\xc3\xa9", "Digest username=x",
    ]  # fmt: skip
    for header in wrong:
        answer = await house.client.get(f"/api/v1{path}", headers={"Authorization": header})
        assert refusal(answer) == (401, "INVALID_TOKEN", BAD_TOKEN), header


@shared
@pytest.mark.parametrize("path", ["/auth/me", "/tasks"])
async def test_two_headers_are_none(house: Api, carol: Person, dave: Person, path: str) -> None:
    good, other = carol.headers["Authorization"], dave.headers["Authorization"]
    for pair in ((good, good), (good, other), (good, ""), ("", good), (good, "Basic x")):
        headers = [("Authorization", value) for value in pair]
        assert refusal(await house.client.get(f"/api/v1{path}", headers=headers))[0] == 401, pair


@shared
@pytest.mark.parametrize("path", ["/auth/me", "/tasks"])
async def test_a_token_anywhere_else_is_no_token(house: Api, carol: Person, path: str) -> None:
    token = carol.access_token
    for elsewhere in (
        {"params": {"access_token": token}}, {"params": {"token": token}}, {"cookies": {"access_token": token}},
        {"headers": {"Proxy-Authorization": f"Bearer {token}"}}, {"headers": {"X-Authorization": f"Bearer {token}"}},
        {"headers": {"X-User-Id": carol.user_id, "X-Forwarded-User": carol.email}},
    ):  # fmt: skip
        request = house.client.build_request("GET", f"/api/v1{path}", **elsewhere)  # type: ignore[arg-type]
        assert refusal(await house.client.send(request)) == (401, "NOT_AUTHENTICATED", NO_TOKEN), elsewhere


# Tokens that say what they should not


@shared
@pytest.mark.covers("B040", "B043", "B070", "C042", "C049", "C121")
async def test_an_expired_token_is_told_apart(house: Api, claims: dict[str, Any]) -> None:
    key = key_of(house)
    for life, age in ((900, 901), (60, 61), (24 * 3600, 901)):
        # The last was signed when tokens lived for a day: it does not outlive what the server promises today.
        tokens = AccessTokens(key, "duly", "duly", life)
        token = tokens.issue(
            user_id=claims["sub"], session_id=claims["sid"], token_id="t", issued_at=now() - timedelta(seconds=age)
        )
        answer = await house.client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"})
        assert refusal(answer) == (401, "TOKEN_EXPIRED", BAD_TOKEN), (life, age)


@shared
@pytest.mark.covers("A067", "B040", "B070", "C004", "C049", "C120", "E019")
async def test_a_forged_token_is_refused_whatever_it_says(house: Api, claims: dict[str, Any], carol: Person) -> None:
    key = key_of(house)
    good = seal({"alg": "HS256", "typ": "JWT"}, claims, key, "HS256")
    assert (await house.client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {good}"})).status_code == 200
    head, body, signature = good.split(".")
    admin, none = encode(b'{"sub": "admin"}'), encode(b'{"alg": "none"}')
    forged = [
        f"{head}.{body}.", f"{head}.{body}.{signature[:-2]}AA", f"{head}.{admin}.{signature}",
        f"{body}.{head}.{signature}", f"{none}.{body}.", f"{none}.{body}.{signature}", f"{good}A",
        seal({"alg": "none"}, claims, key, "HS256"), seal({"alg": "HS512"}, claims, key, "HS512"),
        seal({"alg": "HS256"}, claims, b"", "HS256"), seal({"alg": "HS256"}, claims, b"secret" * 8, "HS256"),
        seal({"alg": "HS256", "crit": ["exp"]}, claims, key, "HS256"),
    ]  # fmt: skip
    changes: list[dict[str, Any]] = [
        {"typ": "refresh"}, {"typ": None}, {"iss": "other"}, {"iss": None}, {"aud": "other"}, {"aud": ["duly"]},
        {"sub": ""}, {"sub": 5}, {"sid": None}, {"sid": 5}, {"jti": None}, {"exp": None}, {"exp": "never"},
        {"iat": None}, {"iat": claims["iat"] + 3600, "exp": claims["exp"] + 3600}, {"nbf": claims["exp"]},
    ]  # fmt: skip
    for change in changes:
        changed = {name: value for name, value in {**claims, **change}.items() if value is not None}
        forged.append(seal({"alg": "HS256"}, changed, key, "HS256"))
    for token in forged:
        answer = await house.client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"})
        assert refusal(answer) == (401, "INVALID_TOKEN", BAD_TOKEN), token


@pytest.mark.covers("A014", "D027")
async def test_a_token_of_another_server_is_foreign_even_on_the_same_database(start_app: StartApp) -> None:
    first = await start_app(secret_key="a-key-that-is-only-in-these-tests-1")
    second = await start_app(secret_key="a-key-that-is-only-in-these-tests-2")
    ann = await first.register("ann@example.com")
    assert (await ann.get("/auth/me")).status_code == 200
    answer = await second.client.get("/api/v1/auth/me", headers=ann.headers)
    assert refusal(answer) == (401, "INVALID_TOKEN", BAD_TOKEN)
    answer = await second.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})
    assert refusal(answer)[:2] == (401, "INVALID_REFRESH_TOKEN")
    # It changed nothing for the first one.
    assert (await ann.get("/auth/me")).status_code == 200
    answer = await first.client.post("/api/v1/auth/refresh", json={"refresh_token": ann.refresh_token})
    assert answer.status_code == 200


@shared
async def test_neither_token_serves_as_the_other(house: Api, carol: Person) -> None:
    answer = await house.client.post("/api/v1/auth/refresh", json={"refresh_token": carol.access_token})
    assert refusal(answer)[:2] == (401, "INVALID_REFRESH_TOKEN")
    headers = {"Authorization": f"Bearer {carol.refresh_token}"}
    answer = await house.client.get("/api/v1/auth/me", headers=headers)
    assert refusal(answer) == (401, "INVALID_TOKEN", BAD_TOKEN)
    assert (await carol.get("/auth/me")).status_code == 200


# Others' things


@shared
@pytest.mark.covers("B070", "C099", "C134")
async def test_nobody_sees_or_ends_anothers_session(house: Api, carol: Person, dave: Person) -> None:
    mine = (await carol.get("/auth/sessions")).json()["items"]
    assert [session["id"] for session in mine] == [
        jwt.decode(carol.access_token, options={"verify_signature": False})["sid"]
    ]
    for method in ("DELETE", "GET", "PUT", "PATCH"):
        answer = await dave.request(method, f"/auth/sessions/{mine[0]['id']}")
        assert answer.status_code == (404 if method == "DELETE" else 405)
        assert carol.email not in answer.text
    assert (await dave.post("/auth/logout", json={"all_sessions": True})).status_code == 204
    assert (await carol.get("/auth/me")).json()["id"] == carol.user_id


@shared
async def test_a_token_says_who_calls_and_nothing_that_is_sent_can(house: Api, carol: Person, dave: Person) -> None:
    headers = {"X-User-Id": dave.user_id, "X-Forwarded-User": dave.email, "Cookie": f"user_id={dave.user_id}"}
    assert (await carol.get("/auth/me", headers=headers)).json()["id"] == carol.user_id
    assert (await carol.get("/auth/me", params={"user_id": dave.user_id})).status_code == 422


# What is written down


def collect(client: httpx.Client, database_password: str, secret_key: str) -> list[str]:
    """Use everything that has a secret, well and badly; the secrets that were used."""
    long_secret, wrong = "canary-Ärger-über-92", "canary-wrong-orbit-17"
    first = {"email": "ann@example.com", "password": PASSWORD, "username": "ann-b"}
    tokens = client.post("/api/v1/auth/register", json=first).raise_for_status().json()
    client.post("/api/v1/auth/register", json={"email": "ben@example.com", "password": long_secret}).raise_for_status()
    client.post("/api/v1/auth/register", json={**first, "password": wrong, "nick": wrong})
    client.post("/api/v1/auth/register", content=f'{{"email": "x", "password": "{wrong}"')
    client.post("/api/v1/auth/login", json={"email": "ann@example.com", "password": wrong})
    client.post("/api/v1/auth/login", json={"email": wrong, "password": wrong})
    client.post("/api/v1/auth/login", data={"username": "ann-b", "password": PASSWORD}).raise_for_status()
    client.post("/api/v1/auth/login", params={"password": wrong}, data={"username": "ann-b", "password": wrong})
    fresh = client.post("/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).raise_for_status()
    child = fresh.json()
    client.post("/api/v1/auth/refresh", json={"refresh_token": child["refresh_token"]}).raise_for_status()
    assert client.post("/api/v1/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).status_code == 401
    for token in (tokens["access_token"], child["access_token"]):
        client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"})
        client.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}x"})
        client.get("/api/v1/auth/me", headers={"Authorization": f"Basic {token}"})
        client.get("/api/v1/tasks", params={"access_token": token, "refresh_token": child["refresh_token"]})
        client.delete(f"/api/v1/auth/sessions/{token}")
    secrets = [PASSWORD, long_secret, wrong, database_password, secret_key, child["refresh_token"]]
    secrets += [tokens["refresh_token"], *tokens["access_token"].split(".")[1:], *child["access_token"].split(".")[1:]]
    return secrets


@pytest.mark.covers("C108", "C110", "C112", "C113", "C114", "C115", "C118")
def test_the_log_says_what_happened_and_holds_no_secret(
    start_server: StartServer, database_url: str, dialect: str
) -> None:
    # The server lets its own machine in whatever the password: it is here to be looked for.
    url = database_url.replace("postgres@", "postgres:canary-database-word@")
    secret_key = "canary-key-k3J9-only-in-this-very-test"
    server = start_server(
        database_url=url, secret_key=secret_key, log_level="debug", debug=True, log_sql=True,
        log_format="console" if dialect == "sqlite" else "json",
    )  # fmt: skip
    with httpx.Client(base_url=server.base_url, trust_env=False, timeout=20) as client:
        secrets = collect(client, "canary-database-word", secret_key)
    assert server.stop() == 0
    log = server.log()
    for line in (
        "POST /api/v1/auth/login",
        "401 Unauthorized: /api/v1/auth/login",
        "Status: 201",
        "DELETE /api/v1/auth",
    ):
        assert line in log
    assert "canary" not in log
    for secret in secrets:
        assert secret not in log
    assert "$argon2" not in log
