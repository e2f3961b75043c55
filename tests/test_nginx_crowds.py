"""Clients that stall, send too much or ask for too much, through nginx: others are served as before. Minutes long."""

import contextlib
import logging
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edges import Edge, open_edge
from tests.replicas import Pair, open_pair, sign_up

pytestmark = pytest.mark.torture
SAMPLES = 300
CROWD = 250
MOST_MEMORY = 400 * 1024**2
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two servers that are ready."""
    with open_pair(request, tmp_path_factory.mktemp("pair"), log_level="warning") as servers:
        yield servers


@pytest.fixture(scope="module")
def edge(pair: Pair) -> Iterator[Edge]:
    """The proxy before the two."""
    with open_edge(pair.folder / "edge", pair.ports) as running:
        yield running


@pytest.fixture(scope="module")
def headers(edge: Edge) -> dict[str, str]:
    """Somebody's."""
    return sign_up(edge)


def p99(edge: Edge, headers: dict[str, str]) -> float:
    """Of another client's reads, in milliseconds."""
    times = []
    with edge.client("127.0.0.99", headers=headers) as client:
        for _ in range(SAMPLES):
            begun = time.perf_counter()
            assert client.get("/api/v1/tasks?limit=20").status_code == 200
            times.append((time.perf_counter() - begun) * 1000)
            time.sleep(0.005)
    return statistics.quantiles(times, n=100)[98]


def memory(pair: Pair) -> int:
    """The larger of the two servers, in bytes."""
    pages = [int(Path(f"/proc/{pair.pid(port)}/statm").read_text().split()[1]) for port in pair.ports]
    return max(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def crowd(edge: Edge, first: bytes, then: bytes) -> Iterator[None]:
    """So many connections that each say something, and a little more four times a second, until they are closed."""
    with contextlib.ExitStack() as stack:
        context, wires = edge.trust(), []
        for _ in range(CROWD):
            plain = socket.create_connection(("127.0.0.1", edge.https_port), 30, source_address=("127.0.0.66", 0))
            wire = stack.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
            with contextlib.suppress(OSError):
                wire.sendall(first)
            wires.append(wire)
        over = threading.Event()

        def go_on() -> None:
            while not over.wait(0.25):
                for wire in wires:
                    with contextlib.suppress(OSError):
                        wire.sendall(then)

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(30)


@contextlib.contextmanager
def repeated(action: Callable[[int], None], workers: int = 4) -> Iterator[None]:
    """Do this again and again in a few threads."""
    over = threading.Event()

    def work(number: int) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                action(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


CROWDS = {
    "half heads": (b"GET /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n"),
    "half bodies": (b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "half uploads": (
        b"POST /api/v1/tasks/import HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n", b"x" * 100,
    ),
}  # fmt: skip


def hold(pair: Pair, edge: Edge, headers: dict[str, str], idle: float, what: str) -> None:
    """The requirement: twice the idle time and 20 ms, and 400 MiB."""
    busy, held = p99(edge, headers), memory(pair)
    log.info("%s: p99 %.1f ms, idle %.1f ms; %d MiB", what, busy, idle, held // 1024**2)
    assert held <= MOST_MEMORY
    assert busy <= 2 * idle + 20


@pytest.mark.parametrize("what", CROWDS)
def test_clients_that_stall_hold_up_nobody(pair: Pair, edge: Edge, headers: dict[str, str], what: str) -> None:
    idle = p99(edge, headers)
    with crowd(edge, *CROWDS[what]):
        hold(pair, edge, headers, idle, what)


def test_heads_that_are_too_large_never_reach_a_server(pair: Pair, edge: Edge, headers: dict[str, str]) -> None:
    idle = p99(edge, headers)
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: %s\r\n" % (n, b"a" * 8000) for n in range(40))
    with repeated(lambda _: assert_refused(edge, head + b"\r\n")):
        hold(pair, edge, headers, idle, "large heads")


def assert_refused(edge: Edge, request: bytes) -> None:
    edge.raw(request, wait=1)
    time.sleep(0.02)


def test_ranges_without_number_are_no_bomb(pair: Pair, edge: Edge, headers: dict[str, str]) -> None:
    with edge.client(headers=headers) as client:
        task = client.post("/api/v1/tasks", json={"title": "files"}).json()
        path = f"/api/v1/tasks/{task['id']}/attachments"
        file = client.post(path, files={"file": ("a.bin", os.urandom(8 * 1024**2))}).json()
    idle = p99(edge, headers)
    ranges = "bytes=" + ",".join(f"{n}-" for n in range(1200))

    def ask(number: int) -> None:
        with edge.client(f"127.0.0.{70 + number}", headers=headers) as client:
            answer = client.get(f"{path}/{file['id']}", headers={"Range": ranges})
            assert len(answer.content) <= 8 * 1024**2
            time.sleep(0.1)

    with repeated(ask, workers=2):
        hold(pair, edge, headers, idle, "ranges")
