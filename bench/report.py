"""The tables: ratios within each round, and the figures behind them, as min/median/max."""

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench.compare import Plan, Results
from bench.load import Window
from bench.workload import WORKLOADS

BASES = ("pocketbase", "textbook", "fastify", "floor")


def spread(values: Sequence[float]) -> str:
    """`min/median/max`, with as many digits as a reader can use."""
    return "/".join(digits(value) for value in (min(values), median(values), max(values)))


def digits(value: float) -> str:
    """Three significant digits or so: 0.21, 4.41, 16.7, 203."""
    places = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.095 or value == 0 else 3
    return f"{value:.{places}f}"


def ratios(rows: Sequence[Window], base: Sequence[Window]) -> list[float]:
    """Rate against the base's rate of the same round: what disturbs a round disturbs both."""
    return [row.rate / other.rate for row, other in zip(rows, base, strict=True)]


def render(plan: Plan, results: Results) -> str:
    """The whole report in Markdown."""
    return "\n".join([*render_head(plan, results), *render_tables(results), *render_servers(results)]) + "\n"


def render_head(plan: Plan, results: Results) -> Iterator[str]:
    """When, where, how much; and in capitals if requests failed."""
    yield f"# Benchmark of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    yield ""
    errors = results.count_errors()
    if errors:
        yield f"**{errors:,} REQUESTS FAILED: THESE FIGURES DO NOT COUNT.**"
        yield ""
    yield (
        f"{plan.scale.users:,} users × {plan.scale.tasks:,} tasks, {plan.load.connections} keep-alive connections, "
        f"{plan.rounds} interleaved rounds of {plan.load.seconds} s, all cores shared with the load generator. "
        "Each cell is min/median/max over the rounds; a ratio is of two rates of the same round, and more is better. "
        "CPU is the whole machine's, per request, without the load generator."
    )
    yield ""
    others = spread([window.others for window in results.list_windows()])
    yield f"Machine: {describe_machine()}. Cores kept busy by others, measured before each window: {others}."


def render_tables(results: Results) -> Iterator[str]:
    """One table a workload."""
    for workload, rows in results.windows.items():
        bases = [label for label in rows if label.partition(":")[0] in BASES]
        columns = ["server", *(f"vs {base}" for base in bases), "p50 ms", "p99 ms", "CPU µs/request"]
        yield ""
        yield f"## {workload}: {WORKLOADS[workload]}"
        yield ""
        yield f"| {' | '.join(columns)} |"
        yield "|---" * len(columns) + "|"
        for label, windows in rows.items():
            yield f"| {' | '.join([label, *render_cells(label, windows, rows, bases)])} |"


def render_cells(
    label: str, windows: Sequence[Window], rows: Mapping[str, Sequence[Window]], bases: Sequence[str]
) -> Iterator[str]:
    """The cells of a row, after its name."""
    for base in bases:
        yield "1" if base == label else spread(ratios(windows, rows[base]))
    yield spread([window.p50 for window in windows])
    yield spread([window.p99 for window in windows])
    yield spread([window.cpu_us for window in windows])


def render_servers(results: Results) -> Iterator[str]:
    """What each row was."""
    yield ""
    yield "## Servers"
    yield ""
    for label, description in results.descriptions.items():
        yield f"- `{label}`: {description}"


def describe_machine() -> str:
    """Cores, processor, memory, system, and the versions of the tools that measure."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split("[")[0].strip()
    return (
        f"{os.cpu_count()} cores ({processor_name()}), {memory:.0f} GiB, {platform.system()} {platform.release()}; "
        f"{wrk}; harness on Python {platform.python_version()}"
    )


def processor_name() -> str:
    """The processor's own name, where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
