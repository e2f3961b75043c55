"""What each trick brings, and what each service costs: Duly as it ships beside one that lacks just that."""

from collections.abc import Mapping

from bench.beside import Way, race, render, start_all
from bench.compare import Plan, open_bench
from bench.environment import HERE

# What `bench/probe` can take away, in the words of the table.
TRICKS: Mapping[str, str] = {
    "lane": "the lane: hot routes past the framework",
    "verified": "verified tokens are remembered",
    "batches": "what waits for one statement runs as one",
    "whole": "an answer is one piece on the wire",
    "turns": "a turn of the loop takes 10 ms of requests",
    "answers": "of those who waited together 16 go on in a turn",
    "runtime": "garbage and threads held short",
    "tricks": "all of these",
}
SERVICES: Mapping[str, str] = {
    "log": "two lines of log",
    "figures": "figures for /metrics",
    "headers": "security headers",
}
SHIPPED = "as it ships"


def measure(plan: Plan) -> int:
    """Measure each Duly of the plan and print its tables."""
    for spec in plan.servers:
        ways = {SHIPPED: Way(spec)}
        for what, words in {**TRICKS, **SERVICES}.items():
            ways[words] = Way(spec, {"PYTHONPATH": str(HERE / "probe"), "BENCH_WITHOUT": what})
        with open_bench(plan) as (bench, stack):
            servers = start_all(ways, bench, stack)
            found = race(plan, servers)
            print(f"\n{spec}: {servers[SHIPPED][0].describe()}")
            note = "the rate with it, where 1 is without it"
            print("\n".join(render(found, lambda one, shipped: shipped.rate / one.rate, note=note)))
    return 0
