"""Several ways to run Duly, side by side: every round visits each of them, at several numbers of connections."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from bench.compare import Plan, make_duly, run_window, start
from bench.duly import Duly
from bench.load import Load, Window
from bench.progress import Progress
from bench.report import digits
from bench.servers import Bench

CONNECTIONS = (1, 8, 32, 256)

Found = Mapping[tuple[str, int], Mapping[str, Sequence[Window]]]
"""Windows by workload and number of connections, then by name, one a round."""


@dataclass(frozen=True)
class Way:
    """One way to run Duly: NAME or NAME:WORKERS, and settings that the others lack."""

    spec: str
    settings: Mapping[str, str] = field(default_factory=dict)


def start_all(ways: Mapping[str, Way], bench: Bench, stack: ExitStack) -> dict[str, tuple[Duly, Path]]:
    """Start and fill each of them, under its name."""
    found = {}
    for name, way in ways.items():
        own = replace(bench, duly_settings={**bench.duly_settings, **way.settings})
        server = make_duly(way.spec, own, name)
        found[name] = server, start(server, stack)
    return found


def race(plan: Plan, servers: Mapping[str, tuple[Duly, Path]], connections: Sequence[int] = CONNECTIONS) -> Found:
    """Press on all of them in turn; the first window of each is a second for nothing."""
    progress = Progress("windows", plan.rounds * len(plan.workloads) * len(connections) * len(servers))
    found: dict[tuple[str, int], dict[str, list[Window]]] = {}
    for workload in plan.workloads:
        for server, pairs in servers.values():
            run_window(Load(max(connections), 1), server, workload, pairs)
        for _ in range(plan.rounds):
            for count in connections:
                rows = found.setdefault((workload, count), {name: [] for name in servers})
                for name, (server, pairs) in servers.items():
                    rows[name].append(run_window(Load(count, plan.load.seconds), server, workload, pairs))
                    progress.advance()
    return found


def render(found: Found, ratio: Callable[[Window, Window], float], *, note: str) -> Iterator[str]:
    """A table for each workload: of the first way its p50 and p99, of the others the ratio to it in the same round."""
    workloads = list(dict.fromkeys(workload for workload, _ in found))
    for workload in workloads:
        counts = [count for name, count in found if name == workload]
        yield f"\n{workload}, by the number of connections; {note}: median (least to most)\n"
        yield f"| | {' | '.join(map(str, counts))} |\n|---{'|---' * len(counts)}|"
        first, *others = found[workload, counts[0]]
        cells = [_latencies(found[workload, count][first]) for count in counts]
        yield f"| {first} | {' | '.join(cells)} |"
        for name in others:
            cells = [_ratios(found[workload, count], name, first, ratio) for count in counts]
            yield f"| {name} | {' | '.join(cells)} |"


def _latencies(windows: Sequence[Window]) -> str:
    p50, p99 = (digits(median(values)) for values in ([w.p50 for w in windows], [w.p99 for w in windows]))
    return f"p50 {p50}, p99 {p99} ms"


def _ratios(
    rows: Mapping[str, Sequence[Window]], name: str, first: str, ratio: Callable[[Window, Window], float]
) -> str:
    values = [ratio(one, other) for one, other in zip(rows[name], rows[first], strict=True)]
    return f"× {digits(median(values))} ({digits(min(values))} to {digits(max(values))})"
