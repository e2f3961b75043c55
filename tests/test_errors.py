"""Every refusal is a problem document (RFC 9457) that says what to do, names the request, and repeats nothing sent."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.fixtures.application import PASSWORD, Api, Person, StartApp
from tests.fixtures.database import run_sql
from tests.second_connection import SecondConnection, second_connection

pytestmark = pytest.mark.asyncio(loop_scope="module")
own_loop = pytest.mark.asyncio(loop_scope="function")

KEYS = ["type", "title", "status", "detail", "instance", "code", "request_id"]
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
MOST_BYTES = 8192
JSON = {"Content-Type": "application/json"}


def check_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """What holds for every refusal, whatever it is about."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert len(response.content) <= MOST_BYTES
    problem: dict[str, Any] = response.json()
    assert list(problem) == [*KEYS, "errors"] if status == 422 else KEYS
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"] == f"urn:duly:problem:{code.lower().replace('_', '-')}"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert UUID4.fullmatch(problem["request_id"])
    assert problem["instance"] == httpx.URL(problem["instance"]).raw_path.decode()
    assert re.fullmatch(r"[A-Z][^\n]+\.", problem["detail"])
    assert problem["title"]
    for error in problem.get("errors", []):
        assert list(error) == ["field", "message", "type"]
        assert re.fullmatch(r"[A-Z_a-z0-9]+", error["type"])
        assert error["message"].endswith(".")
    return problem


async def pieces(total: int) -> AsyncIterator[bytes]:
    for _ in range(0, total, 65536):
        yield b"x" * 65536


@pytest.mark.covers("A086", "A141", "B045", "B049", "B051", "B053", "B071")
@pytest.mark.covers("C010", "D044", "E005", "E062", "E073", "E107")
@pytest.mark.covers("D062", "D063", "D065", "D066", "D067", "E115", "D055", "D053")
async def test_each_code_has_the_one_shape(house: Api, carol: Person) -> None:
    client, task = house.client, await carol.add_task()
    address = f"/tasks/{task['id']}"
    absent = f"/tasks/{uuid.uuid4()}"
    other = await house.log_in(carol.email)
    await other.post("/auth/logout")
    garbage = {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}
    taken = {"email": carol.email, "password": PASSWORD}
    too_large = b'{"title": "' + b"x" * house.settings.max_body_bytes + b'"}'
    for response, status, code in (
        (await carol.post("/tasks", content=b"{", headers=JSON), 400, "MALFORMED_REQUEST"),
        (await carol.patch(address, json={}, headers={"If-Match": "1"}), 400, "MALFORMED_REQUEST"),
        (await carol.get("/tasks?cursor=x"), 400, "BAD_CURSOR"),
        (await client.get("/api/v1/tasks"), 401, "NOT_AUTHENTICATED"),
        (await client.get("/api/v1/tasks", headers=garbage), 401, "INVALID_TOKEN"),
        (await other.get("/tasks"), 401, "SESSION_ENDED"),
        (await client.post("/api/v1/auth/login", json=taken | {"password": "wrong-one"}), 401, "INVALID_CREDENTIALS"),
        (await client.get("/nonexistent"), 404, "NOT_FOUND"),
        (await client.get("/api/v1/nonexistent"), 404, "NOT_FOUND"),
        (await carol.get(absent), 404, "NOT_FOUND"),
        (await client.post("/health"), 405, "METHOD_NOT_ALLOWED"),
        (await carol.delete("/tasks"), 405, "METHOD_NOT_ALLOWED"),
        (await client.post("/api/v1/auth/register", json=taken), 409, "EMAIL_TAKEN"),
        (await carol.delete(address, headers={"If-Match": '"9"'}), 412, "STALE_VERSION"),
        (await carol.post("/tasks", content=too_large, headers=JSON), 413, "BODY_TOO_LARGE"),
        (await carol.post("/tasks", content=pieces(2 * 1024 * 1024), headers=JSON), 413, "BODY_TOO_LARGE"),
        (await carol.post("/tasks", content=b"title=x"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (await carol.post("/tasks", data={"title": "x"}), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (await carol.post("/tasks", content=b"{}", headers={**JSON, "Content-Encoding": "gzip"}), 415,
         "UNSUPPORTED_MEDIA_TYPE"),
        (await carol.post("/tasks", json={"title": ""}), 422, "VALIDATION_ERROR"),
        (await carol.post("/tasks", content=b"", headers=JSON), 422, "VALIDATION_ERROR"),
        (await carol.get("/tasks?colour=red"), 422, "VALIDATION_ERROR"),
        (await carol.post("/tasks", json={"title": "x"}, headers={"Idempotency-Key": ""}), 422, "VALIDATION_ERROR"),
    ):  # fmt: skip
        problem = check_problem(response, status, code)
        assert problem["instance"] == response.url.path
    assert (await carol.get("/tasks")).json()["items"] == [task]


@pytest.mark.covers("E067", "E068", "E046")
async def test_who_calls_is_asked_before_what_was_sent(house: Api) -> None:
    for method, path, options in (
        ("POST", "/tasks", {"content": b"{", "headers": JSON}),
        ("POST", "/tasks", {"content": b"<x/>", "headers": {"Content-Type": "text/xml"}}),
        ("POST", "/tasks", {"json": {"title": ""}}),
        ("GET", "/tasks?colour=red&limit=0", {}),
        ("GET", "/tasks/nothing", {}),
        ("PATCH", "/tasks/nothing", {"json": {}, "headers": {"If-Match": "?"}}),
        ("POST", "/tasks", {"json": {"title": "x"}, "headers": {"Idempotency-Key": ""}}),
        ("GET", "/changes?since=x", {}),
    ):
        response = await house.client.request(method, f"/api/v1{path}", **options)
        check_problem(response, 401, "NOT_AUTHENTICATED")
        assert response.headers["www-authenticate"] == 'Bearer realm="duly"'
    headers = [("Authorization", "Bearer a"), ("Authorization", "Bearer b")]
    refused = await house.client.get("/api/v1/tasks", headers=headers)
    check_problem(refused, 401, "INVALID_TOKEN")
    assert refused.headers["www-authenticate"] == 'Bearer realm="duly", error="invalid_token"'


@pytest.mark.covers("D066")
async def test_allow_lists_every_method_of_the_address(house: Api, carol: Person) -> None:
    task = await carol.add_task()
    for path, methods in (
        ("/api/v1/tasks", {"GET", "POST"}), ("/api/tasks", {"GET", "POST"}), ("/api/v1/tasks/", {"GET", "POST"}),
        (f"/api/v1/tasks/{task['id']}", {"GET", "PUT", "PATCH", "DELETE"}),
        (f"/api/v1/tasks/{task['id']}/complete", {"PATCH"}), (f"/api/v1/tasks/{task['id']}/restore", {"POST"}),
        ("/api/v1/changes", {"GET"}), ("/", {"GET"}), ("/health", {"GET"}), ("/api/v1/auth/login", {"POST"}),
    ):  # fmt: skip
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} - methods:
            response = await house.client.request(method, path, headers=carol.headers)
            check_problem(response, 405, "METHOD_NOT_ALLOWED")
            assert set(response.headers["allow"].split(", ")) - {"HEAD"} == methods, (method, path)


@pytest.mark.covers("E047")
async def test_no_answer_grows_with_what_was_sent_nor_repeats_its_values(carol: Person) -> None:
    secret = "hunter2-in-the-wrong-field"
    answers = [
        await carol.post("/tasks", json={"title": [secret], "description": 7, "priority": secret, "due_date": secret}),
        await carol.post("/tasks", json={"title": "x", "tags": [secret * 3] * 20, "completed": secret}),
        await carol.post("/tasks", json={"title": secret * 20}),
        await carol.post("/tasks", json=[secret]),
        await carol.post("/tasks", content=f'{{"title": {secret}}}'.encode(), headers=JSON),
        await carol.post("/tasks", content=f'{{"a{secret}": 1, "a{secret}": 2}}'.encode(), headers=JSON),
        await carol.post("/tasks", json={"title": "x"}, headers={"Idempotency-Key": "é".encode() + secret.encode()}),
        await carol.post("/tasks", content=b"x", headers={"Content-Type": secret}),
        await carol.get("/tasks", params={"sort": secret, "status": secret, "limit": secret, "due_before": secret}),
        await carol.get("/tasks", params={secret: "1"}),
        await carol.get("/tasks", params={"cursor": secret}),
        await carol.patch("/tasks/x", json={}, headers={"If-Match": secret}),
        await carol.client.get("/api/v1/tasks", headers={"Authorization": f"Bearer {secret}"}),
        await carol.client.get("/api/v1/tasks", headers={"Authorization": secret}),
    ]
    for number, answer in enumerate(answers):
        check_problem(answer, answer.status_code, answer.json()["code"])
        assert 400 <= answer.status_code < 500, number
        assert secret not in answer.text, number
    many = {f"{number}{'🪴' * 200}": number for number in range(250)}
    for body in (many, {"title": "x", "tags": [""] * 20, **many}, {"title": "x", "\x00\u202e" * 100: 1}):
        problem = check_problem(await carol.post("/tasks", json=body), 422, "VALIDATION_ERROR")
        assert 1 <= len(problem["errors"]) <= 50
        assert all(error["field"].isprintable() and len(error["field"]) <= 101 for error in problem["errors"])
    assert (await carol.get("/tasks")).json()["total"] == 0


async def test_an_address_is_repeated_in_part_and_as_a_reference(house: Api, carol: Person) -> None:
    for path in ("/é/🪴" * 500, "/%00%0d%0aX: y", "/<script>", '/"quoted"\\', "/api/v1/tasks/" + "x" * 5000, "/%ff%fe"):
        response = await house.client.get(path, headers=carol.headers)
        problem = check_problem(response, 404, "NOT_FOUND")
        assert problem["instance"].isascii()
        assert not re.search(r'[<>"\\\s]', problem["instance"])


async def test_a_slash_at_the_end_changes_nothing(carol: Person) -> None:
    task = await carol.add_task()
    for path in ("/tasks", f"/tasks/{task['id']}", "/tasks/trash", "/changes", "/auth/me"):
        plain, slashed = await carol.get(path), await carol.get(f"{path}/")
        assert (slashed.status_code, slashed.content) == (200, plain.content), path
    created = await carol.post("/tasks/", json={"title": "x"})
    assert (created.status_code, created.headers["location"]) == (201, f"/api/v1/tasks/{created.json()['id']}")
    assert (await carol.patch(f"/tasks/{task['id']}/complete/")).status_code == 200
    check_problem(await carol.client.get("/nonexistent/"), 404, "NOT_FOUND")


@pytest.mark.covers("D051")
async def test_ids_differ_and_a_callers_own_is_kept(house: Api) -> None:
    answers = await asyncio.gather(*(house.client.get("/nonexistent") for _ in range(5)))
    assert len({answer.json()["request_id"] for answer in answers}) == 5
    mine = str(uuid.uuid4())
    response = await house.client.get("/nonexistent", headers={"X-Request-ID": mine})
    assert check_problem(response, 404, "NOT_FOUND")["request_id"] == mine


@own_loop
@pytest.mark.covers("D064")
async def test_what_one_may_not_do_is_403(start_app: StartApp) -> None:
    api = await start_app(registration="closed")
    response = await api.client.post("/api/v1/auth/register", json={"email": "a@example.com", "password": PASSWORD})
    check_problem(response, 403, "REGISTRATION_CLOSED")


@own_loop
@pytest.mark.covers("A141", "B050", "D069", "D073", "E005", "E047", "E071")
async def test_a_fault_of_the_server_is_500_and_says_nothing_about_it(api: Api, ann: Person, dialect: str) -> None:
    async with second_connection(api.settings.database_url or "") as outside:
        await outside.run("DROP TABLE tasks CASCADE" if dialect == "postgresql" else "DROP TABLE tasks")
    mine = str(uuid.uuid4())
    for method, path in (("GET", "/tasks"), ("POST", "/tasks"), ("GET", "/tasks/x"), ("GET", "/tasks?priority=low")):
        body = {"json": {"title": "top secret"}} if method == "POST" else {}
        response = await ann.request(method, path, headers={"X-Request-ID": mine}, **body)
        problem = check_problem(response, 500, "INTERNAL_ERROR")
        assert problem["request_id"] == mine
        assert "quote" in problem["detail"]
        assert not re.search(
            r"tasks|Traceback|Error\b|relation|sqlite|asyncpg|secret", problem["detail"] + problem["title"]
        )
    assert (await ann.get("/auth/me")).status_code == 200


async def until_nothing_waits(outside: SecondConnection) -> None:
    """Until the server has stopped what nobody waits for any more."""
    here = "(SELECT oid FROM pg_database WHERE datname = current_database())"
    for _ in range(500):
        if await outside.value(f"SELECT count(*) FROM pg_locks WHERE NOT granted AND database = {here}") == 0:
            return
        await asyncio.sleep(0.01)
    pytest.fail("a statement still waits for the lock")


@own_loop
@pytest.mark.covers("D070", "D072")
async def test_a_locked_database_is_503_and_says_when_to_come_back(api: Api, ann: Person, dialect: str) -> None:
    before = await ann.add_task()
    async with second_connection(api.settings.database_url or "") as outside:
        await outside.run("BEGIN" if dialect == "postgresql" else "BEGIN IMMEDIATE")
        if dialect == "postgresql":
            await outside.run("LOCK TABLE tasks IN SHARE MODE")
        response = await ann.post("/tasks", json={"title": "x"})
        problem = check_problem(response, 503, "DATABASE_UNAVAILABLE")
        assert int(response.headers["retry-after"]) > 0
        assert "try again" in problem["detail"]
        assert (await ann.get("/tasks")).json()["items"] == [before]
        if dialect == "postgresql":
            await until_nothing_waits(outside)
        await outside.run("ROLLBACK")
    assert (await ann.post("/tasks", json={"title": "x"})).status_code == 201
    assert (await ann.get("/tasks")).json()["total"] == 2


@own_loop
@pytest.mark.covers("D070", "D072", "C128", "A061")
@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
async def test_without_its_database_the_server_says_so_and_stays_alive(api: Api, ann: Person) -> None:
    name = (api.settings.database_url or "").rpartition("/")[2]
    await asyncio.to_thread(run_sql, f'DROP DATABASE "{name}" WITH (FORCE)')
    for path in ("/tasks", "/changes", "/auth/me"):
        response = await ann.get(path)
        check_problem(response, 503, "DATABASE_UNAVAILABLE")
        assert int(response.headers["retry-after"]) > 0
    for path, status in (("/health/live", 200), ("/health/ready", 503), ("/health/db", 503), ("/health", 503)):
        response = await api.client.get(path)
        assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), path
    assert (await api.client.get("/health")).json()["checks"]["database"]["status"] == "unhealthy"
    assert (await api.client.get("/health")).json()["status"] == "unhealthy"
