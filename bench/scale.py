"""What one core gives, who uses it, and what follows for many users: measured shares of CPU, then a simulation."""

import heapq
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.compare import Plan, make_server, open_bench, run_window, start
from bench.duly import DulyPostgres
from bench.failure import BenchError
from bench.load import Load
from bench.progress import say

TICKS = os.sysconf("SC_CLK_TCK")
# What people do with a task list: they read it, open one, and write now and then.
MIX: Mapping[str, float] = {"R2": 0.5, "R1": 0.3, "W1": 0.2}
REQUESTS_A_DAY = 60
ACTIVE_SHARE = 0.2
# The busiest minute of a day against its mean.
PEAK = 5.0
TASKS_A_USER = 200
SIMULATED = 40_000


@dataclass(frozen=True)
class Cost:
    """CPU seconds of one request, in Duly's processes and in PostgreSQL's."""

    duly: float
    database: float


def group_seconds(group: int) -> float:
    """CPU time of the processes of one group."""
    return sum(seconds for pgid, _, seconds in _processes() if pgid == group)


def postgres_seconds() -> float:
    """CPU time of every PostgreSQL process of this machine; nobody else may use it during a window."""
    return sum(seconds for _, name, seconds in _processes() if name.startswith("postgres"))


def _processes() -> list[tuple[int, str, float]]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text()
        except OSError:
            continue
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        found.append((int(fields[2]), name, (int(fields[11]) + int(fields[12])) / TICKS))
    return found


def measure(plan: Plan) -> tuple[dict[str, Cost], float]:
    """The cost of each workload, and the bytes of the database for each task with its first change."""
    with open_bench(plan) as (bench, stack):
        server = make_server("duly-postgres:1", bench)
        if not isinstance(server, DulyPostgres):
            raise BenchError("this is about Duly on PostgreSQL")
        pairs = start(server, stack)
        size = int(server.run_tables("size"))
        tasks = plan.scale.users * plan.scale.tasks
        costs = {}
        for workload in MIX:
            run_window(Load(plan.load.connections, 1), server, workload, pairs)
            costs[workload] = _median_cost(plan, server, workload, pairs)
            found = costs[workload]
            say(f"{workload}: Duly {found.duly * 1e6:.0f} µs, PostgreSQL {found.database * 1e6:.0f} µs a request")
        return costs, size / tasks


def _median_cost(plan: Plan, server: DulyPostgres, workload: str, pairs: Path) -> Cost:
    rounds = []
    for _ in range(plan.rounds):
        if server.process is None:
            raise BenchError("the server has gone")
        before = group_seconds(server.process.group), postgres_seconds()
        window = run_window(plan.load, server, workload, pairs)
        count = window.rate * plan.load.seconds
        after = group_seconds(server.process.group), postgres_seconds()
        rounds.append(Cost(*((end - begin) / count for begin, end in zip(before, after, strict=True))))
    return Cost(median(cost.duly for cost in rounds), median(cost.database for cost in rounds))


def simulate(rate: float, costs: Mapping[str, Cost], workers: int, cores: int, *, seed: int = 1) -> float:
    """The 99th percentile in seconds of requests that come by chance, `rate` a second in the mean.

    Two queues in a row, first the workers and then the cores of PostgreSQL; infinite when one of them cannot keep up.
    Service times are exponential around the measured means, which is worse than what was measured.
    """
    busy = [sum(MIX[name] * cost for name, cost in part) * rate for part in _parts(costs)]
    if busy[0] >= workers or busy[1] >= cores:
        return math.inf
    chance = random.Random(seed)  # noqa: S311 - the same numbers each time
    free: tuple[list[float], list[float]] = [0.0] * workers, [0.0] * cores
    arrivals, now = [], 0.0
    for _ in range(SIMULATED):
        now += chance.expovariate(rate)
        arrivals.append((now, now, chance.choices(list(MIX), list(MIX.values()))[0]))
    for station, queue in enumerate(free):
        done = []
        for ready, begun, name in sorted(arrivals):
            cost = costs[name].database if station else costs[name].duly
            end = max(ready, heapq.heappop(queue)) + chance.expovariate(1 / cost)
            heapq.heappush(queue, end)
            done.append((end, begun, name))
        arrivals = done
    times = sorted(end - begun for end, begun, _ in arrivals)
    return times[len(times) * 99 // 100]


def _parts(costs: Mapping[str, Cost]) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    return [(name, cost.duly) for name, cost in costs.items()], [(name, cost.database) for name, cost in costs.items()]


def rows(costs: Mapping[str, Cost], task_bytes: float, counts: Sequence[int]) -> list[str]:
    """The table of the report: what so many registered users need."""
    duly, database = (sum(MIX[name] * cost for name, cost in part) for part in _parts(costs))
    lines = ["| registered users | requests/s at the peak | workers | cores of PostgreSQL | data | p99 simulated |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for users in counts:
        rate = users * ACTIVE_SHARE * REQUESTS_A_DAY / 86_400 * PEAK
        # Half busy at the peak, so that one of two replicas can go.
        workers, cores = (max(2, math.ceil(rate * cost / 0.5)) for cost in (duly, database))
        late = simulate(rate, costs, workers, cores)
        data = users * TASKS_A_USER * task_bytes / 1e9
        lines.append(f"| {users:,} | {rate:,.0f} | {workers} | {cores} | {data:,.1f} GB | {late * 1000:.1f} ms |")
    return lines


def project(plan: Plan) -> int:
    """Measure, simulate and print."""
    costs, task_bytes = measure(plan)
    print(f"One task with its first change, indexes and all: {task_bytes:,.0f} bytes")
    print("\n| | Duly, µs | PostgreSQL, µs | requests/s of one core of each |\n|---|---|---|---|")
    for name, cost in costs.items():
        share = f"{1 / cost.duly:,.0f} and {1 / cost.database:,.0f}"
        print(f"| {name} | {cost.duly * 1e6:.0f} | {cost.database * 1e6:.0f} | {share} |")
    print()
    print("\n".join(rows(costs, task_bytes, (1_000, 10_000, 100_000, 1_000_000, 10_000_000))))
    return 0
