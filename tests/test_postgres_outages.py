"""PostgreSQL itself is stopped, killed, hung and started again under writers: bounded answers, and nothing is lost.

`OUTAGES=20` makes the long run. Two servers of Duly stand before one cluster with fsync on, and are never restarted.
"""

import os
import time
from collections.abc import Callable, Iterator

import pytest

from tests.clusters import Cluster, running_cluster
from tests.fixtures.server import Server, StartServer
from tests.outages import Clients, Watch
from tests.test_kill import assert_exactly_once, sign_up

OUTAGES = int(os.environ.get("OUTAGES", "1"))
WRITERS = 8
# Five seconds and one second are promised; the rest is for a busy machine.
LONGEST_ANSWER = 7.0
BACK_AFTER = 3.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


def stop_fast(cluster: Cluster) -> Callable[[], float]:
    cluster.stop("fast")
    return cluster.start


def stop_immediately(cluster: Cluster) -> Callable[[], float]:
    cluster.stop("immediate")
    return cluster.start


def kill(cluster: Cluster) -> Callable[[], float]:
    cluster.kill()
    return cluster.start


def hang(cluster: Cluster) -> Callable[[], float]:
    cluster.hang()

    def resume() -> float:
        cluster.resume()
        return cluster.wait_until_up()

    return resume


def restart(cluster: Cluster) -> Callable[[], float]:
    cluster.stop("fast")
    back = cluster.start()
    return lambda: back


# How long each lasts: a hung server must be met by requests that wait for all of their time.
FAULTS: dict[Callable[[Cluster], Callable[[], float]], float] = {
    stop_fast: 1.0, stop_immediately: 1.0, kill: 1.0, hang: 5.0, restart: 0.0,
}  # fmt: skip


def test_whatever_happens_to_the_server_nothing_acknowledged_is_lost(
    cluster: Cluster, start_server: StartServer
) -> None:
    cluster.run("CREATE DATABASE outages")
    settings = {"database_url": cluster.url("outages"), "log_level": "error"}
    servers = [start_server(**settings), start_server(**settings)]
    headers = sign_up(servers[0])
    with Clients(servers, headers, WRITERS) as watch:
        for fault in list(FAULTS) * OUTAGES:
            watch.ledger.wait_for_more(20)
            go_through(fault, cluster, servers, watch)
        watch.ledger.wait_for_more(20)
    print(watch)  # noqa: T201 - the figures of docs/reliability.md
    assert watch.ledger.unexpected == []
    assert watch.statuses[503] > 0
    assert watch.slowest < LONGEST_ANSWER
    assert set(watch.live_statuses) == {200}
    assert watch.live_milliseconds(0.5) < 50
    assert_exactly_once(servers[0], headers, watch.ledger)


def go_through(
    fault: Callable[[Cluster], Callable[[], float]], cluster: Cluster, servers: list[Server], watch: Watch
) -> None:
    """One fault from its begin until both servers serve again."""
    begun = time.monotonic()
    come_back = fault(cluster)
    down = time.monotonic()
    time.sleep(FAULTS[fault])
    ended = time.monotonic()
    back = come_back()
    waits = [watch.first_success(server, back) for server in servers]
    said = f"{fault.__name__}: down in {down - begun:.2f} s, back in {back - ended:.2f} s"
    print(f"\n{said}, first success {max(waits):.2f} s later")  # noqa: T201 - the figures of docs/reliability.md
    assert max(waits) < BACK_AFTER
    for server in servers:
        if FAULTS[fault]:
            assert 503 in watch.readiness(server, down, back), fault.__name__
        deadline = time.monotonic() + BACK_AFTER
        while 200 not in watch.readiness(server, back, deadline):
            assert time.monotonic() < deadline, f"{fault.__name__}: not ready again"
            time.sleep(0.02)
