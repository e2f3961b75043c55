"""SIGKILL at any moment under many writers: nothing that was acknowledged is lost, and nothing is done twice.

`KILLS=100` makes the long run. A kill cannot show the loss of what the disk has not written yet; other tests do that.
"""

import itertools
import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.fixtures.application import PASSWORD
from tests.fixtures.server import Server, StartServer, free_port

KILLS = int(os.environ.get("KILLS", "8"))
WRITERS = 8
PATIENCE = 30  # seconds, for what takes a fraction of one


@dataclass
class Ledger:
    """What the writers have been told, and how often they had to ask again."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    unexpected: list[str] = field(default_factory=list)
    replayed: int = 0
    retried: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    grown: threading.Condition = field(default_factory=threading.Condition)

    def wait_for_more(self, count: int) -> None:
        """Until `count` further writes were acknowledged."""
        with self.grown:
            goal = len(self.acknowledged) + count
            assert self.grown.wait_for(lambda: len(self.acknowledged) >= goal, PATIENCE), self.unexpected

    def note(self, title: str, answer: httpx.Response) -> None:
        """An acknowledged write; a second one for a title would have to be the same task."""
        with self.grown:
            self.replayed += answer.headers.get("idempotency-replayed") == "true"
            if self.acknowledged.setdefault(title, answer.json()["id"]) != answer.json()["id"]:
                self.unexpected.append(f"{title} was acknowledged as two tasks")
            self.grown.notify()


def write_until_stopped(base_url: str, headers: dict[str, str], writer: int, ledger: Ledger) -> None:
    """Create one task after another; whatever happens to a request, it is sent again with its key until it is 201."""
    with httpx.Client(base_url=base_url, headers=headers, timeout=PATIENCE, trust_env=False) as client:
        for number in itertools.count():
            title, key = f"writer {writer} task {number}", str(uuid.uuid4())
            ledger.sent.add(title)
            while not write_once(client, title, key, ledger):
                ledger.retried += 1
                if ledger.stopped.wait(0.02):
                    return
            if ledger.stopped.is_set():
                return


def write_once(client: httpx.Client, title: str, key: str, ledger: Ledger) -> bool:
    """Whether it was acknowledged."""
    try:
        answer = client.post("/api/v1/tasks", json={"title": title}, headers={"Idempotency-Key": key})
    except httpx.TransportError:
        return False
    if answer.status_code == 201:
        ledger.note(title, answer)
    elif answer.status_code not in (409, 503):
        ledger.unexpected.append(f"{answer.status_code} {answer.text}")
    return answer.status_code == 201


def pages(client: httpx.Client, path: str, name: str) -> Iterator[dict[str, Any]]:
    """Every item of a list, page by page."""
    query: dict[str, Any] = {"limit": 100}
    while True:
        page = client.get(path, params=query).json()
        yield from page["items"]
        if not page.get("has_more", page["next_cursor"]):
            return
        query[name] = page["next_cursor"]


def sign_up(server: Server) -> dict[str, str]:
    """What signs the requests of a new person; the key behind it outlives the process."""
    body = {"email": "writer@example.com", "password": PASSWORD}
    answer = httpx.post(f"{server.base_url}/api/v1/auth/register", json=body, trust_env=False)
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


@pytest.mark.covers("E055", "E078")
def test_killed_again_and_again_it_loses_and_doubles_nothing(start_server: StartServer, database_url: str) -> None:
    port, ledger = free_port(), Ledger()
    settings = {"database_url": database_url, "log_level": "error"}
    server = start_server(port, **settings)
    headers = sign_up(server)
    arguments = [(server.base_url, headers, writer, ledger) for writer in range(WRITERS)]
    threads = [threading.Thread(target=write_until_stopped, args=values) for values in arguments]
    for thread in threads:
        thread.start()
    try:
        for kill in range(KILLS):
            ledger.wait_for_more(1 + 7 * kill % 40)
            server.kill()
            server = start_server(port, **settings)
        ledger.wait_for_more(WRITERS)
    finally:
        ledger.stopped.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert ledger.unexpected == []
    # Each kill has to have hit requests on their way, or it showed nothing.
    assert ledger.retried >= KILLS
    assert_exactly_once(server, headers, ledger)


def assert_exactly_once(server: Server, headers: dict[str, str], ledger: Ledger) -> None:
    """The lists, the counters and the change feed agree with the ledger and with each other."""
    with httpx.Client(base_url=f"{server.base_url}/api/v1", headers=headers, timeout=30, trust_env=False) as client:
        tasks = list(pages(client, "/tasks", "cursor"))
        changes = list(pages(client, "/changes", "since"))
        total = client.get("/tasks").json()["total"]
    stored = {task["title"]: task["id"] for task in tasks}
    lost = {title for title, task_id in ledger.acknowledged.items() if stored.get(title) != task_id}
    doubled = {title for title, count in Counter(task["title"] for task in tasks).items() if count > 1}
    assert (lost, doubled) == (set(), set())
    assert stored.keys() <= ledger.sent
    assert total == len(tasks)
    assert Counter(change["type"] for change in changes) == {"task.created": len(tasks)}
    assert {change["task_id"] for change in changes} == set(stored.values())
