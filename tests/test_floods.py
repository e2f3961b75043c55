"""More clients than places, and more logins than threads: nobody is locked out by those who only stand in the way."""

import asyncio
import contextlib
import json
import os
import platform
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fixtures.application import PASSWORD
from tests.fixtures.server import Server, StartServer
from tests.test_limits import Wire
from tests.test_serving import sign_up

PLACES = 16
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = b"GET /health/live HTTP/1.1\r\nHost: "
LOW = 48
LIMITED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({LOW}, {LOW}))
sys.argv = ["duly", "serve"]
from duly.cli.main import run
run()
"""


@pytest.fixture
def wires() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def connect(wires: contextlib.ExitStack) -> Callable[[Server], Wire]:
    def one(server: Server) -> Wire:
        wire = Wire(server)
        wires.callback(wire.socket.close)
        return wire

    return one


def is_open(wire: Wire) -> bool:
    """Whether the server has not closed it."""
    wire.socket.setblocking(False)
    try:
        return bool(wire.socket.recv(1))
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        wire.socket.settimeout(30)


def figure(server: Server, name: str) -> float:
    text = httpx.get(f"{server.base_url}/metrics", trust_env=False, timeout=30).text
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


def is_live(connect: Callable[[Server], Wire], server: Server) -> bool:
    """Whether it answers; a connection that is reset, because there is no file for it yet, is no answer."""
    try:
        return connect(server).send(LIVE).answer()[0] == 200
    except ConnectionError:
        return False


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_more_than_there_are_places_is_told_so_and_costs_nothing(
    start_server: StartServer, connect: Callable[[Server], Wire]
) -> None:
    server = start_server(max_connections=PLACES, request_timeout_seconds=60)
    me = sign_up(server)
    assert figure(server, "duly_client_connections_limit") == PLACES
    wait_for(lambda: figure(server, "duly_client_connections") == 1)
    # Each of these is being served: its body has come half, and it says a little more of it all the time.
    head = ["POST /api/v1/tasks HTTP/1.1", "Host: x", f"Authorization: {me['Authorization']}",
            "Content-Type: application/json", "Content-Length: 1000", "", ""]  # fmt: skip
    busy = [connect(server).send("\r\n".join(head).encode() + b"{") for _ in range(PLACES)]
    answers = []
    for _ in range(3):
        for wire in busy:
            wire.send(b" ")
        time.sleep(0.05)
        answers.append(connect(server).send(LIVE).answer())
    for status, headers, body in answers:
        assert (status, headers["connection"], headers["content-type"]) == (503, "close", "application/problem+json")
        assert int(headers["retry-after"]) >= 1
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert json.loads(body)["code"] == "TOO_MANY_CONNECTIONS"
        assert json.loads(body)["request_id"] == headers["x-request-id"]
    for wire in busy:
        wire.socket.close()
    wait_for(lambda: is_live(connect, server))
    assert figure(server, "duly_client_connections_refused_total") >= 3
    assert server.log().count("MAX_CONNECTIONS") == 1, "one line for all of them"
    assert "Traceback" not in server.log()


def test_idle_clients_and_half_heads_make_room_the_oldest_first(
    start_server: StartServer, connect: Callable[[Server], Wire]
) -> None:
    server = start_server(max_connections=PLACES)
    idle = [connect(server).send(LIVE) for _ in range(PLACES)]
    assert {wire.answer()[0] for wire in idle} == {200}
    # The first is used once more, so it is the youngest now.
    assert idle[0].send(LIVE).answer()[0] == 200
    late = [connect(server).send(LIVE) for _ in range(PLACES - 2)]
    assert {wire.answer()[0] for wire in late} == {200}
    assert is_open(idle[0])
    assert not any(is_open(wire) for wire in idle[1:10])
    # Those that never finish their head are waited for a second when others come.
    halves = [connect(server).send(HALF) for _ in range(PLACES)]
    assert connect(server).send(LIVE).answer()[0] == 503
    wait_for(lambda: is_live(connect, server))
    for _ in range(3 * PLACES):
        wire = connect(server).send(LIVE)
        assert wire.answer()[0] == 200
    # The oldest of them made room for the first, and each of the others took the place of the one before.
    assert not is_open(halves[0])
    assert "Traceback" not in server.log()


def resident_mib(server: Server) -> float:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="glibc alone can be asked for it: run this on Debian")
def test_memory_that_a_crowd_needed_is_given_back(start_server: StartServer, connect: Callable[[Server], Wire]) -> None:
    server = start_server(request_timeout_seconds=60)
    me = sign_up(server)
    head = ["POST /api/v1/tasks HTTP/1.1", "Host: x", f"Authorization: {me['Authorization']}",
            "Content-Type: application/json", "Content-Length: 100000", "", ""]  # fmt: skip
    before = resident_mib(server)
    half = "\r\n".join(head).encode() + b" " * 60_000
    crowd = [connect(server).send(half) for _ in range(600)]
    wait_for(lambda: resident_mib(server) > before + 30)
    # Who comes last and stays sits above what the others leave.
    stays = connect(server).send(half)
    most = resident_mib(server)
    for wire in crowd:
        wire.socket.close()
    wait_for(lambda: resident_mib(server) < (before + most) / 2)
    assert is_open(stays)


def cpu_seconds(server: Server) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_a_process_that_may_open_few_files_says_so_and_does_not_spin(
    start_server: StartServer, connect: Callable[[Server], Wire], wires: contextlib.ExitStack
) -> None:
    server = start_server(command=("-c", LIMITED))
    assert "serves" in server.log()
    assert f"may open {LOW} files" in server.log()
    address = urlsplit(server.base_url)
    for _ in range(3 * LOW):
        wires.enter_context(socket.create_connection((address.hostname or "", address.port or 0), timeout=30))
    before = cpu_seconds(server)
    time.sleep(1)
    assert cpu_seconds(server) - before < 0.5
    wires.close()
    wait_for(lambda: is_live(connect, server))
    assert "Traceback" not in server.log()


async def log_in_without_pause(client: httpx.AsyncClient, until: asyncio.Event, statuses: set[int]) -> None:
    body = {"email": "ann@example.com", "password": PASSWORD}
    while not until.is_set():
        answer = await client.post("/auth/login", json=body)
        statuses.add(answer.status_code)
        assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1


async def test_a_flood_of_logins_leaves_room_for_others_and_for_one_more_login(start_server: StartServer) -> None:
    server = await asyncio.to_thread(start_server)
    limits = httpx.Limits(max_connections=None)
    base = f"{server.base_url}/api/v1"
    async with (
        httpx.AsyncClient(base_url=base, trust_env=False, timeout=120, limits=limits) as attacker,
        httpx.AsyncClient(base_url=base, trust_env=False, timeout=120) as client,
    ):
        body = {"email": "ann@example.com", "password": PASSWORD}
        token = (await client.post("/auth/register", json=body)).json()["access_token"]
        over, statuses = asyncio.Event(), set[int]()
        flood = [asyncio.create_task(log_in_without_pause(attacker, over, statuses)) for _ in range(20)]
        await asyncio.sleep(0.5)
        for _ in range(20):
            answer = await client.get("/auth/me", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 200
        begun = time.monotonic()
        while (await client.post("/auth/login", json=body)).status_code != 200:
            assert time.monotonic() - begun < 120
        over.set()
        await asyncio.gather(*flood)
    assert statuses <= {200, 503}
    assert "Traceback" not in server.log()


if sys.platform != "linux":  # the tests read /proc
    pytest.skip("needs /proc", allow_module_level=True)
