"""What belongs to no contract: welcome, health, documents, browsers from elsewhere, compression, security headers."""

import re
import socket
from typing import Any

import httpx
import pytest
import schemathesis

from tests.fixtures.application import Api, Person, StartApp
from tests.fixtures.server import StartServer, free_port
from tests.second_connection import second_connection

pytestmark = pytest.mark.asyncio(loop_scope="module")
own_loop = pytest.mark.asyncio(loop_scope="function")

EIGHT = {
    "content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy", "permissions-policy",
    "cross-origin-opener-policy", "cross-origin-resource-policy", "x-permitted-cross-domain-policies",
}  # fmt: skip
METHODS = ("get", "post", "put", "patch", "delete")
FRONTENDS = ("https://app.example.com", "http://localhost:3000")


async def document_of(api: Api) -> dict[str, Any]:
    response = await api.client.get("/openapi.json")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    document: dict[str, Any] = response.json()
    return document


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def has_own_shape(label: str) -> bool:
    """Whether an operation is one of a contract that has a shape of its own for errors: accounts, or owner."""
    return label.split()[1].startswith(("/api/users", "/api/admins", "/api/password", "/api/{user_id}/"))


@pytest.mark.covers("E087", "D111", "E004")
async def test_the_welcome_names_the_version_and_links_that_work(house: Api) -> None:
    response = await house.client.get("/")
    welcome = response.json()
    assert (response.status_code, welcome["name"]) == (200, "Duly")
    assert welcome["version"] == (await document_of(house))["info"]["version"]
    assert set(welcome["links"]) >= {"health", "docs", "redoc", "openapi"}
    for link in welcome["links"].values():
        assert (await house.client.get(link)).status_code == 200, link


@pytest.mark.covers("A060", "A061", "A062", "B061", "D010", "D107", "D108", "D109", "D110", "E004", "E086", "E122")
async def test_health_tells_status_version_environment_and_each_dependency(house: Api) -> None:
    response = await house.client.get("/health")
    health = response.json()
    assert (response.status_code, health["status"]) == (200, "healthy")
    assert health["version"] == (await document_of(house))["info"]["version"]
    assert health["environment"] == house.settings.environment == "development"
    assert (await house.client.get("/health")).json()["uptime_seconds"] > health["uptime_seconds"] >= 0
    database = health["checks"]["database"]
    assert (database["status"], database["configured"]) == ("healthy", True)
    assert database["milliseconds"] > 0
    assert health["checks"]["redis"]["status"] == "not configured"
    assert set(health["checks"]) == {"database", "redis", "email"}
    assert (await house.client.get("/health/live")).json() == {"status": "alive"}
    for path, status in (("/health/ready", "healthy"), ("/health/db", "healthy"), ("/health/redis", "not configured")):
        response = await house.client.get(path)
        assert (response.status_code, response.json()["status"]) == (200, status), path
    assert not re.search(r"sqlite|postgres|127\.0\.0\.1|/", (await house.client.get("/health")).text)


@own_loop
@pytest.mark.covers("A062", "A072", "D112")
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_redis_is_healthy_when_it_answers_and_degrades_only_itself_when_not(start_app: StartApp) -> None:
    up = await start_app(redis_url="redis://127.0.0.1:6379/0")
    for path in ("/health/redis", "/health"):
        response = await up.client.get(path)
        assert (response.status_code, response.json()["status"]) == (200, "healthy"), path
    down = await start_app(redis_url=f"redis://:a-password@127.0.0.1:{free_port()}/0")
    refused = await down.client.get("/health/redis")
    assert (refused.status_code, refused.json()["status"]) == (503, "unhealthy")
    health = await down.client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert health.json()["checks"]["redis"]["status"] == "unhealthy"
    assert "a-password" not in health.text + refused.text
    assert (await down.client.get("/health/ready")).status_code == 200
    assert (await (await down.register()).get("/tasks")).status_code == 200


@pytest.mark.covers("A117", "B060", "B064", "C006", "D086", "D087", "E088", "E089", "E090")
async def test_the_document_is_valid_openapi_31_and_the_pages_show_it(house: Api) -> None:
    document = await document_of(house)
    assert document["openapi"].startswith("3.1.")
    # A relative reference starts at the server's address (OpenAPI 3.1 §4.6); the standard's schema wants it whole.
    flow = document["components"]["securitySchemes"]["password"]["flows"]["password"]
    flow |= {name: str(house.client.base_url.join(flow[name])) for name in ("tokenUrl", "refreshUrl")}
    schemathesis.openapi.from_dict(document).validate()
    for path in ("/docs", "/redoc"):
        page = await house.client.get(path)
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "/openapi.json" in page.text
    broken = {**document, "paths": {"/x": {"get": {"responses": "none"}}}}
    with pytest.raises(Exception, match=r"responses|none"):
        schemathesis.openapi.from_dict(broken).validate()


@pytest.mark.covers("A045", "A118", "A119", "A120", "B048", "B063", "D087", "E014")
async def test_every_operation_is_described_and_declares_its_errors(house: Api) -> None:
    document = await document_of(house)
    found = operations(document)
    assert len(found) >= 20
    names = [operation["operationId"] for _, operation in found]
    assert len(set(names)) == len(names)
    for label, operation in found:
        assert re.fullmatch(r"[a-z][a-z_]*", operation["operationId"]), label
        assert operation["summary"], label
        assert len(operation["description"]) > 10, label
        assert len(operation["tags"]) == 1, label
        responses = operation["responses"]
        expected = {"422", "500", "503"}
        expected |= {"401"} if operation.get("security") else set()
        expected |= {"413", "415"} if "requestBody" in operation else set()
        # Somebody else's id as the owner in the path is 403, whether there is such a user or not.
        expected |= {"404"} if "{" in label.replace("/api/{user_id}/", "/") else set()
        assert expected <= set(responses), label
        for status, response in responses.items():
            assert response["description"], label
            if status >= "400" and not label.startswith("GET /health"):
                shape = "application/json" if has_own_shape(label) else "application/problem+json"
                assert list(response["content"]) == [shape], (label, status)
            assert "X-Request-ID" in response["headers"], (label, status)
    schemas = document["components"]["schemas"]
    for name in ("TaskCreate", "TaskUpdate", "TaskResponse", "TaskListResponse", "Problem"):
        assert "examples" in str(schemas[name]), name
    assert {"bearer"} <= set(document["components"]["securitySchemes"])


async def test_every_route_below_the_version_is_in_the_document(house: Api) -> None:
    documented = {label for label, _ in operations(await document_of(house))}
    outside = {label for label in documented if not label.split()[1].startswith("/api/v1/")}
    assert {label for label in outside if not has_own_shape(label)} == {
        "GET /", "GET /health", "GET /health/live", "GET /health/ready", "GET /health/db", "GET /health/redis",
        "GET /metrics",
    }  # fmt: skip
    for label in (
        "GET /api/v1/tasks",
        "POST /api/v1/tasks",
        "PATCH /api/v1/tasks/{task_id}/complete",
        "GET /api/v1/changes",
        "GET /api/v1/users",
        "POST /api/v1/auth/forgot-password",
        "GET /api/v1/audit-log",
        "POST /api/users/register",
        "POST /api/admins/login",
        "POST /api/password/reset-password",
    ):
        assert label in documented


@own_loop
async def test_the_documents_can_be_switched_off(start_app: StartApp) -> None:
    api = await start_app(docs_enabled=False)
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert (await api.client.get(path)).status_code == 404, path
    assert (await api.client.get("/")).json()["links"] == {"health": "/health"}


def preflight(origin: str, method: str = "PATCH", headers: str = "authorization, if-match") -> dict[str, str]:
    return {
        "Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers,
    }  # fmt: skip


@own_loop
@pytest.mark.covers("A036", "A087", "A126", "B054", "D017", "E003", "E008", "E118")
async def test_browsers_of_the_named_frontends_may_call_and_no_others(start_app: StartApp) -> None:
    api = await start_app(cors_origins=",".join(FRONTENDS))
    for origin in FRONTENDS:
        allowed = await api.client.options("/api/v1/tasks/x", headers=preflight(origin))
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == origin
        assert allowed.headers["access-control-allow-credentials"] == "true"
        assert "PATCH" in allowed.headers["access-control-allow-methods"]
        assert "if-match" in allowed.headers["access-control-allow-headers"].lower()
    for strange in ("https://evil.example", "null", "https://app.example.com.evil.example", "http://app.example.com"):
        refused = await api.client.options("/api/v1/tasks/x", headers=preflight(strange))
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
        assert "access-control-allow-origin" not in (await api.client.get("/", headers={"Origin": strange})).headers
    odd = await api.client.options("/api/v1/tasks", headers=preflight(FRONTENDS[0], method="TRACE"))
    assert odd.status_code == 400


def unreadable(answers: list[httpx.Response]) -> list[int]:
    """The statuses of the answers that a browser would keep from the first frontend."""
    return [
        answer.status_code
        for answer in answers
        if answer.headers.get("access-control-allow-origin") != FRONTENDS[0] or "Origin" not in answer.headers["vary"]
    ]


@own_loop
@pytest.mark.covers("A044", "E115", "D017")
async def test_a_frontend_can_read_every_kind_of_answer(start_app: StartApp) -> None:
    api = await start_app(cors_origins=FRONTENDS[0])
    ann = await api.register()
    task = await ann.add_task()
    origin = {"Origin": FRONTENDS[0]}
    answers = [
        await ann.get("/tasks", headers=origin),
        await ann.post("/tasks", json={"title": "x"}, headers=origin),
        await ann.get(f"/tasks/{task['id']}", headers={**origin, "If-None-Match": '"1"'}),
        await ann.patch(f"/tasks/{task['id']}", json={}, headers={**origin, "If-Match": '"7"'}),
        await ann.delete(f"/tasks/{task['id']}", headers=origin),
        await api.client.get("/api/v1/tasks", headers=origin),
        await api.client.get("/nonexistent", headers=origin),
        await ann.get("/tasks/x", headers=origin),
        await ann.post("/tasks", json={}, headers=origin),
        await ann.post("/tasks", content=b"{", headers={**origin, "Content-Type": "application/json"}),
        await ann.delete("/tasks", headers=origin),
    ]
    assert [answer.status_code for answer in answers] == [200, 201, 304, 412, 204, 401, 404, 404, 422, 400, 405]
    assert unreadable(answers) == []
    exposed = answers[0].headers["access-control-expose-headers"].lower()
    for name in ("etag", "location", "x-request-id", "retry-after"):
        assert name in exposed


@own_loop
@pytest.mark.covers("A044", "E115")
async def test_a_frontend_can_read_what_the_door_refuses_and_a_fault(start_app: StartApp, dialect: str) -> None:
    api = await start_app(cors_origins=FRONTENDS[0])
    ann = await api.register()
    origin = {"Origin": FRONTENDS[0]}
    too_large = b"x" * (api.settings.max_body_bytes + 1)
    answers = [await ann.post("/tasks", content=too_large, headers=origin)]
    async with second_connection(api.settings.database_url or "") as outside:
        await outside.run("DROP TABLE tasks CASCADE" if dialect == "postgresql" else "DROP TABLE tasks")
    answers += [await ann.get("/tasks", headers=origin), await ann.get("/tasks/trash", headers=origin)]
    assert [answer.status_code for answer in answers] == [413, 500, 500]
    assert unreadable(answers) == []


@pytest.mark.covers("A098")
async def test_large_answers_are_compressed_for_those_who_ask(carol: Person) -> None:
    for number in range(20):
        await carol.add_task(f"task {number}", description="d" * 200)
    zipped = await carol.get("/tasks", headers={"Accept-Encoding": "gzip"})
    plain = await carol.get("/tasks", headers={"Accept-Encoding": "identity"})
    assert zipped.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in zipped.headers["vary"]
    assert int(zipped.headers["content-length"]) * 4 < int(plain.headers["content-length"]) == len(plain.content)
    assert "content-encoding" not in plain.headers
    assert zipped.json() == plain.json()
    small = await carol.get("/tasks?limit=1", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in small.headers


@pytest.mark.covers("A087", "A132", "B058", "D026")
async def test_every_answer_carries_the_security_headers(house: Api, carol: Person) -> None:
    task = await carol.add_task()
    client = house.client
    answers: list[httpx.Response] = [
        await carol.get("/tasks"), await carol.post("/tasks", json={"title": "x"}),
        await carol.get(f"/tasks/{task['id']}", headers={"If-None-Match": "*"}),
        await carol.delete(f"/tasks/{task['id']}"),
        await carol.post("/tasks", content=b"{", headers={"Content-Type": "application/json"}),
        await client.get("/api/v1/tasks"), await client.get("/nonexistent"), await client.post("/health"),
        await carol.post("/tasks", json={"title": "x" * house.settings.max_body_bytes}),
        await client.get("/health"),
        await client.get("/docs"), await client.get("/openapi.json"),
        await client.options("/api/v1/tasks", headers=preflight("https://evil.example")),
    ]  # fmt: skip
    statuses = [200, 201, 304, 204, 400, 401, 404, 405, 413, 200, 200, 200, 400]
    assert [answer.status_code for answer in answers] == statuses
    for answer in answers:
        assert set(answer.headers) >= EIGHT | {"x-request-id"}, answer.url
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        # RFC 6797 §7.2: never over plain HTTP.
        assert "strict-transport-security" not in answer.headers
        assert "server" not in answer.headers
    for answer in answers[:7]:
        assert answer.headers["cache-control"] == "no-store"


def raw(port: int, method: str, path: str) -> tuple[list[str], bytes]:
    """The head's lines and all bytes after it, until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode().lower().split("\r\n"), body


@own_loop
async def test_head_answers_like_get_without_a_body(start_server: StartServer) -> None:
    port = int(start_server().base_url.rpartition(":")[2])
    for path in ("/", "/health/live", "/nonexistent", "/api/v1/tasks", "/openapi.json", "/docs"):
        got, content = raw(port, "GET", path)
        head, body = raw(port, "HEAD", path)
        assert (head[0], body) == (got[0], b""), path
        assert f"content-length: {len(content)}" in head
        personal = ("date:", "x-request-id:")
        assert {line for line in head if not line.startswith(personal)} == {
            line for line in got if not line.startswith(personal)
        }, path


async def test_head_of_a_task_tells_its_version(carol: Person) -> None:
    task = await carol.add_task()
    response = await carol.request("HEAD", f"/tasks/{task['id']}")
    assert (response.status_code, response.headers["etag"], response.content) == (200, '"1"', b"")
    assert (await carol.request("HEAD", f"/tasks/{task['id']}", headers={"If-None-Match": '"1"'})).status_code == 304
    assert (await carol.request("HEAD", "/tasks/nothing")).status_code == 404
    assert (await carol.request("HEAD", "/auth/login")).status_code == 405
