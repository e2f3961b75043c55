"""Answers that come whole: one piece on the wire, and everything else as HTTP has it."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.fixtures.server import Server, StartServer
from tests.test_limits import Wire
from tests.test_serving import sign_up

# Of Linux's `struct tcp_info`: the segments with data that came.
DATA_SEGMENTS = slice(152, 156)


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server()


@pytest.fixture
def me(server: Server) -> str:
    return sign_up(server)["Authorization"]


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    wire = Wire(server)
    yield wire
    wire.socket.close()


def request(method: str, path: str, me: str, *lines: str, body: object = None, version: str = "1.1") -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = [f"{method} /api/v1{path} HTTP/{version}", "Host: x", f"Authorization: {me}", *lines]
    if content:
        head += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*head, "", ""]).encode() + content


def segments(wire: Wire) -> int:
    return int.from_bytes(wire.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)[DATA_SEGMENTS], "little")


def test_an_answer_of_the_lane_is_one_piece_on_the_wire(wire: Wire, me: str) -> None:
    status, headers, body = wire.send(request("POST", "/tasks", me, body={"title": "in one piece"})).answer()
    assert status == 201
    task = json.loads(body)
    before = segments(wire)
    for number in range(1, 6):
        status, headers, body = wire.send(request("GET", f"/tasks/{task['id']}", me)).answer()
        assert (status, json.loads(body)) == (200, task)
        assert headers["content-length"] == str(len(body))
        assert segments(wire) - before == number


def off_the_lane(me: str) -> dict[str, tuple[int, bytes]]:
    """Requests that FastAPI or the door answers, and with which status."""
    task = {"title": "in one piece"}
    browser = "Origin: http://x"
    return {
        "create": (201, request("POST", "/tasks", me, browser, "Idempotency-Key: 1", body=task)),
        "list": (200, request("GET", "/tasks", me, browser)),
        "replay": (201, request("POST", "/tasks", me, browser, "Idempotency-Key: 1", body=task)),
        "refusal": (422, request("POST", "/tasks", me, browser, body={"title": ""})),
        "stranger": (401, request("GET", "/tasks", "Bearer nobody")),
        "nowhere": (404, request("GET", "/nowhere", me)),
        "too large": (413, request("POST", "/tasks", me, "Content-Length: 100000000")),
    }


def test_a_head_does_not_leave_before_its_body(wire: Wire, me: str) -> None:
    # Or a server that is killed between the two has answered with a head alone, and no proxy asks another one.
    for number, (name, (expected, asked)) in enumerate(off_the_lane(me).items(), 1):
        status, headers, body = wire.send(asked).answer()
        assert (name, status, len(body)) == (name, expected, int(headers["content-length"]))
        assert (name, segments(wire)) == (name, number)


@pytest.mark.parametrize("line", ["X-Nothing: 1", "Connection: close", "Origin: http://x"])
def test_a_head_alone_comes_where_a_head_alone_was_asked_for(wire: Wire, me: str, line: str) -> None:
    wire.send(request("HEAD", "/tasks", me, line))
    assert wire.socket.recv(65536).startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize(("version", "line"), [("1.0", "X-Nothing: 1"), ("1.1", "Connection: close")])
def test_who_wants_the_connection_closed_is_told_and_it_is(wire: Wire, me: str, version: str, line: str) -> None:
    status, headers, body = wire.send(request("GET", "/tasks", me, line, version=version)).answer()
    assert (status, headers["connection"]) == (200, "close")
    assert json.loads(body)["total"] == 0
    assert wire.socket.recv(1) == b""


def answers_of(wire: Wire, count: int) -> list[tuple[int, set[str], bytes]]:
    """Status, names of headers and body of so many answers, however they lie in the stream."""
    stream = wire.socket.makefile("rb")
    found = []
    for _ in range(count):
        status = int(stream.readline().split()[1])
        headers = dict(line.decode().rstrip().lower().split(": ", 1) for line in iter(stream.readline, b"\r\n"))
        found.append((status, {*headers}, stream.read(int(headers["content-length"]))))
    return found


def test_answers_to_requests_sent_ahead_keep_their_order_on_and_off_the_lane(wire: Wire, me: str) -> None:
    titles = [f"number {n}" for n in range(6)]
    for n, title in enumerate(titles):
        # A browser's request leaves the lane for the middlewares.
        wire.send(request("POST", "/tasks", me, *(["Origin: http://x"] if n % 2 else []), body={"title": title}))
    answers = answers_of(wire, len(titles))
    assert [(status, json.loads(body)["title"]) for status, _, body in answers] == [(201, title) for title in titles]
    on, off = answers[0][1], answers[1][1]
    assert (on, on - off) == (answers[2][1], set())
