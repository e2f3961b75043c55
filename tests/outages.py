"""Clients that go on through an outage: writers who retry with one key, and some who ask for health all the time."""

import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from tests.fixtures.server import Server
from tests.test_kill import Ledger

PATIENCE = 30.0
SHARES = {"median": 0.5, "99 %": 0.99, "longest": 1.0}


@dataclass
class Watch:
    """What writers and the one who asks for health have seen, with the moments (monotonic) of it."""

    ledger: Ledger = field(default_factory=Ledger)
    statuses: Counter[int] = field(default_factory=Counter)
    successes: dict[str, list[float]] = field(default_factory=dict)
    slowest: float = 0.0
    live: list[float] = field(default_factory=list)
    live_statuses: Counter[int] = field(default_factory=Counter)
    ready: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def __str__(self) -> str:
        health = ", ".join(f"{name} {self.live_milliseconds(share):.1f} ms" for name, share in SHARES.items())
        answers = f"answers {dict(self.statuses)}, slowest {self.slowest:.2f} s"
        kept = f"{len(self.ledger.acknowledged)} acknowledged, {self.ledger.replayed} of them by a replay"
        return f"\n{answers}; liveness {dict(self.live_statuses)}, {health}; {kept}"

    def first_success(self, server: Server, after: float) -> float:
        """Seconds from this moment until the first write that began after it and was acknowledged; waits for it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for moment in list(self.successes[server.base_url]):
                if moment > after:
                    return moment - after
            assert time.monotonic() < deadline, "no write has succeeded since"
            time.sleep(0.01)

    def readiness(self, server: Server, begin: float, end: float) -> set[int]:
        """What readiness said between two moments."""
        return {status for moment, status in list(self.ready[server.base_url]) if begin <= moment <= end}

    def live_milliseconds(self, share: float) -> float:
        """The time of an answer of `/health/live` that this share of them stayed below."""
        return sorted(self.live)[min(len(self.live) - 1, int(len(self.live) * share))] * 1000


class Clients:
    """Writers on each server, one after another task each, and one thread for each server's health."""

    def __init__(self, servers: Sequence[Server], headers: dict[str, str], writers: int) -> None:
        self.watch = Watch(successes={server.base_url: [] for server in servers},
                           ready={server.base_url: [] for server in servers})  # fmt: skip
        self._headers = headers
        work = [(self._write, (servers[number % len(servers)], number)) for number in range(writers)]
        work += [(self._ask, (server, 0)) for server in servers]
        self._threads = [threading.Thread(target=target, args=arguments) for target, arguments in work]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self.watch

    def __exit__(self, *_: object) -> None:
        self.watch.ledger.stopped.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _write(self, server: Server, writer: int) -> None:
        ledger = self.watch.ledger
        with httpx.Client(base_url=server.base_url, headers=self._headers, timeout=PATIENCE, trust_env=False) as client:
            for number in itertools.count():
                title, key = f"writer {writer} task {number}", str(uuid.uuid4())
                ledger.sent.add(title)
                while not self._write_once(client, server, title, key):
                    ledger.retried += 1
                    if ledger.stopped.wait(0.02):
                        return
                if ledger.stopped.is_set():
                    return

    def _write_once(self, client: httpx.Client, server: Server, title: str, key: str) -> bool:
        watch, begun = self.watch, time.monotonic()
        answer = client.post("/api/v1/tasks", json={"title": title}, headers={"Idempotency-Key": key})
        now = time.monotonic()
        watch.slowest = max(watch.slowest, now - begun)
        watch.statuses[answer.status_code] += 1
        if answer.status_code == 201:
            watch.ledger.note(title, answer)
            watch.successes[server.base_url].append(now)
        elif answer.status_code not in (409, 503, 507) or int(answer.headers.get("Retry-After", "1")) < 1:
            watch.ledger.unexpected.append(f"{answer.status_code} {answer.text}")
        elif answer.status_code == 503 and "Retry-After" not in answer.headers:
            watch.ledger.unexpected.append("a 503 without Retry-After")
        return answer.status_code == 201

    def _ask(self, server: Server, _: int) -> None:
        watch = self.watch
        with httpx.Client(base_url=server.base_url, timeout=PATIENCE, trust_env=False) as client:
            while not watch.ledger.stopped.wait(0.03):
                begun = time.monotonic()
                watch.live_statuses[client.get("/health/live").status_code] += 1
                watch.live.append(time.monotonic() - begun)
                begun = time.monotonic()
                watch.ready[server.base_url].append((begun, client.get("/health/ready").status_code))
