"""A figure that no noise moves: the processor instructions of one request, counted by callgrind (valgrind)."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace

from bench.client import Client
from bench.compare import Plan, make_duly, open_bench
from bench.duly import Duly
from bench.failure import BenchError
from bench.progress import Progress
from bench.workload import Pair, Scale, fill

USERS = 2
TASKS = 40
# Of each workload so many to warm up, and so many that are counted.
COUNTS: Mapping[str, tuple[int, int]] = {
    "R1": (200, 1000), "R2": (100, 500), "W1": (100, 500), "mixed": (200, 1000), "login": (2, 10),
}  # fmt: skip
TOOL = ("valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=counts")
READY_SECONDS = 300
_TOTALS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)


def control(server: Duly, *options: str) -> None:
    """Tell callgrind something."""
    assert server.process is not None
    command = ["callgrind_control", *options, str(server.process.group)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or "Error" in done.stdout + done.stderr:
        raise BenchError(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()[-300:]}")


def ask(server: Duly, client: Client, workload: str, pairs: list[Pair], count: int) -> None:
    """So many requests on one connection, one after the other."""
    calls = server.turns(workload)
    for number in range(count):
        call, pair = calls[number % len(calls)], pairs[number % len(pairs)]
        client.expect(call.method, fill(call.path, pair, number), token=pair.token, body=fill(call.body, pair, number))


def measure(server: Duly, pairs: list[Pair], workload: str) -> float:
    """Instructions of one request, in all threads of the server; what the system does for it is not among them."""
    warm, counted = COUNTS[workload]
    with Client(server.port) as client:
        control(server, "-i", "on")
        ask(server, client, workload, pairs, warm)
        control(server, "-z")
        ask(server, client, workload, pairs, counted)
        control(server, "-d")
        control(server, "-i", "off")
    dumps = sorted(server.folder.glob("counts.*"), key=lambda file: int(file.suffix[1:]))
    found = _TOTALS.findall(dumps[-1].read_text())
    return int(found[-1]) / counted


def count(plan: Plan) -> int:
    """Count for each Duly of the plan and print a table."""
    if shutil.which("valgrind") is None:
        raise BenchError("valgrind is missing: apt-get install valgrind")
    columns: dict[str, dict[str, float]] = {}
    plan = replace(plan, scale=Scale(USERS, TASKS))
    with open_bench(plan) as (bench, stack):
        for spec in plan.servers:
            server = make_duly(spec, bench)
            server.wrapper, server.ready_seconds = TOOL, READY_SECONDS
            stack.callback(server.close)
            pairs = server.prepare()
            progress = Progress(f"{spec}: workloads", len(COUNTS))
            columns[spec] = {}
            for workload in COUNTS:
                columns[spec][workload] = measure(server, pairs, workload)
                progress.advance()
            server.close()
    print(f"Thousands of instructions for a request on one connection\n\n| | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for workload in COUNTS:
        print(f"| {workload} | {' | '.join(f'{found[workload] / 1000:,.0f}' for found in columns.values())} |")
    return 0
