"""What a second worker brings."""

from bench.beside import Way, race, render, start_all
from bench.compare import Plan, open_bench

COUNTS = (1, 2)


def measure(plan: Plan) -> int:
    """Measure each Duly of the plan with one and with two workers, and print its tables."""
    for spec in plan.servers:
        name = spec.partition(":")[0]
        ways = {f"{count} worker{'s' * (count > 1)}": Way(f"{name}:{count}") for count in COUNTS}
        with open_bench(plan) as (bench, stack):
            servers = start_all(ways, bench, stack)
            found = race(plan, servers)
            print(f"\n{name}: {next(iter(servers.values()))[0].describe()}")
            print("\n".join(render(found, lambda two, one: two.rate / one.rate, note="the rate against one worker")))
    return 0
