"""What lists and searches cost in accounts of 1,000, 10,000 and 100,000 tasks that lie in one database with others'."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from bench.client import Client
from bench.compare import Plan, make_duly, open_bench, start
from bench.duly import API, SEED_CONNECTIONS, Account, Duly, DulyPostgres
from bench.progress import Progress, say
from bench.report import digits

SIZES = (1_000, 10_000, 100_000)
FEW = 10
REPEATS = 15
REPEATS_AFTER_WRITE = 5
FIRST_DUE = datetime(2099, 1, 1, tzinfo=UTC)
REQUESTS: Mapping[str, str] = {
    "the 20 newest": "",
    "by time of change": "&sort=-updated_at",
    "by due date": "&sort=due_date",
    "by priority": "&sort=-priority",
    "by title": "&sort=title",
    "a page in the middle, by cursor": "&cursor={middle}",
    "status: half": "&status=pending",
    "status: half, by title, all far back": "&status=pending&sort=title",
    "priority: a third": "&priority=high",
    "priority: 10 tasks": "&priority=urgent",
    "tag: half": "&tag=common",
    "tag: 10 tasks": "&tag=rare",
    "due in a range: half": "&due_after={middle_due}",
    "due in a range: 10 tasks": "&due_before={early_due}",
    "overdue: 10 tasks": "&overdue=true",
    "search: a word of half the tasks": "&search=report",
    "search: a word of 10 tasks": "&search=giraffe",
    "search: both words": "&search=giraffe+report",
    "search: beginning of a word of half, by title, all far back": "&search=rep&sort=title",
}


def task_of(number: int, size: int) -> dict[str, Any]:
    """One of the account's tasks. What is rare has ten of them, what is common half, neither by age.

    Open tasks are those with the later titles: the worst that can happen to a list of them by title.
    """
    mixed = number * 7_919 % size
    rare = mixed < FEW
    title = f"{'report' if mixed % 2 else 'letter'} {mixed} {'giraffe' if rare else 'zebra'}"
    due = FIRST_DUE + timedelta(minutes=mixed) if not rare else datetime(2020, 1, 1, tzinfo=UTC)
    return {
        "title": title,
        "description": "Collect the figures of the last three months, check them with the team and write them up.",
        "priority": "urgent" if rare else ("low", "medium", "high")[mixed % 3],
        "completed": number % 2 == 0 and not rare,
        "due_date": due.isoformat().replace("+00:00", "Z"),
        "tags": [*(["common"] if mixed // 2 % 2 else []), *(["rare"] if rare else [])],
    }


@dataclass(frozen=True)
class Measured:
    """One account of a server."""

    account: Account
    size: int
    task_id: str
    values: Mapping[str, str]


class Timer:
    """One connection, which measures how long an answer takes."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def ask(self, owner: Measured, query: str) -> float:
        """Seconds for one page of 20."""
        path = f"{API}/tasks?limit=20{query.format(**owner.values)}"
        begun = time.perf_counter()
        self._client.expect("GET", path, token=owner.account.token)
        return time.perf_counter() - begun

    def change(self, owner: Measured) -> None:
        """Change a task, so that nothing that was counted holds any more."""
        path = f"{API}/tasks/{owner.task_id}"
        self._client.expect("PATCH", path, token=owner.account.token, body={"description": str(time.monotonic_ns())})


def fill(server: Duly, account: Account, size: int) -> Measured:
    """Create the account's tasks, bring its words up to date, and find the middle of its list."""
    progress = Progress(f"{server.label}: account of {size:,}", size)
    jobs = iter(range(size))
    lock = threading.Lock()

    def work() -> str:
        task_id = ""
        with Client(server.port) as client:
            while True:
                with lock:
                    number = next(jobs, None)
                if number is None:
                    return task_id
                answer = client.expect(
                    "POST", f"{API}/tasks", token=account.token, body=json.dumps(task_of(number, size))
                )
                task_id = answer["id"]
                progress.advance()

    with ThreadPoolExecutor(SEED_CONNECTIONS) as pool:
        ids = [work.result() for work in [pool.submit(work) for _ in range(SEED_CONNECTIONS)]]
    with Client(server.port) as client:
        begun = time.perf_counter()
        client.expect("GET", f"{API}/tasks?search=zebra&limit=1", token=account.token)
        say(f"{server.label}: the first search of {size:,} tasks took {time.perf_counter() - begun:.2f} s")
        page = client.expect("GET", f"{API}/tasks?limit=20&offset={size // 2}", token=account.token)
    return Measured(account, size, next(filter(None, ids)), _values(page["next_cursor"], size))


def _values(middle: str, size: int) -> dict[str, str]:
    def moment(minutes: int) -> str:
        return (FIRST_DUE + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")

    return {"middle": middle, "middle_due": moment(size // 2), "early_due": moment(0)}


def measure(plan: Plan, server: Duly, owners: Sequence[Measured]) -> Iterator[str]:
    """The rows of the table: every round asks every size in turn."""
    progress = Progress(f"{server.label}: requests", len(REQUESTS))
    with Client(server.port) as client:
        timer = Timer(client)
        for name, query in REQUESTS.items():
            again: dict[int, list[float]] = {owner.size: [] for owner in owners}
            fresh: dict[int, list[float]] = {owner.size: [] for owner in owners}
            for _ in range(plan.rounds):
                for owner in owners:
                    timer.ask(owner, query)
                    again[owner.size].append(median(timer.ask(owner, query) for _ in range(REPEATS)))
                    times = []
                    for _ in range(REPEATS_AFTER_WRITE):
                        timer.change(owner)
                        times.append(timer.ask(owner, query))
                    fresh[owner.size].append(median(times))
            progress.advance()
            yield f"| {name} | {_cells(again)} | {_cells(fresh)} |"


def _cells(found: Mapping[int, Sequence[float]]) -> str:
    """The smallest account's time in ms, and of the others the median ratio to it, round by round."""
    sizes = sorted(found)
    base = found[sizes[0]]
    ratios = [median(one / other for one, other in zip(found[size], base, strict=True)) for size in sizes[1:]]
    return " | ".join([digits(median(base) * 1000), *map(digits, ratios)])


def grow(plan: Plan, sizes: Sequence[int]) -> int:
    """Fill and measure each Duly of the plan, and print a table for each."""
    head = f"{sizes[0]:,}: ms | " + " | ".join(f"{size:,}" for size in sizes[1:])
    with open_bench(plan) as (bench, stack):
        for spec in plan.servers:
            server = make_duly(spec, bench)
            start(server, stack)
            owners = [fill(server, account, size) for account, size in zip(register(server, sizes), sizes, strict=True)]
            if isinstance(server, DulyPostgres):
                server.settle_database()
            print(f"{spec}: {server.describe()}\n")
            print(f"| | {head} | after a write, {head} |")
            print("|---|" + "---|" * (2 * len(sizes)))
            for row in measure(plan, server, owners):
                print(row, flush=True)
            print()
            server.close()
    return 0


def register(server: Duly, sizes: Sequence[int]) -> list[Account]:
    """One account for each size, beside those that the harness always makes."""
    found = []
    with Client(server.port) as client:
        for size in sizes:
            email, password = f"account{size}@example.com", "tangerine-orbit-92"
            answer = client.expect("POST", f"{API}/auth/register", body={"email": email, "password": password})
            found.append(Account(email, password, answer["user"]["id"], answer["access_token"]))
    return found
