"""Where the time of a request goes: the CPU of the server, shared out among the layers by where py-spy finds it."""

import signal
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from bench.compare import Plan, make_duly, open_bench, run_window, start
from bench.duly import Duly
from bench.environment import VENV, require_file
from bench.failure import BenchError
from bench.load import Load
from bench.report import digits
from bench.scale import group_seconds
from bench.streams import listening

SAMPLES_A_SECOND = 250
# The innermost frame that belongs to one of these says whose time it is; files as Python names them.
LAYERS: Mapping[str, Sequence[str]] = {
    "writing the answer": ("duly/cli/cycles.py", "RequestResponseCycle.send"),
    "reading the request, its task": ("uvicorn/", "duly/cli/connections.py", "asyncio/"),
    "log lines": ("duly/web/access_log.py", "duly/kit/logs.py"),
    "the door, its figures and headers": (
        "duly/app.py", "duly/web/door.py", "duly/web/traffic.py", "duly/web/headers.py", "duly/kit/ids.py",
    ),
    "token and limits": (
        "duly/web/guard.py", "duly/web/limits.py", "duly/limits/", "duly/kit/jwt.py", "duly/identity/",
    ),
    "statements and driver": ("duly/db/", "asyncpg/", "sqlalchemy/"),
    "the change feed": ("duly/live/", "duly/web/streams.py", "duly/contracts/v1/live.py", "fastapi/sse"),
    "body, arguments, route": (
        "duly/web/", "duly/contracts/", "duly/tasks/", "duly/kit/", "starlette/", "pydantic", "json/", "__create_fn__",
    ),
}  # fmt: skip
# What is looked at: the workload, and how many streams of each account its changes go to.
CASES: Mapping[str, tuple[str, int]] = {
    "R1": ("R1", 0), "R2": ("R2", 0), "W1": ("W1", 0), "login": ("login", 0), "mixed": ("mixed", 0),
    "W1 with a stream": ("W1", 1),
}  # fmt: skip
LOOP = "the event loop and the network"
THREADS = "other threads, such as the one that commits to SQLite"


def layer_of(frames: Sequence[str]) -> str:
    """Of one sample, outermost frame first."""
    if not frames[0].endswith("MainThread"):
        return THREADS
    begun = next((n for n, frame in enumerate(frames, 1) if frame.startswith("Runner.run")), len(frames))
    for frame in reversed(frames[begun:]):
        for name, marks in LAYERS.items():
            if any(mark in frame for mark in marks):
                return name
    return LOOP


def sample(plan: Plan, server: Duly, workload: str, pairs: Path, file: Path) -> Counter[str]:
    """How many samples each layer has; threads that wait are not counted."""
    assert server.process is not None
    spy = require_file(VENV / "bin" / "py-spy", "run `python -m bench setup`")
    options = ["-r", str(SAMPLES_A_SECOND), "-f", "raw", "-t", "-o", str(file), "-d", "3600"]
    watcher = subprocess.Popen([str(spy), "record", *options, "-p", str(server.process.group)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        run_window(Load(plan.load.connections, 3 * plan.load.seconds), server, workload, pairs)
    finally:
        watcher.send_signal(signal.SIGINT)
        _, fault = watcher.communicate(timeout=30)
    if not file.exists():
        raise BenchError(f"py-spy: {fault.strip()[-300:]}")
    found: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if not frames[-1].startswith("_worker"):  # which waits for work
            found[layer_of(frames)] += int(count)
    return found


def cost(plan: Plan, server: Duly, workload: str, pairs: Path) -> float:
    """The server's CPU for a request in µs, while nobody looks: the least of all rounds."""
    assert server.process is not None
    found = []
    for _ in range(plan.rounds):
        before = group_seconds(server.process.group)
        window = run_window(plan.load, server, workload, pairs)
        found.append((group_seconds(server.process.group) - before) / (window.rate * plan.load.seconds) * 1e6)
    return min(found)


def share_out(plan: Plan) -> int:
    """Measure each Duly of the plan and print a table each."""
    with open_bench(plan) as (bench, stack):
        for spec in plan.servers:
            server = make_duly(spec, bench)
            pairs = start(server, stack)
            columns = {}
            for name, (workload, streams) in CASES.items():
                with listening(server, streams) if streams else nullcontext():
                    total = cost(plan, server, workload, pairs)
                    found = sample(plan, server, workload, pairs, server.folder / f"{name}.raw")
                columns[name] = {layer: total * count / found.total() for layer, count in found.items()}
            print(f"\n{spec}, {plan.load.connections} connections: CPU of the server, µs for a request\n")
            print(render(columns))
            server.close()
    return 0


def render(columns: Mapping[str, Mapping[str, float]]) -> str:
    """The table, layers from the outside to the inside."""
    names = [LOOP, *LAYERS, THREADS]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | {' | '.join(digits(found.get(name, 0.0)) for found in columns.values())} |" for name in names
    ]
    lines.append(f"| all | {' | '.join(digits(sum(found.values())) for found in columns.values())} |")
    return "\n".join(lines)
