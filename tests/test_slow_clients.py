"""Clients that take their time, on purpose or not: each is held for a bounded time and with bounded memory."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from duly.web.crowd import Crowd
from tests.fixtures.server import Server, StartServer
from tests.test_hostile_files import peak
from tests.test_limits import Wire
from tests.test_serving import sign_up

MIB = 1024**2
SLOW_READERS = int(os.environ.get("SLOW_READERS", "60"))
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def wires() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def connect(server: Server, wires: contextlib.ExitStack) -> Wire:
    wire = Wire(server)
    wires.callback(wire.socket.close)
    return wire


def small_wire(server: Server, wires: contextlib.ExitStack) -> socket.socket:
    """A connection whose client holds next to nothing of what it does not read."""
    address = urlsplit(server.base_url)
    connection = wires.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect((address.hostname, address.port))
    return connection


def all_of(wire: Wire) -> bytes:
    """What comes until the server closes; a reset fails."""
    found = b""
    while piece := wire.socket.recv(65536):
        found += piece
    return found


def reset_peak(server: Server) -> int:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    return peak(server.process.pid)


def fill(server: Server, me: dict[str, str], count: int) -> None:
    """So many hundred tasks of two kilobytes."""
    operations = [{"op": "create", "task": {"title": "large", "description": "x" * 1900}}] * 100
    with httpx.Client(base_url=f"{server.base_url}/api/v1", trust_env=False, timeout=60, headers=me) as client:
        for _ in range(count):
            assert client.post("/tasks/bulk", json={"operations": operations}).status_code == 200


def test_requests_sent_ahead_are_answered_in_part_and_the_last_answer_says_so(
    start_server: StartServer, wires: contextlib.ExitStack
) -> None:
    server = start_server()
    before = reset_peak(server)
    deaf = [connect(server, wires).send(LIVE * 10_000) for _ in range(20)]
    answers = all_of(connect(server, wires).send(LIVE * 10_000))
    assert 20 <= answers.count(b"HTTP/1.1 200 OK") <= 64
    assert answers.count(b"HTTP/1.1") == answers.count(b"HTTP/1.1 200 OK")
    last = answers.rpartition(b"HTTP/1.1 200 OK")[2].lower()
    assert answers.lower().count(b"connection: close") == 1
    assert b"connection: close" in last
    # A few are all answered, and the connection goes on.
    polite, received = connect(server, wires), b""
    for number in range(1, 4):
        polite.send(LIVE * 20)
        while received.count(b"HTTP/1.1 200 OK") < 20 * number:
            received += polite.socket.recv(65536)
    assert peak(server.process.pid) - before < 40 * MIB
    for wire in deaf:
        wire.socket.close()
    assert httpx.get(f"{server.base_url}/health/live", trust_env=False).status_code == 200
    assert "Traceback" not in server.log()


def test_what_is_no_request_is_answered_behind_the_answers_before_it_and_logged_by_nobody(
    start_server: StartServer, wires: contextlib.ExitStack
) -> None:
    server = start_server()
    alone = all_of(connect(server, wires).send(b"\x16\x03\x01 hello\r\n\r\n"))
    assert alone.startswith(b"HTTP/1.1 400 ")
    assert b"NOT_HTTP" in alone
    large = all_of(connect(server, wires).send(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"))
    assert large.startswith(b"HTTP/1.1 400 ")
    assert b"HEAD_TOO_LARGE" in large
    in_two = connect(server, wires).send(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 50_000)
    time.sleep(0.2)  # the server has read the first half, which is not too large
    assert b"HEAD_TOO_LARGE" in all_of(in_two.send(b"a" * 50_000 + b"\r\n\r\n"))
    behind = all_of(connect(server, wires).send(LIVE + b"\x16\x03\x01 hello\r\n\r\n"))
    assert behind.startswith(b"HTTP/1.1 200 ")
    assert behind.count(b"HTTP/1.1 200 ") == 1
    assert "Invalid HTTP request" not in server.log()
    assert "Traceback" not in server.log()


def test_a_body_that_nobody_wanted_does_not_hold_its_connection(
    start_server: StartServer, wires: contextlib.ExitStack
) -> None:
    server = start_server()
    head = "POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    stays = connect(server, wires).send(head.format(2000).encode() + b" " * 500)
    leaves = connect(server, wires).send(head.format(200 * MIB).encode())
    assert stays.answer()[0] == leaves.answer()[0] == 401
    # Where the rest comes soon, the connection can be used again.
    assert stays.send(b" " * 1500 + LIVE).answer()[0] == 200
    begun = time.monotonic()
    leaves.send(b" ")
    assert leaves.answer()[0] == 0
    assert time.monotonic() - begun < 20
    # 200 MiB for nobody are not read.
    floods = connect(server, wires).send(head.format(200 * MIB).encode())
    assert floods.answer()[0] == 401
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 200 * MIB:
            sent += floods.socket.send(bytes(MIB))
    assert sent < 100 * MIB


def test_many_who_read_a_large_answer_slowly_take_little_memory(
    start_server: StartServer, wires: contextlib.ExitStack
) -> None:
    server = start_server()
    me = sign_up(server)
    fill(server, me, 20)
    request = f"GET /api/v1/tasks/export HTTP/1.1\r\nHost: x\r\nAuthorization: {me['Authorization']}\r\n\r\n".encode()
    before = reset_peak(server)
    slow = [small_wire(server, wires) for _ in range(SLOW_READERS)]
    for connection in slow:
        connection.sendall(request)
    for _ in range(3):
        for connection in slow:
            assert connection.recv(1)
        whole = httpx.get(f"{server.base_url}/api/v1/tasks/export", headers=me, trust_env=False, timeout=60)
        assert len(whole.json()["tasks"]) == 2000
    grown = peak(server.process.pid) - before
    assert grown < (20 + SLOW_READERS) * MIB, f"{grown / MIB:.0f} MiB for {SLOW_READERS}"
    # They leave in the middle of their answer, half of them with a reset.
    for number, connection in enumerate(slow):
        if number % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    assert httpx.get(f"{server.base_url}/api/v1/auth/me", headers=me, trust_env=False, timeout=30).status_code == 200
    assert "Traceback" not in server.log()


class Teller(asyncio.Protocol):
    """Sends each client more than it takes, and lets a crowd look after it."""

    def __init__(self, crowd: Crowd, lost: list["Teller"]) -> None:
        self.crowd = crowd
        self.lost = lost
        self.transport: asyncio.Transport
        self.port = 0
        self.is_over = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("peername")[1]
        assert self.crowd.enter(self)
        transport.write(bytes(60 * MIB))

    def pause_writing(self) -> None:
        self.crowd.choke(self)

    def resume_writing(self) -> None:
        self.crowd.swallow(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.leave(self)
        self.lost.append(self)
        self.is_over.set()


@pytest.mark.parametrize(("seconds", "unsent"), [(3, 1024 * MIB), (60, 90 * MIB)], ids=["time", "memory"])
async def test_who_takes_nothing_is_cut_after_a_while_or_when_too_much_waits(seconds: float, unsent: int) -> None:
    crowd, told, lost = Crowd(seconds, unsent), list[Teller](), list[Teller]()

    def tell() -> Teller:
        told.append(Teller(crowd, lost))
        return told[-1]

    server = await asyncio.get_running_loop().create_server(tell, "127.0.0.1", 0)
    with contextlib.ExitStack() as stack:
        address = server.sockets[0].getsockname()
        deaf, reader = (stack.enter_context(socket.create_connection(address)) for _ in range(2))
        reader.settimeout(10)
        until = time.monotonic() + 40
        while not lost:
            assert time.monotonic() < until
            await asyncio.to_thread(reader.recv, 100_000)
            await asyncio.sleep(0.1)
        assert len(crowd) == 1
        assert deaf.getsockname()[1] == lost[0].port
    server.close()
    await server.wait_closed()
    async with asyncio.timeout(10):
        await asyncio.gather(*[teller.is_over.wait() for teller in told])
    assert len(crowd) == 0


@pytest.mark.torture
def test_a_server_cuts_who_takes_nothing_of_a_large_answer(
    start_server: StartServer, wires: contextlib.ExitStack
) -> None:
    server = start_server()
    me = sign_up(server)
    fill(server, me, 30)
    connection = small_wire(server, wires)
    connection.sendall(
        f"GET /api/v1/tasks/export HTTP/1.1\r\nHost: x\r\nAuthorization: {me['Authorization']}\r\n\r\n".encode()
    )
    assert connection.recv(1)
    time.sleep(40)
    received = 0
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += len(piece)
    assert received < 5 * MIB
