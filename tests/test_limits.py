"""What one client may take from the others: the size of a body, the time of a request, the patience of the server."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fixtures.application import Person, StartApp
from tests.fixtures.server import Server, StartServer
from tests.second_connection import SecondConnection, second_connection
from tests.test_serving import sign_up

LIMIT = 2048
MANY = 60
LOCKS = {"sqlite": ("BEGIN IMMEDIATE",), "postgresql": ("BEGIN", "LOCK TABLE tasks IN SHARE MODE")}


class Wire:
    """One connection to a server, on which a test says exactly what it wants."""

    def __init__(self, server: Server) -> None:
        address = urlsplit(server.base_url)
        self.socket = socket.create_connection((address.hostname or "", address.port or 0), timeout=30)

    def send(self, data: bytes) -> "Wire":
        """Send these bytes and no others; a server that has closed already is no fault."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)
        return self

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer; (0, {}, b"") when the server closed without one."""
        found = b""
        while b"\r\n\r\n" not in found and (piece := self.socket.recv(65536)):
            found += piece
        if not found:
            return 0, {}, b""
        head, _, body = found.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        while len(body) < int(headers.get("content-length", 0)) and (piece := self.socket.recv(65536)):
            body += piece
        return int(first.split()[1]), headers, body


@pytest.fixture
def wires() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def connect(server: Server, wires: contextlib.ExitStack) -> Wire:
    wire = Wire(server)
    wires.callback(wire.socket.close)
    return wire


def head(headers: dict[str, str], *more: str) -> bytes:
    """The head of a POST that creates a task."""
    lines = ["POST /api/v1/tasks HTTP/1.1", "Host: x", "Content-Type: application/json", *more]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


def chunked(body: bytes, size: int = 500) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def padded(title: str, size: int) -> bytes:
    """A good body of exactly this many bytes."""
    return json.dumps({"title": title}).encode().ljust(size)


@pytest.mark.covers("B057")
def test_a_body_over_the_limit_is_413_announced_or_not(
    start_server: StartServer, database_url: str, wires: contextlib.ExitStack
) -> None:
    server = start_server(database_url=database_url, max_body_bytes=LIMIT)
    me = sign_up(server)
    announced = connect(server, wires).send(head(me, f"Content-Length: {LIMIT + 1}"))
    patient = connect(server, wires).send(head(me, f"Content-Length: {10**12}", "Expect: 100-continue"))
    unannounced = connect(server, wires).send(
        head(me, "Transfer-Encoding: chunked") + chunked(padded("large", LIMIT + 1))
    )
    endless = connect(server, wires).send(head(me, "Transfer-Encoding: chunked") + chunked(b" " * 10 * LIMIT)[:-5])
    for wire in (announced, patient, unannounced, endless):
        status, headers, body = wire.answer()
        assert (status, headers["content-type"]) == (413, "application/problem+json")
        assert json.loads(body)["code"] == "BODY_TOO_LARGE"
        assert len(body) < 1000
    for wire, more, send in (
        (connect(server, wires), f"Content-Length: {LIMIT}", padded("announced", LIMIT)),
        (connect(server, wires), "Transfer-Encoding: chunked", chunked(padded("chunked", LIMIT))),
    ):
        assert wire.send(head(me, more) + send).answer()[0] == 201
    listed = httpx.get(f"{server.base_url}/api/v1/tasks", headers=me, trust_env=False).json()
    assert {task["title"] for task in listed["items"]} == {"announced", "chunked"}


def test_a_body_that_no_reader_wanted_is_refused_without_a_fault_in_the_log(
    start_server: StartServer, wires: contextlib.ExitStack
) -> None:
    server = start_server(max_body_bytes=LIMIT)
    me = sign_up(server)
    asked = head(me, f"Content-Length: {10**12}").replace(b"POST /api/v1/tasks ", b"GET /api/v1/tasks/export ")
    status, _, body = connect(server, wires).send(asked).answer()
    assert (status, json.loads(body)["code"]) == (413, "BODY_TOO_LARGE")
    assert httpx.get(f"{server.base_url}/api/v1/tasks/export", headers=me, trust_env=False).status_code == 200
    assert "Traceback" not in server.log()
    assert "RuntimeError" not in server.log()


def test_clients_that_stall_hold_up_nobody_and_are_let_go(
    start_server: StartServer, wires: contextlib.ExitStack
) -> None:
    server = start_server(request_timeout_seconds=4)
    me = sign_up(server)
    silent = [connect(server, wires) for _ in range(MANY)]
    half_heads = [connect(server, wires).send(b"GET /api/v1/tasks HTTP/1.1\r\nHost: x\r\nX-A: ") for _ in range(MANY)]
    half_bodies = [connect(server, wires).send(head(me, "Content-Length: 50") + b'{"title":') for _ in range(MANY)]
    late = [connect(server, wires).send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET ") for _ in range(MANY)]
    for _ in range(10):
        # These ask for a lot and do not read it.
        connect(server, wires).send(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20)

    def create(number: int) -> int:
        body = {"title": str(number)}
        return httpx.post(f"{server.base_url}/api/v1/tasks", json=body, headers=me, trust_env=False).status_code

    with ThreadPoolExecutor(8) as pool:
        # Answered while all of them stand around, before any of them is let go.
        assert set(pool.map(create, range(80))) == {201}
    for wire in half_bodies:
        status, headers, body = wire.answer()
        assert (status, json.loads(body)["code"], headers["connection"]) == (504, "TIMEOUT", "close")
    assert {wire.answer()[0] for wire in late} == {200}
    assert {wire.answer()[0] for wire in (*silent, *half_heads, *late, *half_bodies)} == {0}
    assert httpx.get(f"{server.base_url}/api/v1/tasks?limit=1", headers=me, trust_env=False).json()["total"] == 80


async def lock_tasks(outside: SecondConnection, dialect: str) -> None:
    for statement in LOCKS[dialect]:
        await outside.run(statement)


async def post_with(person: Person, key: str) -> httpx.Response:
    return await person.post("/tasks", json={"title": key}, headers={"Idempotency-Key": key})


@pytest.mark.covers("C102", "C106", "D070", "D071", "E054")
async def test_a_write_that_waits_too_long_is_undone_whoever_gives_up(
    start_app: StartApp, database_url: str, dialect: str
) -> None:
    # In one application the request's own time is up, in the other the database's, which is under five seconds.
    hurried, patient = await start_app(request_timeout_seconds=2), await start_app()
    same = await patient.register()
    ann = Person(hurried.client, same.user_id, same.email, same.access_token, same.refresh_token)
    async with second_connection(database_url) as outside:
        await lock_tasks(outside, dialect)
        given_up = asyncio.gather(post_with(ann, "hurried"), ann.post("/tasks", json={"title": "hurried, no key"}))
        refused = asyncio.gather(post_with(same, "patient"), same.post("/tasks", json={"title": "patient, no key"}))
        assert (await ann.get("/tasks")).json()["total"] == 0
        assert (await hurried.client.get("/health/live")).status_code == 200
        for answer in await given_up:
            assert (answer.status_code, answer.json()["code"]) == (504, "TIMEOUT")
        for answer in await refused:
            assert (answer.status_code, answer.json()["code"]) == (503, "DATABASE_UNAVAILABLE")
            assert int(answer.headers["retry-after"]) >= 1
        await outside.run("ROLLBACK")
        # Nothing of it is left: no row, no change, no used key, and no lock.
        await lock_tasks(outside, dialect)
        for table in ("tasks", "changes", "idempotency_keys"):
            assert await outside.value(f"SELECT count(*) FROM {table}") == 0
        await outside.run("ROLLBACK")
    answers = [await post_with(ann, "hurried"), await post_with(same, "patient")]
    assert [(answer.status_code, answer.headers.get("idempotency-replayed")) for answer in answers] == [(201, None)] * 2
    assert (await ann.get("/tasks")).json()["total"] == 2
