"""Scopes of outside issuers' tokens: where they are configured, a token may do what it was given and no more."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import schemathesis

from duly.errors import Forbidden, InsufficientScope
from duly.identity.delegation import Scopes, rights_in
from duly.identity.issuer_settings import issuers_from
from tests.better_auth.issuing import SigningKey, claims_for, jwks_server, seal
from tests.fixtures.application import Api, Person, StartApp
from tests.fixtures.server import StartServer
from tests.fixtures.stored import Stored
from tests.live_clients import OPEN, Refused
from tests.raw_asgi import Asked, ask

SECRET = "the-secret-that-both-sides-of-these-tests-share"
READ, WRITE = "tasks:read", "tasks:write"
SCOPES = Scopes(READ, WRITE)
BOTH = f"{READ} {WRITE}"
SETTINGS = {"better_auth_secret": SECRET, "better_auth_read_scope": READ, "better_auth_write_scope": WRITE}
NEEDS_READ = f'Bearer realm="duly", error="insufficient_scope", scope="{READ}"'
NEEDS_BOTH = f'Bearer realm="duly", error="insufficient_scope", scope="{BOTH}"'
TITLE = {"title": "x"}


def token(scope: object = None, subject: str = "ann", **claims: object) -> str:
    plain = claims_for("", **{"iss": None, "aud": None, "sub": subject, "scope": scope, **claims})
    return seal({"alg": "HS256"}, plain, SECRET.encode(), "HS256")


TOKENS = {scope: token(scope).encode() for scope in (READ, BOTH)}


def bearer(signed: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed}"}


def holder(api: Api, signed: str) -> Person:
    return Person(api.client, "", "", signed, "")


@pytest.fixture
async def api(start_app: StartApp) -> Api:
    return await start_app(**SETTINGS)


@pytest.mark.parametrize(
    ("claims", "may"),
    [
        ({"scope": BOTH}, {"GET", "POST"}),
        ({"scope": [WRITE, "openid", READ]}, {"GET", "POST"}),
        ({"scp": f"openid {WRITE} {READ}"}, {"GET", "POST"}),
        ({"scp": [READ, WRITE]}, {"GET", "POST"}),
        ({"scope": READ}, {"GET"}),
        ({"scp": [READ]}, {"GET"}),
        ({"scope": READ, "scp": BOTH}, {"GET"}),  # the registered claim counts where there are both
        ({"scope": WRITE}, set()),
        ({"scope": READ.upper()}, set()),
        ({"scope": f"{READ}s x{READ}"}, set()),
        ({"scope": f"{READ}\t{WRITE}"}, set()),  # RFC 6749 §3.3: blanks alone part them
        ({"scope": ""}, set()),
        ({"scope": None, "scp": BOTH}, set()),
        ({"scope": {READ: True, WRITE: True}}, set()),
        ({"scope": [[READ], 1, None]}, set()),
        ({"scope": 7}, set()),
        ({}, set()),
        ({"scope": BOTH, "authorization_details": []}, set()),
        ({"scope": BOTH, "authorization_details": [{"type": "payment"}]}, set()),
    ],
)
def test_what_a_token_grants(claims: dict[str, object], may: set[str]) -> None:
    rights = rights_in(claims, SCOPES)
    assert {method for method in ("GET", "POST") if rights is None or rights.allow(method)} == may
    assert rights_in(claims, None) is None
    for method in {"GET", "POST"} - may:
        assert rights is not None
        with pytest.raises(Forbidden) as caught:
            rights.check(method)
        assert isinstance(caught.value, InsufficientScope) != ("authorization_details" in claims)


@pytest.mark.parametrize(
    ("scopes", "entry", "fault"),
    [
        ((READ, None), {}, "BETTER_AUTH_WRITE_SCOPE: is missing beside BETTER_AUTH_READ_SCOPE"),
        (("", WRITE), {}, "BETTER_AUTH_READ_SCOPE: is missing"),
        ((f"{READ} x", WRITE), {}, "BETTER_AUTH_READ_SCOPE, BETTER_AUTH_WRITE_SCOPE: a scope is one word"),
        ((READ, 'a"b'), {}, "a scope is one word"),
        ((READ, "a\nb"), {}, "a scope is one word"),
        ((None, None), {"read_scope": READ}, r"TRUSTED_ISSUERS\[0\].write_scope: is missing"),
        ((None, None), {"read_scope": READ, "write_scope": "ä"}, r"TRUSTED_ISSUERS\[0\].*a scope is one word"),
        ((None, None), {"read_scope": [READ]}, r"TRUSTED_ISSUERS\[0\].read_scope: must be text"),
        ((None, None), {"read_scopes": READ}, "did you mean read_scope"),
    ],
)
def test_a_wrong_scope_in_the_settings_is_named(
    scopes: tuple[str | None, str | None], entry: dict[str, object], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        issuers_from(None, SECRET, [{"issuer": "x", "secret": SECRET, **entry}], better_auth_scopes=scopes)


def test_scopes_for_better_auth_without_it_are_a_fault() -> None:
    with pytest.raises(ValueError, match="BETTER_AUTH_READ_SCOPE: is set without BETTER_AUTH_URL"):
        issuers_from(None, None, [{"issuer": "x", "secret": SECRET}], better_auth_scopes=(READ, WRITE))


async def operations(api: Api) -> AsyncIterator[tuple[str, str, str]]:
    """Method, address and operation of everything that asks who one is."""
    document = (await api.client.get("/openapi.json")).json()
    for path, methods in document["paths"].items():
        address = re.sub(r"\{\w+\}", str(uuid.uuid4()), path.replace("{user_id}/tasks", "ann/tasks"))
        for method, operation in methods.items():
            if operation.get("security"):
                yield method.upper(), address, operation["operationId"]


async def test_every_operation_asks_for_the_scope(api: Api, stored: Stored) -> None:
    """Whatever else is asked for. The live streams are asked over real sockets below."""
    nothing, reader = bearer(token("openid", "nobody")), bearer(token(READ))
    count = 0
    async for method, address, name in operations(api):
        if name == "follow_changes":
            continue
        safe = method == "GET"
        # Of v1, users alone have one address: the other is the accounts contract's.
        alias = address if address.startswith("/api/v1/users") else address.replace("/api/v1/", "/api/")
        for where in {address, alias}:
            answer = await api.client.request(method, where, headers=nothing)
            found = (answer.status_code, answer.headers.get("www-authenticate"))
            assert found == (403, NEEDS_READ if safe else NEEDS_BOTH), (method, where, answer.text)
            answer = await api.client.request(method, where, headers=reader)
            challenge = answer.headers.get("www-authenticate")
            assert (challenge == NEEDS_BOTH) is not safe, (name, answer.text)
            assert safe or answer.status_code == 403
        count += 1
    assert count > 40
    assert await stored.value("SELECT count(*) FROM users WHERE subject = ?", "nobody") == 0


async def test_the_refusal_has_each_contracts_shape(api: Api) -> None:
    reader = holder(api, token(READ))
    v1 = await reader.post("/tasks", json=TITLE)
    assert v1.headers["content-type"] == "application/problem+json"
    assert (v1.json()["code"], v1.json()["type"]) == ("INSUFFICIENT_SCOPE", "urn:duly:problem:insufficient-scope")
    owner = await api.client.post("/api/ann/tasks", json=TITLE, headers=reader.headers)
    assert (owner.json()["success"], owner.json()["error"]["code"]) == (False, "INSUFFICIENT_SCOPE")
    accounts = await api.client.put("/api/users/me", json={}, headers=reader.headers)
    assert accounts.json()["error"] == "AuthorizationError"
    for answer in (v1, owner, accounts):
        assert (answer.status_code, answer.headers["www-authenticate"]) == (403, NEEDS_BOTH)
    detailed = await holder(api, token(BOTH, authorization_details=[{"type": "x"}])).get("/tasks")
    assert (detailed.status_code, detailed.json()["code"]) == (403, "AUTHORIZATION_DETAILS_UNKNOWN")
    assert "www-authenticate" not in detailed.headers


async def test_lane_and_route_decide_alike_also_for_a_token_that_is_remembered(start_app: StartApp) -> None:
    shipped, declared = await start_app(**SETTINGS), await start_app(**SETTINGS)
    declared.app.dependency_overrides[object] = object  # its lane stands aside
    served = 0
    one = f"/api/v1/tasks/{(await holder(shipped, token(BOTH)).add_task())['id']}"
    browser = ((b"origin", b"https://a.example"), (b"accept-encoding", b"gzip"))
    for api, more in ((shipped, ()), (shipped, browser), (declared, ()), (declared, browser)):
        for scope, refused in ((READ, True), (BOTH, False), (READ, True)):
            headers = (*more, (b"content-type", b"application/json"), (b"authorization", b"Bearer %s" % TOKENS[scope]))
            found = []
            for method, path, body in (
                ("GET", one, b""), ("GET", "/api/v1/tasks", b""), ("POST", "/api/v1/tasks", b'{"title":"x"}'),
                ("PATCH", one, b'{"title":"x"}'), ("PUT", one, b'{"title":"x"}'), ("POST", "/api/v1/tasks", b"{"),
            ):  # fmt: skip
                answer = await ask(api.app, Asked(method, path, headers=headers, pieces=(body,)))
                challenge = dict(answer.headers).get(b"www-authenticate", b"").decode()
                assert challenge == (NEEDS_BOTH if refused and method != "GET" else "")
                found.append(answer.status)
                served += answer.was_direct and refused
            # Who may not write is told so before what was sent is read.
            assert found == [200, 200, *([403] * 4 if refused else [201, 200, 200, 400])]
    assert served == 7  # what the reader reads, but for the first time: the token was not known


async def test_one_scope_for_both_and_none_configured(start_app: StartApp) -> None:
    same = await start_app(better_auth_secret=SECRET, better_auth_read_scope="duly", better_auth_write_scope="duly")
    assert (await holder(same, token("duly")).post("/tasks", json=TITLE)).status_code == 201
    refused = await holder(same, token(BOTH)).post("/tasks", json=TITLE)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (403, NEEDS_READ.replace(READ, "duly"))
    anyhow = await start_app(better_auth_secret=SECRET)
    for claims in ({"scope": ""}, {"scope": "openid", "authorization_details": [{"type": "x"}]}, {"scope": 7}):
        assert (await holder(anyhow, token(**claims)).post("/tasks", json=TITLE)).status_code == 201


async def test_each_issuer_has_scopes_of_its_own(start_app: StartApp) -> None:
    key = SigningKey("first")
    with jwks_server() as issuer:
        issuer.publish(key)
        entry = {"issuer": "https://id.example", "jwks_url": f"{issuer.origin}/keys", "audiences": ["duly"],
                 "read_scope": "r", "write_scope": "w"}  # fmt: skip
        api = await start_app(better_auth_secret=SECRET, trusted_issuers=(entry,), local_accounts=True)
        answers = []
        for scope in ("r", "r w", "w", BOTH):
            claims = claims_for("https://id.example", aud="duly", sub="by-key", scope=scope)
            answers.append((await holder(api, key.sign(claims)).post("/tasks", json=TITLE)).status_code)
        assert answers == [403, 201, 403, 403]
        assert (await holder(api, token("openid")).post("/tasks", json=TITLE)).status_code == 201
        own = await api.register()  # an account of this server has all its rights
        assert (await own.post("/tasks", json=TITLE)).status_code == 201


async def test_what_is_refused_counts(start_app: StartApp) -> None:
    api = await start_app(
        **SETTINGS, rate_limit_enabled=True, rate_limit_anonymous="3/hour", rate_limit_user="5/minute"
    )
    nothing, reader = holder(api, token("openid")), holder(api, token(READ))
    assert [(await nothing.get("/tasks")).status_code for _ in range(4)] == [403, 403, 403, 429]
    assert [(await reader.post("/tasks", json=TITLE)).status_code for _ in range(6)] == [403] * 5 + [429]


async def test_live_streams_are_read(start_server: StartServer) -> None:
    server = start_server(**SETTINGS)
    for kind, status in (("sse", 403), ("websocket", 4403)):
        with pytest.raises(Refused) as caught:
            async with OPEN[kind](server.base_url, token("openid")):
                pass
        assert (caught.value.status, caught.value.code) == (status, "INSUFFICIENT_SCOPE")
        async with OPEN[kind](server.base_url, token(READ)) as reader, asyncio.timeout(10):
            async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
                answer = await client.post("/api/v1/tasks", json=TITLE, headers=bearer(token(BOTH)))
                assert answer.status_code == 201
            assert (await reader.next())["task"]["title"] == "x"


async def test_the_document_says_so_where_scopes_are_asked_for(api: Api, start_app: StartApp) -> None:
    document: dict[str, Any] = api.app.openapi()
    flow = document["components"]["securitySchemes"]["password"]["flows"]["password"]
    flow |= {name: f"https://tasks.example.com{flow[name]}" for name in ("tokenUrl", "refreshUrl")}
    schemathesis.openapi.from_dict(document).validate()
    plain = (await start_app()).app.openapi()
    said = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if operation.get("security"):
                assert "WWW-Authenticate" in operation["responses"]["403"]["headers"], (method, path)
                said += "403" not in plain["paths"][path][method]["responses"]
    assert said > 20
