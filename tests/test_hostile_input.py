"""Whatever is sent, wherever it is sent: never a 5xx, never a long answer to it, and never the input in the answer.

`HOSTILE_EVERY=1` sends everything; by default each run sends a part.
"""

import itertools
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from tests.fixtures.application import Api, Person
from tests.fixtures.server import Server, StartServer
from tests.hostile import MARK, WIRE_TEXTS, operations
from tests.raw_asgi import Answer, Asked, ask
from tests.second_connection import second_connection

# Each of the four runs takes another part; with 1 each takes everything.
EVERY = int(os.environ.get("HOSTILE_EVERY", "24"))
LONGEST = 8 * 1024
EIGHT = {
    b"content-security-policy", b"x-content-type-options", b"x-frame-options", b"referrer-policy",
    b"permissions-policy", b"cross-origin-opener-policy", b"cross-origin-resource-policy",
    b"x-permitted-cross-domain-policies",
}  # fmt: skip


ACCOUNTS = ("/api/users", "/api/admins", "/api/password")
"""Where refusals have the shape of the accounts contract."""
OWNER = r"/api/(?:v1/)?(?!(?:v1|auth|users|admins|password|tasks)/)[^/]*/(?:.*/)?tasks(?:/|$)"
"""Where they have that of the owner contract; an id may have slashes in it."""


def faults_of(answer: Answer, path: str = "") -> list[str]:
    """What is wrong with an answer to hostile input that was sent to this path."""
    found = []
    names = [name for name, _ in answer.headers]
    if answer.status >= 500 or answer.status < 200:
        found.append(f"status {answer.status}")
    if not set(names) >= EIGHT:
        found.append(f"headers missing: {EIGHT - set(names)}")
    if any(MARK.encode() in name + value for name, value in answer.headers):
        found.append("a header repeats the input")
    if answer.status >= 400:
        found += _faults_of_refusal(answer, dict(answer.headers), contract_of(path))
    return found


def contract_of(path: str) -> str:
    """Whose shape a refusal at this address has."""
    if path.startswith(ACCOUNTS):
        return "accounts"
    return "owner" if re.match(OWNER, unquote(path), re.DOTALL) else "v1"


def _faults_of_refusal(answer: Answer, headers: dict[bytes, bytes], contract: str) -> Iterator[str]:
    if len(answer.body) > LONGEST:
        yield f"{len(answer.body)} bytes long"
    shape = b"application/problem+json" if contract == "v1" else b"application/json"
    if answer.body and headers.get(b"content-type") != shape:
        yield f"not in the contract's shape: {headers.get(b'content-type')!r}"
        return
    if not answer.body:
        return
    problem = json.loads(answer.body)
    if contract == "owner":
        problem = {**problem["error"], **problem["error"].pop("details")}
    # What is refused has to be named: the address in part, and the names of fields. No value is ever repeated.
    instance = problem.pop("message" if contract == "accounts" and answer.status == 404 else "instance", "")
    names = [fault.pop("field") for fault in problem.get("errors", ())]
    if len(instance) > 1000 or any(len(name) > 101 or not name.isprintable() for name in names):
        yield "a name is repeated at length or as it came"
    if MARK in json.dumps(problem, ensure_ascii=False):
        yield f"repeats the input: {problem}"


async def attack(api: Api, person: Person | None, asked: Asked) -> Answer:
    """Send it, signed unless it brings its own Authorization.

    A session is opened anew when an attack ended it, or guessed so often at the password that it is locked.
    """
    own = any(name == b"authorization" for name, _ in asked.headers)
    if person is None or own:
        return await ask(api.app, asked)
    token = ((b"authorization", f"Bearer {person.access_token}".encode()),)
    answer = await ask(api.app, replace(asked, headers=token + asked.headers))
    ended = answer.status == 401 and b"This session has ended" in answer.body
    if ended or (answer.status == 423 and not asked.path.endswith("/login")):
        person.access_token = (await api.log_in(person.email)).access_token
        return await attack(api, person, asked)
    return answer


async def furnish(api: Api, person: Person) -> dict[str, str]:
    """Something behind each path parameter of the document."""
    task = await person.add_task("a task", tags=["a"])
    file = await person.post(f"/tasks/{task['id']}/attachments", files={"file": ("a.txt", b"a")})
    session = (await person.get("/auth/sessions")).json()["items"][0]["id"]
    # With the names of good requests: a login finds somebody, and an update that repeats the address is none of it.
    other = await api.register("ann@example.com", username="text")
    known = {"task_id": task["id"], "session_id": session, "user_id": other.user_id, "caller_id": person.user_id}
    known["attachment_id"] = file.json()["id"]
    document = api.app.openapi()
    wanted = {
        parameter["name"]
        for item in document["paths"].values()
        for operation in item.values()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "path"
    }
    assert wanted <= known.keys(), "say here what a new path parameter may be"
    return known


async def make_admin(database_url: str, person: Person) -> Callable[[], Awaitable[None]]:
    """Make somebody an administrator; what is given back sets their password to what it is now."""
    where = f"WHERE id = '{person.user_id}'"
    async with second_connection(database_url) as outside:
        await outside.run(f"UPDATE users SET role = 'admin' {where}")
        stored = await outside.value(f"SELECT hashed_password FROM users {where}")

    async def undo() -> None:
        async with second_connection(database_url) as outside:
            await outside.run(f"UPDATE users SET hashed_password = '{stored}' {where}")

    return undo


@pytest.mark.covers("A134", "A141", "B057", "B059", "C139", "E073", "E111")
@pytest.mark.parametrize("signed_in", [True, False], ids=["signed in", "not"])
async def test_no_operation_breaks_on_any_input_nor_repeats_it(
    api: Api, signed_in: bool, dialect: str, database_url: str
) -> None:
    person = await api.register()
    ids = await furnish(api, person)
    undo = await make_admin(database_url, person)
    wrong: list[str] = []
    numbers = itertools.count(2 * signed_in + (dialect == "sqlite"))
    for operation in operations(api.app.openapi(), ids):
        assert (await attack(api, person, operation.good())).status < 500, operation.name
        for asked in operation.hostile():
            if next(numbers) % EVERY == 0:
                answer = await attack(api, person if signed_in else None, asked)
                wrong += [f"{fault}: {str(asked)[:500]}" for fault in faults_of(answer, asked.path)]
                if answer.status < 300 and asked.path.endswith("/change-password"):
                    await undo()
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:40])
    assert next(numbers) > 10_000
    assert (await api.client.get("/health/ready")).status_code == 200
    assert (await api.log_in(person.email)).user_id == person.user_id


async def test_cursors_that_were_not_given_are_refused_whatever_they_hold(api: Api, ann: Person, ben: Person) -> None:
    for number in range(3):
        await ann.add_task(f"task {number}")
        await ben.add_task(f"task {number}")
    lists = (("/tasks", "cursor"), ("/tasks/trash", "cursor"), ("/changes", "since"))
    mine = (await ann.get("/tasks", params={"limit": 1})).json()["next_cursor"]
    others = (await ben.get("/tasks", params={"limit": 1})).json()["next_cursor"]
    feed = (await ann.get("/changes", params={"limit": 1})).json()["next_cursor"]
    assert (await ann.get("/tasks", params={"cursor": mine})).status_code == 200
    assert (await ann.get("/changes", params={"since": feed})).status_code == 200
    forged = [cursor[:cut] for cursor in (mine, feed) for cut in range(0, len(cursor), 7)]
    forged += [mine + "A", mine + "=", mine.swapcase(), mine[::-1], mine + mine, others, "A" * 2048, "A" * 2049]
    given = {"/tasks": mine, "/tasks/trash": None, "/changes": feed}
    for path, name in lists:
        for cursor in [value for value in (*forged, mine, feed) if value != given[path]]:
            answer = await ann.get(path, params={name: cursor})
            assert answer.status_code in {400, 422}, (path, cursor)
            assert answer.json()["code"] in {"BAD_CURSOR", "VALIDATION_ERROR"}
        for text in WIRE_TEXTS:
            asked = Asked("GET", f"/api/v1{path}", name.encode() + b"=" + text)
            answered = await attack(api, ann, asked)
            assert answered.status in {400, 422}, asked
            assert faults_of(answered) == []


@pytest.mark.covers("E111")
async def test_what_was_accepted_is_kept_as_it_was_meant(api: Api, ann: Person, database_url: str) -> None:
    texts = [
        "'; DROP TABLE tasks; --",
        "\\",
        "%_",
        '"',
        "\u202e",
        "💥",
        "e\u0301",
        "ﷺ",
        "$1 ? :name",
        "\ufeffx",
        "\uffff",
    ]
    for text in texts:
        task = await ann.add_task(text, description=text, tags=[text])
        read = (await ann.get(f"/tasks/{task['id']}")).json()
        assert read == task
        assert (await ann.get("/tasks", params={"tag": text})).json()["items"] == [task]
    async with second_connection(database_url) as outside:
        assert await outside.value("SELECT count(*) FROM tasks") == len(texts)


async def test_a_body_a_little_under_the_limit_is_refused_in_a_few_words(ann: Person, api: Api) -> None:
    body = json.dumps({"title": f"{MARK}{'x' * 1_000_000}"}).encode()
    head = ((b"content-type", b"application/json"),)
    answer = await attack(api, ann, Asked("POST", "/api/v1/tasks", headers=head, pieces=(body,)))
    assert (answer.status, faults_of(answer)) == (422, [])
    assert len(answer.body) < 1000


NO_HTTP = [
    b"\x00\x01\x02\x03\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200, b"zq7\r\n\r\n",
    b"GET\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nzq7 : y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: zq7\x00\r\n\r\n", b"GET /\xff\xfezq7 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n zq7\r\n\r\n", b"GET / zq7 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n", b"CONNECT zq7:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET //zq7@evil:99999/ HTTP/1.1\r\nHost: x\r\n\r\n", b"zq7 / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nzq7",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 50 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nzq7",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: zq7\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzq7\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"F" * 40 + b"\r\n",
    b"GET /" + b"zq7" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: zq7\r\n" * 40_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"zq7" * 100_000 + b"\r\n\r\n",
]  # fmt: skip
ODD_HTTP = [
    b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: x\r\nX: zq7\r\n\r\n", b"GET http://zq7.example/zq7 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /zq7%00 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /?%ff HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"GET /../../zq7 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /#zq7 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /nothing?" + b"a" * 30_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /api/v1/tasks HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: zq7\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /zq7 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nRange: bytes=0-zq7\r\n\r\n",
    b"GET /zq7 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 99\r\n\r\n",
    b"HEAD /api/v1/tasks HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nExpect: zq7\r\nContent-Length: 0\r\n\r\n",
]  # fmt: skip


def exchange(server: Server, request: bytes) -> bytes:
    """All that comes back before the server closes, or until one whole head is there."""
    address = urlsplit(server.base_url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=15) as connection:
        answer = b""
        try:
            connection.sendall(request)
            while b"\r\n\r\n" not in answer and (piece := connection.recv(65536)):
                answer += piece
        except ConnectionError:
            pass  # refused before it had all been read
    return answer


def checked(answer: bytes, request: bytes) -> int:
    """The status of an answer, which is in order; 0 for a connection that was closed without one."""
    if not answer:
        return 0
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
    status = int(first.split()[1])
    assert status < 500, (request[:200], answer)
    assert MARK.encode() not in head, (request[:200], answer)
    assert len(body) <= LONGEST
    if b"upgrade: websocket" not in request.lower():
        assert {name for name, _ in headers} >= EIGHT, (request[:200], answer)
    return status


@pytest.mark.covers("A132", "D026")
def test_a_real_server_answers_what_is_no_http_with_a_400_or_nothing(start_server: StartServer) -> None:
    server = start_server()
    for request in NO_HTTP:
        assert checked(exchange(server, request), request) in {0, 400, 404, 405, 413}, request[:200]
    for request in ODD_HTTP:
        assert checked(exchange(server, request), request), request[:200]
    assert httpx.get(f"{server.base_url}/health/ready", trust_env=False).status_code == 200
    assert "Traceback" not in server.log()


def test_two_readings_of_one_request_are_refused(start_server: StartServer) -> None:
    """RFC 9112 §11.2: what a proxy could take for one request, and the server for two."""
    server = start_server()
    hidden = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    heads = [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 0\r\nContent-Length: 36\r\n", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n", b"Transfer-Encoding: chunked, x\r\n", b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding : chunked\r\n", b"Content-Length: 0\n\r\n", b"Content-Length: 5\rX: y\r\n",
    ]  # fmt: skip
    for head in heads:
        request = b"POST /health/live HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n0\r\n\r\n" + hidden
        answer = exchange(server, request)
        assert checked(answer, request) in {0, 400, 405}
    assert "/smuggled" not in server.log(), "a request inside of another one was answered"
