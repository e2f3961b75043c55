"""How much floods slow others down, and how much memory they take: p99 of R1 on an idle Duly, and beside each flood."""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.client import Client
from bench.compare import Plan, make_duly, open_bench, run_window, start
from bench.duly import API, Duly
from bench.failure import BenchError
from bench.load import Load
from bench.progress import say
from bench.report import digits
from bench.workload import Scale

USERS = 200
STREAMS_OF_EACH = 10
TASKS = 20
EXPORTED = 10_000
RAMP_SECONDS = 2.0
SETTLE_SECONDS = 1.0
MOST_MEMORY = 400
CONNECTIONS = 8
MIB = 1024**2


@dataclass(frozen=True)
class Target:
    """What an attacker knows; the first of the tokens is of an account with many tasks."""

    port: int
    tokens: tuple[str, ...]
    email: str
    password: str


def head(method: str, path: str, *lines: str, token: str = "") -> bytes:
    """The head of one request, without a length."""
    signed = [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([f"{method} {API}{path} HTTP/1.1", "Host: bench", *signed, *lines, "", ""]).encode()


def post(path: str, body: bytes, token: str = "") -> bytes:
    """One whole request with a JSON body."""
    return head("POST", path, "Content-Type: application/json", f"Content-Length: {len(body)}", token=token) + body


@contextlib.asynccontextmanager
async def connected(target: Target, buffer: int = 0) -> AsyncIterator[socket.socket]:
    """One connection; with `buffer` its client holds little of what it does not read."""
    with socket.socket() as connection:
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", target.port))
        yield connection


async def repeat(target: Target, requests: Iterator[bytes]) -> None:
    """Send one request after the other on one connection, and read what comes until the next."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError):
            async with connected(target) as connection:
                for request in requests:
                    await loop.sock_sendall(connection, request)
                    if not await loop.sock_recv(connection, 65536):
                        break
        await asyncio.sleep(0.01)


async def hold(target: Target, sent: bytes, *, drip: bytes = b"", buffer: int = 0, reads: int = 0) -> None:
    """Send something that is not all, then a byte now and then; and begin again when the server has enough of it."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError):
            async with connected(target, buffer) as connection:
                await loop.sock_sendall(connection, sent)
                while True:
                    await asyncio.sleep(1)
                    if drip:
                        await loop.sock_sendall(connection, drip)
                    if reads and not await loop.sock_recv(connection, reads):
                        break
        await asyncio.sleep(1)


async def pour(target: Target, request: bytes, piece: bytes) -> None:
    """Send a head and then pieces of its body, 200 MiB of them, whatever is answered."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError):
            async with connected(target) as connection:
                await loop.sock_sendall(connection, request)
                for _ in range(200 * MIB // len(piece)):
                    await loop.sock_sendall(connection, piece)
        await asyncio.sleep(0.1)


def logins(target: Target) -> list[Awaitable[None]]:
    """The right password, again and again."""
    request = post("/auth/login", json.dumps({"email": target.email, "password": target.password}).encode())
    return [repeat(target, itertools.repeat(request)) for _ in range(100)]


def registrations(target: Target) -> list[Awaitable[None]]:
    """New accounts."""

    def requests(number: int) -> Iterator[bytes]:
        for count in itertools.count():
            email = f"flood{time.time_ns()}-{number}-{count}@example.com"
            yield post("/auth/register", json.dumps({"email": email, "password": target.password}).encode())

    return [repeat(target, requests(number)) for number in range(50)]


def refreshes(target: Target) -> list[Awaitable[None]]:
    """Refresh tokens that nobody has."""
    return [repeat(target, itertools.repeat(post("/auth/refresh", b'{"refresh_token":"none"}'))) for _ in range(20)]


def forgotten(target: Target) -> list[Awaitable[None]]:
    """Mails that are asked for, to one address."""
    request = post("/auth/forgot-password", json.dumps({"email": target.email}).encode())
    return [repeat(target, itertools.repeat(request)) for _ in range(20)]


def half_heads(target: Target) -> list[Awaitable[None]]:
    """Heads that never end."""
    return [hold(target, b"GET / HTTP/1.1\r\nHost: x\r\nX: ", drip=b"a") for _ in range(2000)]


def slow_bodies(target: Target) -> list[Awaitable[None]]:
    """Bodies that never end, of people who are signed in."""
    length = "Content-Length: 1000000"
    sent = head("POST", "/tasks", "Content-Type: application/json", length, token=target.tokens[0]) + b" " * 60_000
    return [hold(target, sent, drip=b" ") for _ in range(1000)]


def slow_readers(target: Target) -> list[Awaitable[None]]:
    """Exports of 10,000 tasks that are read byte by byte."""
    request = head("GET", "/tasks/export", token=target.tokens[0])
    return [hold(target, request, buffer=4096, reads=1) for _ in range(300)]


def sent_ahead(target: Target) -> list[Awaitable[None]]:
    """10,000 requests at once on one connection, whose answers nobody reads."""
    return [hold(target, head("GET", "/tasks?limit=100", token=target.tokens[0]) * 10_000) for _ in range(50)]


def large_bodies(target: Target) -> list[Awaitable[None]]:
    """200 MiB, announced and not, by people and by strangers, for tasks and for files."""
    pieces = b"%x\r\n%s\r\n" % (65536, b" " * 65536)
    found: list[Awaitable[None]] = []
    for path, token in (("/tasks", target.tokens[0]), ("/tasks", ""), ("/tasks/import", target.tokens[0])):
        kind = "multipart/form-data; boundary=x" if path == "/tasks/import" else "application/json"
        for length in (f"Content-Length: {200 * MIB}", "Transfer-Encoding: chunked"):
            request = head("POST", path, f"Content-Type: {kind}", length, token=token)
            found += [pour(target, request, pieces if "chunked" in length else b" " * 65536) for _ in range(2)]
    return found


def bombs(target: Target) -> list[Awaitable[None]]:
    """Bodies of a megabyte that are dear to read."""
    bodies = (
        b"[" + b"[]," * 340_000 + b"[]]",
        b"{" + b",".join(b'"%x":1' % number for number in range(100_000)) + b"}",
        b'{"title":"' + "\u0301\u0316".encode() * 250_000 + b'"}',
        b"[" * 500_000,
    )
    return [repeat(target, itertools.cycle([post("/tasks", body, target.tokens[0])])) for body in bodies]


def streams(target: Target) -> list[Awaitable[None]]:
    """Ten live streams of each user, all opened at once."""
    requests = [head("GET", "/events", token=token) for token in target.tokens]
    return [hold(target, request, reads=65536) for request in requests for _ in range(STREAMS_OF_EACH)]


FLOODS: Mapping[str, Callable[[Target], list[Awaitable[None]]]] = {
    "100 logins at once": logins,
    "50 registrations at once": registrations,
    "refresh": refreshes,
    "forgot-password": forgotten,
    "2,000 half heads": half_heads,
    "1,000 slow bodies": slow_bodies,
    "300 slow exports": slow_readers,
    "50 × 10,000 requests sent ahead": sent_ahead,
    "200 MiB bodies": large_bodies,
    "bodies of 1 MiB that are dear to read": bombs,
    "2,000 live streams at once": streams,
}


def attack(name: str, target: Target) -> None:
    """Flood until the process is ended."""

    async def flood() -> None:
        await asyncio.gather(*FLOODS[name](target))

    asyncio.run(flood())


@contextlib.contextmanager
def flooded(name: str, target: Target) -> Iterator[None]:
    """A process of its own floods the server for as long as the block runs."""
    attacker = multiprocessing.get_context("spawn").Process(target=attack, args=(name, target), daemon=True)
    attacker.start()
    try:
        time.sleep(RAMP_SECONDS)
        yield
    finally:
        attacker.kill()
        attacker.join()


def fill(server: Duly) -> Target:
    """Give the first account its many tasks."""
    first = server.accounts[0]
    operation = {"op": "create", "task": {"title": "large", "description": "x" * 1900}}
    body = json.dumps({"operations": [operation] * 100})
    with Client(server.port) as client:
        for _ in range(EXPORTED // 100):
            client.expect("POST", f"{API}/tasks/bulk", token=first.token, body=body)
    return Target(server.port, tuple(account.token for account in server.accounts), first.email, first.password)


def peak(server: Duly, *, reset: bool = False) -> int:
    """The most memory in MiB that the server held since this was last reset."""
    if server.process is None:
        raise BenchError("the server does not run")
    folder = Path(f"/proc/{server.process.group}")
    if reset:
        (folder / "clear_refs").write_text("5")
    lines = (folder / "status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) // 1024


def press(load: Load, server: Duly, pairs: Path) -> tuple[float, int]:
    """p99 in ms and failed requests; nothing but failures where nobody was answered in the whole window."""
    try:
        busy = run_window(load, server, "R1", pairs)
    except BenchError as error:
        say(str(error))
        return load.seconds * 1000.0, load.connections
    return busy.p99, busy.error_count


def measure(plan: Plan, server: Duly, pairs: Path) -> Iterator[tuple[str, bool]]:
    """A row for each flood, and whether it is within the bounds."""
    target = fill(server)
    load = Load(CONNECTIONS, plan.load.seconds)
    run_window(Load(CONNECTIONS, 1), server, "R1", pairs)
    for name in FLOODS:
        idle = run_window(load, server, "R1", pairs)
        peak(server, reset=True)
        with flooded(name, target):
            slowest, failed = press(load, server, pairs)
        memory, bound = peak(server), idle.p99 * 2 + 20
        meets = slowest <= bound and memory <= MOST_MEMORY and not failed
        cells = name, digits(idle.p99), digits(slowest), digits(bound), f"{memory}", f"{failed}"
        say(f"{name}: {'within the bounds' if meets else 'OUT OF BOUNDS'}")
        yield f"| {' | '.join(cells)} | {'yes' if meets else '**no**'} |", meets
        time.sleep(SETTLE_SECONDS)


def withstand(plan: Plan) -> int:
    """Flood each Duly of the plan and print a table; 1 when a bound is missed."""
    all_meet = True
    plan = replace(plan, scale=Scale(USERS, TASKS), duly_settings={"RATE_LIMIT_ENABLED": "false", **plan.duly_settings})
    with open_bench(plan) as (bench, stack):
        for spec in plan.servers:
            server = make_duly(spec, bench)
            pairs = start(server, stack)
            print(f"{spec}: {server.describe()}\n")
            print("| flood | idle p99, ms | p99 beside it | bound | peak memory, MiB | failed | within |")
            print("|---|---|---|---|---|---|---|")
            for row, meets in measure(plan, server, pairs):
                print(row, flush=True)
                all_meet &= meets
            print()
            server.close()
    return int(not all_meet)
