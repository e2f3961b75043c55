"""How much logins at full tilt slow the others down: p99 of R1 on an idle Duly, and while it hashes passwords."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.client import Client
from bench.compare import Plan, make_duly, open_bench, run_window, start
from bench.duly import API, Account, Duly
from bench.failure import BenchError
from bench.load import Load, Window
from bench.progress import say
from bench.report import spread

LOGIN_LOOPS = 8
RAMP_SECONDS = 0.5


@dataclass
class Logins:
    """What the login loops did."""

    done: int = 0
    faults: list[str] = field(default_factory=list)


def log_in_repeatedly(server: Duly, account: Account, stop: threading.Event, logins: Logins) -> None:
    """One loop: the same user logs in again as soon as the last login is answered."""
    body = json.dumps({"email": account.email, "password": account.password})
    with Client(server.port) as client:
        while not stop.is_set():
            try:
                client.expect("POST", f"{API}/auth/login", body=body)
            except BenchError as error:
                logins.faults.append(str(error))
                return
            logins.done += 1


@contextmanager
def flood(server: Duly) -> Iterator[Logins]:
    """Eight users log in without a pause for as long as the block runs."""
    stop, logins = threading.Event(), Logins()
    loops = [
        threading.Thread(target=log_in_repeatedly, args=(server, account, stop, logins))
        for account in server.accounts[:LOGIN_LOOPS]
    ]
    for loop in loops:
        loop.start()
    try:
        time.sleep(RAMP_SECONDS)
        yield logins
    finally:
        stop.set()
        for loop in loops:
            loop.join()


def measure(plan: Plan, server: Duly, pairs: Path) -> tuple[list[Window], list[Window]]:
    """Rounds of one idle window and one with logins, in turn."""
    idle: list[Window] = []
    busy: list[Window] = []
    run_window(Load(plan.load.connections, 1), server, "R1", pairs)
    for number in range(1, plan.rounds + 1):
        idle.append(run_window(plan.load, server, "R1", pairs))
        with flood(server) as logins:
            started, before = time.monotonic(), logins.done
            busy.append(run_window(plan.load, server, "R1", pairs))
            rate = (logins.done - before) / (time.monotonic() - started)
        if logins.faults:
            raise BenchError(f"logins failed: {logins.faults[0]}")
        figures = f"p99 idle {idle[-1].p99:.2f} ms, beside {rate:.0f} logins/s {busy[-1].p99:.2f} ms"
        say(f"{server.label} round {number}/{plan.rounds}: {figures}")
    return idle, busy


def judge(idle: float, busy: float) -> str:
    """The target's words for two p99 in ms."""
    if busy <= idle * 1.5 + 5:
        return "meets the goal (idle × 1.5 + 5 ms)"
    if busy <= idle * 2 + 20:
        return "meets the must (idle × 2 + 20 ms), not the goal (idle × 1.5 + 5 ms)"
    return "misses the must (idle × 2 + 20 ms)"


def isolate(plan: Plan) -> int:
    """Measure each Duly of the plan and print both figures; 1 if a request failed or the must is missed."""
    failed = False
    with open_bench(plan) as (bench, stack):
        for spec in plan.servers:
            server = make_duly(spec, bench)
            pairs = start(server, stack)
            description = server.describe()
            idle, busy = measure(plan, server, pairs)
            verdict = judge(median(w.p99 for w in idle), median(w.p99 for w in busy))
            print(f"{spec}: {description}")
            print(f"  p99 of R1, idle        {spread([w.p99 for w in idle])} ms (min/median/max)")
            print(f"  p99 of R1, {LOGIN_LOOPS} logins   {spread([w.p99 for w in busy])} ms")
            print(f"  {verdict}", flush=True)
            failed |= verdict.startswith("misses") or any(w.error_count for w in idle + busy)
            server.close()
    return int(failed)
