"""Two servers behind nginx are restarted one after the other under load, or killed: no client sees a failure.

`ROLLING_REQUESTS=15000` makes the long run; `--log-cli-level=info` tells its figures. No client tries anything twice.
"""

import itertools
import json
import logging
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.edges import Edge, open_edge
from tests.replicas import Pair, open_pair, sign_up

REQUESTS = int(os.environ.get("ROLLING_REQUESTS", "1500"))
WRITERS, READERS = 8, 4
PATIENCE = 60.0
# The short run leaves the machine room to start servers in; the long one does not.
PAUSE = 0.0 if REQUESTS > 5000 else 0.04
KILLS = max(1, REQUESTS // 5000)
log = logging.getLogger(__name__)


@dataclass
class Ledger:
    """Every request that was made, and what was told of each task."""

    made: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    count: int = 0
    failed: list[str] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    stopped: threading.Event = field(default_factory=threading.Event)

    def ask(self, client: httpx.Client, method: str, path: str, expected: int, **options: Any) -> Any:
        """The body of an answer as it should be, or None; once, whatever comes."""
        self.count = next(self.made)
        time.sleep(PAUSE)
        try:
            answer = client.request(method, path, **options)
        except httpx.TransportError as error:
            self.failed.append(f"{method} {path}: {error!r}")
            return None
        if answer.status_code != expected:
            self.failed.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return None
        return answer.json()


def write(client: httpx.Client, writer: int, ledger: Ledger, *, keyed: bool = True) -> None:
    """Create tasks, change each once, and read it."""
    for number in itertools.count():
        if ledger.stopped.is_set():
            return
        title = f"writer {writer} task {number}"
        headers = {"Idempotency-Key": str(uuid.uuid4())} if keyed else {}
        task = ledger.ask(client, "POST", "/api/v1/tasks", 201, json={"title": title}, headers=headers)
        if task is None:
            ledger.unsure.add(title)
            continue
        ledger.acknowledged[title] = task["id"]
        if ledger.ask(client, "PATCH", f"/api/v1/tasks/{task['id']}", 200, json={"description": title}) is None:
            ledger.unsure.add(title)
        read = ledger.ask(client, "GET", f"/api/v1/tasks/{task['id']}", 200)
        if read is not None and title not in ledger.unsure and read["description"] != title:
            ledger.failed.append(f"{title} was changed and reads {read}")


def read(client: httpx.Client, ledger: Ledger) -> None:
    """Lists and feeds, as clients look at them."""
    while not ledger.stopped.is_set():
        for path in ("/api/v1/tasks?limit=20", "/api/v1/auth/me", "/api/v1/changes?limit=10", "/api/v1/tasks/stats"):
            ledger.ask(client, "GET", path, 200)


class Load:
    """Writers and readers, each at an address and on a connection of its own, for as long as the block runs."""

    def __init__(self, edge: Edge, headers: dict[str, str], writers: int = WRITERS, *, keyed: bool = True) -> None:
        self.ledger = Ledger()
        self._clients = [edge.client(f"127.0.0.{20 + n}", headers=headers) for n in range(writers + READERS)]
        self._threads = [
            threading.Thread(target=write, args=(client, n, self.ledger), kwargs={"keyed": keyed})
            if n < writers else threading.Thread(target=read, args=(client, self.ledger))
            for n, client in enumerate(self._clients)
        ]  # fmt: skip

    def __enter__(self) -> Ledger:
        for thread in self._threads:
            thread.start()
        return self.ledger

    def __exit__(self, *_: object) -> None:
        self.ledger.stopped.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        for client in self._clients:
            client.close()


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two servers that are ready."""
    with open_pair(request, tmp_path_factory.mktemp("pair"), log_level="warning") as servers:
        yield servers


@pytest.fixture(scope="module")
def edge(pair: Pair) -> Iterator[Edge]:
    """The proxy before the two."""
    with open_edge(pair.folder / "edge", pair.ports) as running:
        yield running


def stored(edge: Edge, headers: dict[str, str]) -> list[dict[str, Any]]:
    """Every task, page by page."""
    found: list[dict[str, Any]] = []
    with edge.client(headers=headers) as client:
        query: dict[str, Any] = {"limit": 100}
        while True:
            page = client.get("/api/v1/tasks", params=query).json()
            found += page["items"]
            if page["next_cursor"] is None:
                assert page["total"] == len(found)
                return found
            query["cursor"] = page["next_cursor"]


def assert_exactly_once(edge: Edge, headers: dict[str, str], ledger: Ledger) -> None:
    """What was acknowledged is there, and nothing is there twice."""
    tasks = stored(edge, headers)
    doubled = {title for title, count in Counter(task["title"] for task in tasks).items() if count > 1}
    by_title = {task["title"]: task["id"] for task in tasks}
    lost = {title for title, task_id in ledger.acknowledged.items() if by_title.get(title) != task_id}
    assert (lost, doubled) == (set(), set())
    assert set(by_title) <= set(ledger.acknowledged) | ledger.unsure


def count_retries(edge: Edge, since: int) -> int:
    """Requests that nginx took to another server after one had not answered."""
    lines = edge.log()[since:].splitlines()
    return sum(", " in json.loads(line)["upstream"] for line in lines)


def roll_under_load(pair: Pair, edge: Edge, *, keyed: bool) -> tuple[Ledger, str]:
    """Restart both servers in turn until there were enough requests; also what to print of it."""
    headers, since = sign_up(edge), len(edge.log())
    before = [pair.pid(port) for port in pair.ports]
    rolls = 0
    with Load(edge, headers, keyed=keyed) as ledger:
        while ledger.count < REQUESTS or not rolls:
            pair.roll()
            rolls += 1
    assert_exactly_once(edge, headers, ledger)
    assert not {pair.pid(port) for port in pair.ports} & set(before)
    retried = count_retries(edge, since)
    # Or the restarts were not felt at all, and this showed nothing.
    assert retried > 0
    told = f"{ledger.count} requests, {rolls} rolling restarts, {retried} asked twice, {len(ledger.failed)} failed"
    return ledger, told


@pytest.mark.covers("A113", "B079", "D129", "E122")
def test_a_rolling_restart_under_load_fails_nobody(pair: Pair, edge: Edge) -> None:
    ledger, told = roll_under_load(pair, edge, keyed=True)
    log.info("%s", told)
    assert ledger.failed == []
    assert ledger.count >= REQUESTS


# Nobody knows whether a create without a key was done: it is not done again, and the client hears so.
UNSURE = "POST /api/v1/tasks: 502 "


@pytest.mark.torture
def test_in_a_rolling_restart_a_create_without_a_key_is_never_done_twice(pair: Pair, edge: Edge) -> None:
    ledger, told = roll_under_load(pair, edge, keyed=False)
    log.info("%s, without keys", told)
    assert [line for line in ledger.failed if not line.startswith(UNSURE)] == []
    assert len(ledger.failed) <= ledger.count / 1000


@pytest.mark.covers("A113", "E122")
@pytest.mark.parametrize("keyed", [True, pytest.param(False, marks=pytest.mark.torture)], ids=["with keys", "without"])
def test_killed_under_load_a_server_takes_nothing_with_it(pair: Pair, edge: Edge, keyed: bool) -> None:
    headers = sign_up(edge)
    with Load(edge, headers, keyed=keyed) as ledger:
        for number in range(KILLS):
            goal = ledger.count + 200
            while ledger.count < goal:
                time.sleep(0.01)
            port = pair.ports[number % 2]
            pair.kill(port)
            pair.run(port)
            pair.wait(port)
    assert_exactly_once(edge, headers, ledger)
    log.info("%d requests, %d kills, %d failed", ledger.count, KILLS, len(ledger.failed))
    if keyed:
        assert ledger.failed == []
    assert [line for line in ledger.failed if not line.startswith(UNSURE)] == []
