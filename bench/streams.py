"""Many live streams: the memory of each, what they cost others while they are idle, and how fast writes reach them."""

import asyncio
import contextlib
import multiprocessing
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from bench.compare import Plan, make_duly, open_bench, run_window, start
from bench.duly import API, Duly
from bench.failure import BenchError
from bench.load import Load, Window
from bench.progress import say
from bench.report import digits
from bench.scale import group_seconds
from bench.workload import Scale

USERS = 200
STREAMS_OF_EACH = 10
TASKS = 20
CONNECTIONS = 8
OPENED_AT_ONCE = 50
OPENING_SECONDS = 60
SETTLE_SECONDS = 2.0
_MARK = b"event: task."
_CREATED = re.compile(rb'"created_at":"([^"]+)"')
# One stream in so many tells when each event came; to read the times of all would take more than the server does.
SAMPLED = 50


@dataclass(frozen=True)
class Heard:
    """What came on all streams between two calls of `Listening.hear`."""

    events: int
    delays: Sequence[float]


class _Reader(asyncio.Protocol):
    """One stream."""

    def __init__(self, request: bytes, heard: "_Tally", *, is_sampled: bool) -> None:
        self._request = request
        self._heard = heard
        self._is_sampled = is_sampled
        self._tail = b""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        text = self._tail + data
        if not self.ready.done() and b"event: ready" in text:
            self.ready.set_result(None)
        self._heard.events += text.count(_MARK)
        self._tail = text[1 - len(_MARK) :]
        if self._is_sampled:
            now = time.time()
            for moment in _CREATED.findall(data):
                self._heard.delays.append(now - datetime.fromisoformat(moment.decode()).timestamp())

    def connection_lost(self, exc: Exception | None) -> None:
        self._heard.lost += 1


@dataclass
class _Tally:
    events: int
    delays: list[float]
    lost: int = 0


async def _listen(port: int, tokens: Sequence[str], each: int, line: Connection) -> None:
    loop = asyncio.get_running_loop()
    tally = _Tally(0, [])
    room = asyncio.Semaphore(OPENED_AT_ONCE)

    async def open_one(number: int, token: str) -> None:
        head = f"GET {API}/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        async with room:
            _, reader = await loop.create_connection(
                lambda: _Reader(head, tally, is_sampled=number % SAMPLED == 0), "127.0.0.1", port
            )
            await reader.ready

    await asyncio.gather(*(open_one(number, token) for number, token in enumerate(list(tokens) * each)))
    line.send("ready")

    def tell() -> None:
        line.recv()
        line.send((tally.events, tally.delays, tally.lost))
        tally.events, tally.delays = 0, []

    loop.add_reader(line.fileno(), tell)
    await loop.create_future()


def _run(port: int, tokens: Sequence[str], each: int, line: Connection) -> None:
    asyncio.run(_listen(port, tokens, each, line))


class Listening:
    """The process that reads."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    def hear(self) -> Heard:
        """What came since the last call; BenchError if a stream ended."""
        self._line.send("?")
        events, delays, lost = self._line.recv()
        if lost:
            raise BenchError(f"{lost} streams ended")
        return Heard(events, delays)


@contextlib.contextmanager
def listening(server: Duly, each: int) -> Iterator[Listening]:
    """So many streams of each account, read by a process of its own until the block ends."""
    ours, theirs = multiprocessing.Pipe()
    tokens = [account.token for account in server.accounts]
    context = multiprocessing.get_context("spawn")
    reader = context.Process(target=_run, args=(server.port, tokens, each, theirs), daemon=True)
    reader.start()
    theirs.close()
    try:
        if not ours.poll(OPENING_SECONDS) or ours.recv() != "ready":
            raise BenchError(f"not all streams were open after {OPENING_SECONDS} s")
        yield Listening(ours)
    except EOFError as error:
        raise BenchError("the process that reads the streams has ended") from error
    finally:
        reader.kill()
        reader.join()


def memory(server: Duly) -> float:
    """MiB that the server's processes hold, what they share counted once (PSS)."""
    assert server.process is not None
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[2]) == server.process.group:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                found += int(next(line.split()[1] for line in lines if line.startswith("Pss:")))
    return found / 1024


def _windows(plan: Plan, server: Duly, workload: str, pairs: Path) -> list[Window]:
    return [run_window(Load(CONNECTIONS, plan.load.seconds), server, workload, pairs) for _ in range(plan.rounds)]


def _cost(server: Duly, plan: Plan, pairs: Path) -> tuple[list[Window], float]:
    """Windows of W1, and the server's CPU for one in µs."""
    assert server.process is not None
    before = group_seconds(server.process.group)
    windows = _windows(plan, server, "W1", pairs)
    count = sum(window.rate for window in windows) * plan.load.seconds
    return windows, (group_seconds(server.process.group) - before) / count * 1e6


def measure(plan: Plan, server: Duly, pairs: Path) -> Iterator[tuple[str, str]]:
    """What is to be said of one server, line by line."""
    count = USERS * STREAMS_OF_EACH
    run_window(Load(CONNECTIONS, 1), server, "R1", pairs)
    quiet = _windows(plan, server, "R1", pairs)
    alone, alone_cost = _cost(server, plan, pairs)
    time.sleep(SETTLE_SECONDS)
    before, begun = memory(server), time.monotonic()
    with listening(server, STREAMS_OF_EACH) as streams:
        opened = time.monotonic() - begun
        time.sleep(SETTLE_SECONDS)
        yield f"{count:,} streams opened, {OPENED_AT_ONCE} at once", f"{digits(opened)} s"
        yield "memory of a stream at rest", f"{(memory(server) - before) * 1024 / count:.1f} KiB"
        beside = _windows(plan, server, "R1", pairs)
        rates = [one.rate / other.rate for one, other in zip(beside, quiet, strict=True)]
        yield "R1 beside them", f"× {digits(median(rates))} the rate without, p99 {_p99(quiet)} → {_p99(beside)} ms"
        streams.hear()
        begun = time.monotonic()
        written, cost = _cost(server, plan, pairs)
        elapsed = time.monotonic() - begun
        time.sleep(SETTLE_SECONDS)
        heard = streams.hear()
        made = sum(window.rate for window in written) * plan.load.seconds
        delays = sorted(heard.delays)
        rates = [one.rate / other.rate for one, other in zip(written, alone, strict=True)]
        yield "W1 whose changes go to 10 streams each", f"× {digits(median(rates))} the rate without them"
        yield "deliveries", f"{heard.events / elapsed:,.0f} a second, {heard.events / made:.2f} for a write"
        late = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
        yield "from the write to its reader", f"p50 {digits(late[0] * 1000)}, p99 {digits(late[1] * 1000)} ms"
        yield "CPU of the server for a delivery", f"{(cost - alone_cost) / STREAMS_OF_EACH:.1f} µs"


def _p99(windows: Sequence[Window]) -> str:
    return digits(median(window.p99 for window in windows))


def listen(plan: Plan) -> int:
    """Measure each Duly of the plan and print what was found."""
    plan = replace(plan, scale=Scale(USERS, TASKS))
    with open_bench(plan) as (bench, stack):
        for spec in plan.servers:
            server = make_duly(spec, bench)
            pairs = start(server, stack)
            say(f"{spec}: measuring")
            print(f"\n{spec}: {server.describe()}\n\n| | |\n|---|---|")
            for name, value in measure(plan, server, pairs):
                print(f"| {name} | {value} |", flush=True)
            server.close()
    return 0
