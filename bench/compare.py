"""The comparison: starts the servers of a run, presses on them in turn, and keeps every window."""

import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.check import check_answers
from bench.duly import Duly, DulyPostgres, DulySqlite
from bench.environment import HERE
from bench.failure import BenchError
from bench.load import Load, Window
from bench.pocketbase import PocketBase
from bench.progress import say
from bench.servers import Bench, Fastify, Floor, Server, Textbook
from bench.workload import Scale, write_pairs

SERVERS: Mapping[str, type[Server]] = {
    "duly-sqlite": DulySqlite,
    "duly-postgres": DulyPostgres,
    "pocketbase": PocketBase,
    "textbook": Textbook,
    "fastify": Fastify,
    "floor": Floor,
}


@dataclass(frozen=True)
class Plan:
    """What to run, as the command line says."""

    servers: Sequence[str]
    workloads: Sequence[str]
    rounds: int
    load: Load
    scale: Scale
    postgres: str
    duly_settings: Mapping[str, str]


@dataclass(frozen=True)
class Results:
    """Windows by workload and server label, one per round, and what each server was."""

    windows: Mapping[str, Mapping[str, Sequence[Window]]]
    descriptions: Mapping[str, str]

    def list_windows(self) -> list[Window]:
        """Every window of the run."""
        return [window for rows in self.windows.values() for row in rows.values() for window in row]

    def count_errors(self) -> int:
        """All failed requests of all windows."""
        return sum(window.error_count for window in self.list_windows())


def make_server(spec: str, bench: Bench, label: str = "") -> Server:
    """The server that `NAME` or `NAME:WORKERS` stands for, which is its label too unless it is given another.

    Raises BenchError for a name that is none.
    """
    name, _, workers = spec.partition(":")
    kind = SERVERS.get(name)
    if kind is None or (workers and not workers.isdigit()) or workers == "0":
        raise BenchError(f"no server {spec!r}; there are {', '.join(SERVERS)}, each with an optional :WORKERS")
    if workers and kind is PocketBase:
        raise BenchError("pocketbase is one process on all cores; it takes no :WORKERS")
    return kind(label or spec, int(workers or kind.default_workers), bench)


def make_duly(spec: str, bench: Bench, label: str = "") -> Duly:
    """The same for what is about Duly alone; BenchError for a peer."""
    server = make_server(spec, bench, label)
    if not isinstance(server, Duly):
        raise BenchError(f"this is about Duly; {spec!r} is not")
    return server


@contextmanager
def open_bench(plan: Plan) -> Iterator[tuple[Bench, ExitStack]]:
    """A folder for the run, and a stack that ends what is started, whatever happens."""
    # Not the system's temporary folder: that is often held in memory, where a commit to disk costs nothing.
    place = HERE / ".scratch"
    place.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=place, prefix="run-", ignore_cleanup_errors=True) as folder,
        ExitStack() as stack,
    ):
        try:
            yield Bench(Path(folder), plan.scale, plan.postgres, plan.duly_settings), stack
        finally:
            # A second Ctrl-C must not cut the ending of the servers short.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)


def start(server: Server, stack: ExitStack) -> Path:
    """Start and fill one server, check its answers, and return its file of pairs."""
    stack.callback(server.close)
    started = time.monotonic()
    try:
        pairs = server.prepare()
        check_answers(server, pairs)
    except BenchError as error:
        raise BenchError(f"{server.label}: {error}") from error
    say(f"{server.label}: ready on port {server.port} after {time.monotonic() - started:.1f} s")
    path = server.folder / "pairs.tsv"
    write_pairs(pairs, path)
    return path


def compare(plan: Plan) -> Results:
    """Run the whole plan."""
    with open_bench(plan) as (bench, stack):
        servers = [make_server(spec, bench) for spec in plan.servers]
        pairs = {server: start(server, stack) for server in servers}
        descriptions = {server.label: server.describe() for server in servers}
        return Results({workload: press(plan, workload, pairs) for workload in plan.workloads}, descriptions)


def press(plan: Plan, workload: str, pairs: Mapping[Server, Path]) -> dict[str, list[Window]]:
    """One workload: a second of warm-up each, then the rounds, every round over all servers in turn."""
    found: dict[str, list[Window]] = {server.label: [] for server in pairs}
    for server, path in pairs.items():
        run_window(Load(plan.load.connections, 1), server, workload, path)
    for number in range(1, plan.rounds + 1):
        for server, path in pairs.items():
            window = run_window(plan.load, server, workload, path)
            found[server.label].append(window)
            say(
                f"{workload} round {number}/{plan.rounds} {server.label:<16} {window.rate:>8,.0f}/s"
                f"  p50 {window.p50:.2f} ms  p99 {window.p99:.2f} ms  cpu {window.cpu_us:.0f} µs"
            )
    return found


def run_window(load: Load, server: Server, workload: str, pairs: Path) -> Window:
    """One window on one server; failed requests are told at once and loudly."""
    if server.process is not None:
        server.process.require_alive()
    try:
        window = load.run(server.port, server.turns(workload), pairs)
    except BenchError as error:
        raise BenchError(f"{server.label}, {workload}: {error}") from error
    if window.error_count:
        say(f"!!! {server.label}, {workload}: {window.error_count} FAILED REQUESTS {window.errors}")
    return window
