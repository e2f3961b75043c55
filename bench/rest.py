"""What Duly weighs before it does anything: the packages, the start, the imports, and the memory at rest."""

import re
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

from bench import environment
from bench.compare import Plan, make_duly, open_bench
from bench.duly import Duly
from bench.failure import BenchError
from bench.processes import clean_environment
from bench.report import digits, spread
from bench.streams import memory

SETTLE_SECONDS = 3.0
MOST_MODULES = 8
_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|( +)(\S+)")


def wheel_kib() -> float:
    """The size of the wheel as `make dist` builds it."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [str(environment.DULY_PYTHON), "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, "."]
        environment.run_tool(pip)
        return sum(file.stat().st_size for file in Path(folder).glob("*.whl")) / 1024


def import_times() -> Counter[str]:
    """Own time in ms of what `duly.main` imports, by the package on top, in a process whose files are compiled."""
    command = [str(environment.DULY_PYTHON), "-X", "importtime", "-c", "import duly.cli.main, duly.app"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environment({}))
    if done.returncode != 0:
        raise BenchError(f"Duly cannot be imported: {done.stderr[-300:]}")
    found: Counter[str] = Counter()
    for own, _, _, name in _LINE.findall(done.stderr):
        found[name.partition(".")[0]] += int(own) / 1000
    return found


def start_once(server: Duly) -> float:
    """Seconds from the command to the first 200 of readiness."""
    begun = time.monotonic()
    server.start()
    return time.monotonic() - begun


def measure(plan: Plan, server: Duly) -> tuple[list[float], float]:
    """Each start on a database that is there, and the memory once nothing happens any more."""
    server.start()  # which makes the database
    starts = []
    assert server.process is not None
    for _ in range(plan.rounds):
        server.process.stop()
        starts.append(start_once(server))
    time.sleep(SETTLE_SECONDS)
    return starts, memory(server)


def weigh(plan: Plan) -> int:
    """Measure and print."""
    rounds = [import_times() for _ in range(plan.rounds)]
    total = [found.total() for found in rounds]
    print(f"wheel: {wheel_kib():,.0f} KiB")
    print(f"imports: {spread(total)} ms (least/median/most), of which, in ms:\n\n| package | own |\n|---|---|")
    merged = {name: median(found[name] for found in rounds) for name in rounds[0]}
    for name, spent in sorted(merged.items(), key=lambda pair: -pair[1])[:MOST_MODULES]:
        print(f"| {name} | {digits(spent)} |")
    print("\n| | from the command to ready, s | memory at rest, MiB |\n|---|---|---|")
    with open_bench(plan) as (bench, stack):
        for spec in plan.servers:
            server = make_duly(spec, bench)
            stack.callback(server.close)
            starts, held = measure(plan, server)
            print(f"| {spec} | {spread(starts)} | {held:.0f} |", flush=True)
            server.close()
    return 0
