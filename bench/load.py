"""One window of load on one server: runs wrk, reads its latencies, and counts the machine's CPU time."""

import json
import os
import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.environment import HERE
from bench.failure import BenchError
from bench.workload import Call

TIMEOUT_SECONDS = 10
SETTLE_SECONDS = 0.3
# The fields of /proc/stat's first line that are work: user, nice, system, irq, softirq (not idle, iowait, steal).
BUSY_FIELDS = (1, 2, 3, 6, 7)


@dataclass(frozen=True)
class Window:
    """What one run of wrk showed. Latencies in ms; `cpu_us` is CPU time per request, of everything but wrk.

    `others` is the number of cores that were busy in the pause before, when no server of the run had anything to do.
    """

    rate: float
    p50: float
    p99: float
    cpu_us: float
    others: float
    errors: dict[str, int]

    @property
    def error_count(self) -> int:
        return sum(self.errors.values())


@dataclass(frozen=True)
class Load:
    """How hard and how long wrk presses."""

    connections: int
    seconds: int

    def run(self, port: int, calls: Sequence[Call], pairs: Path) -> Window:
        """Press on one server with these calls in turn; BenchError if wrk fails or not one request is answered."""
        others = watch_idle()
        busy, own = read_busy_seconds(), read_children_seconds()
        command = [
            "wrk", "-t1", f"-c{self.connections}", f"-d{self.seconds}s", f"--timeout={TIMEOUT_SECONDS}s",
            "-s", str(HERE / "cycle.lua"), f"http://127.0.0.1:{port}", "--",
            str(pairs), *(part for call in calls for part in (call.method, call.path, call.body)),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        work = (read_busy_seconds() - busy) - (read_children_seconds() - own)
        if done.returncode != 0:
            raise BenchError(f"wrk failed: {(done.stderr or done.stdout).strip()}")
        return parse_window(done.stdout, work, others)


def parse_window(output: str, work_seconds: float, others: float) -> Window:
    """Read the line of JSON that cycle.lua ends with."""
    found = json.loads(output.strip().splitlines()[-1])
    requests = found["requests"]
    if requests == 0:
        raise BenchError(f"no request was answered; wrk counted {found['errors']}")
    return Window(
        rate=requests / found["duration_us"] * 1e6,
        p50=found["p50_us"] / 1_000,
        p99=found["p99_us"] / 1_000,
        cpu_us=max(0.0, work_seconds) / requests * 1e6,
        others=others,
        errors=found["errors"],
    )


def watch_idle() -> float:
    """Wait until the window before has settled; returns how many cores were busy meanwhile."""
    busy, started = read_busy_seconds(), time.monotonic()
    time.sleep(SETTLE_SECONDS)
    return (read_busy_seconds() - busy) / (time.monotonic() - started)


def read_busy_seconds() -> float:
    """CPU time that the whole machine has worked since it started, over all cores."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()
    return sum(int(fields[i]) for i in BUSY_FIELDS) / os.sysconf("SC_CLK_TCK")


def read_children_seconds() -> float:
    """CPU time of the ended children: wrk, since the servers are ended only after the last window."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
