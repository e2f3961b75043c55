"""How long the event loop of Duly stands still in each workload: a wake-up every 5 ms, and how late it comes."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bench.compare import Plan, make_duly, open_bench, run_window, start
from bench.duly import Duly
from bench.environment import HERE
from bench.failure import BenchError
from bench.isolation import flood
from bench.load import Load
from bench.report import digits
from bench.servers import Bench

MOST_MS = 25.0
CROWD = 256
# What is pressed on, and beside which flood.
CASES: Mapping[str, tuple[str, int, bool]] = {
    "R1": ("R1", 32, False),
    "R2": ("R2", 32, False),
    "W1": ("W1", 32, False),
    f"R1, {CROWD} connections": ("R1", CROWD, False),
    f"W1, {CROWD} connections": ("W1", CROWD, False),
    "R1 beside logins": ("R1", 32, True),
    "W1 beside logins": ("W1", 32, True),
}


class Late(NamedTuple):
    """A wake-up in ms: how late, and how long of it at most others had the cores."""

    by: float
    waited: float

    def __str__(self) -> str:
        return f"{digits(self.by)} ({digits(min(self.by, self.waited))})"


def read_lateness(file: Path, begun: float, ended: float) -> list[Late]:
    """Every wake-up that was more than 1 ms late in this time, of all workers."""
    found = []
    for part in file.parent.glob(f"{file.name}.*"):
        lines = [[float(number) for number in line.split()] for line in part.read_text().splitlines()]
        found += [Late(late, waited) for moment, late, waited in lines if begun <= moment <= ended]
    return found


def measure(plan: Plan, server: Duly, pairs: Path, file: Path) -> dict[str, list[Late]]:
    """Each round's latest wake-up."""
    latest: dict[str, list[Late]] = {name: [] for name in CASES}
    for _ in range(plan.rounds):
        for name, (workload, connections, has_flood) in CASES.items():
            with _flood(server) if has_flood else contextlib.nullcontext():
                begun = time.monotonic()
                run_window(Load(connections, plan.load.seconds), server, workload, pairs)
                latest[name].append(max(read_lateness(file, begun, time.monotonic()), default=Late(0.0, 0.0)))
    return latest


@contextlib.contextmanager
def _flood(server: Duly) -> Iterator[None]:
    with flood(server) as logins:
        yield
    if logins.faults:
        raise BenchError(f"logins failed: {logins.faults[0]}")


def watch(plan: Plan) -> int:
    """Measure each Duly of the plan and print a table; 1 if a wake-up came later than allowed."""
    columns: dict[str, dict[str, list[Late]]] = {}
    with open_bench(plan) as (bench, stack):
        for spec in plan.servers:
            server, file = _make(spec, bench)
            columns[spec] = measure(plan, server, start(server, stack), file)
            server.close()
    windows = f"{plan.rounds} windows of {plan.load.seconds} s"
    print(f"Latest wake-up of the event loop in ms, median and most of {windows} (of it, while others had the cores)\n")
    print(f"| | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name in CASES:
        cells = [sorted(found[name]) for found in columns.values()]
        print(f"| {name} | {' | '.join(f'{row[len(row) // 2]}, {row[-1]}' for row in cells)} |")
    return int(any(max(row).by > MOST_MS for found in columns.values() for row in found.values()))


def _make(spec: str, bench: Bench) -> tuple[Duly, Path]:
    folder = bench.scratch / f"probe-{spec.replace(':', '-')}"
    folder.mkdir()
    file = folder / "late"
    more = {"PYTHONPATH": str(HERE / "probe"), "PROBE_FILE": str(file)}
    return make_duly(spec, replace(bench, duly_settings={**bench.duly_settings, **more})), file
