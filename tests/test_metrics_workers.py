"""Several workers: whichever is asked answers for all; and every figure is in the documentation."""

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from duly.web.fellows import Fellows
from tests.fixtures.application import StartApp
from tests.fixtures.server import Server, StartServer
from tests.test_metrics import once, series

postgres = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
ROWS = re.compile(r"(?m)^\| (`[a-z_0-9`, ]+`) \| ([a-z]*) ?\| ([a-z, ]*) ?\|")
DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"
# Each is there under a condition that the document names.
SOMETIMES = {
    "duly_worker_up", "duly_signals_connected", "duly_client_connections", "duly_client_connections_limit",
    "duly_client_connections_refused_total", "duly_backup_last_success_timestamp_seconds",
    "duly_backup_last_size_bytes",
}  # fmt: skip


def read_once(server: Server) -> str:
    """Over a connection of its own, so that any worker may answer."""
    return httpx.get(f"{server.base_url}/metrics", trust_env=False, timeout=20).text


def missing(text: str) -> float:
    """How many requests for an unknown path all workers have answered."""
    found = series(text, "duly_http_requests_total")
    return sum(value for key, value in found.items() if key[:3] == ("GET", "unmatched", "404"))


def read_of_both(server: Server) -> str:
    """A reading in which both workers answered: on a busy machine one may be too late, and is left out."""
    deadline = time.monotonic() + 60
    while sum(series(text := read_once(server), "duly_worker_up").values()) != 2:
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.2)
    return text


@postgres
@pytest.mark.covers("A063")
def test_each_reading_tells_what_all_workers_did(start_server: StartServer, database_url: str) -> None:
    server = start_server(database_url=database_url, web_concurrency=2)
    read_of_both(server)
    for number in range(30):
        httpx.get(f"{server.base_url}/odd/{number}", trust_env=False, timeout=20)
    texts = [read_of_both(server) for _ in range(8)]
    assert [missing(text) for text in texts] == [30] * 8
    for text in texts:
        for family in text_string_to_metric_families(text):  # each family once, or a parser would refuse
            if family.samples and not family.name.startswith(("duly_up_", "duly_outbox", "duly_audit")):
                assert {"1", "2"} >= {sample.labels["worker"] for sample in family.samples}, family.name
    kill_a_worker(server)
    found = series(read_of_both(server), "duly_worker_up")  # it is replaced, under its number
    assert set(found) == {("1",), ("2",)}
    assert missing(read_once(server)) <= 30
    assert server.stop() == 0


def kill_a_worker(server: Server) -> None:
    """SIGKILL for one of them."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == server.process.pid and b"spawn_main" in command:
            os.kill(int(stat.parent.name), signal.SIGKILL)
            return
    pytest.fail("no worker found")


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the other side gives up."""
    await reader.read()
    writer.close()


async def test_a_worker_that_does_not_answer_holds_up_nobody(tmp_path: Path) -> None:
    """It hangs, or is gone and left its socket behind."""
    first, second, third = Fellows(tmp_path), Fellows(tmp_path), Fellows(tmp_path)
    assert [fellow.number for fellow in (first, second, third)] == [1, 2, 3]
    await first.open(lambda: {"a": ("head\n", "one\n")})
    await second.open(lambda: {"a": ("head\n", "two\n")})
    assert await first.ask() == {2: {"a": ("head\n", "two\n")}}
    hung = await asyncio.start_unix_server(say_nothing, tmp_path / "3.sock")
    begun = time.monotonic()
    assert await first.ask() == {2: {"a": ("head\n", "two\n")}, 3: None}
    assert time.monotonic() - begun >= 0.4
    hung.close()
    await asyncio.sleep(0.05)
    assert (await first.ask())[3] is None
    await second.close()
    assert list(await first.ask()) == [3]
    again = Fellows(tmp_path)
    assert again.number == 2
    for fellow in (first, again, third):
        await fellow.close()


def documented() -> dict[str, tuple[str, set[str]]]:
    """Each figure's type and labels, as the document has them."""
    found = {}
    for names, kind, labels in ROWS.findall(DOCUMENT.read_text(encoding="utf-8")):
        for name in re.findall(r"`([a-z_0-9]+)`", names):
            found[name] = (kind, {label.strip() for label in labels.split(",") if label.strip()})
    return found


@once
@pytest.mark.covers("A102")
async def test_the_document_lists_what_is_there(start_app: StartApp) -> None:
    api = await start_app()
    await api.client.get("/api/v1/tasks")
    await api.client.get("/metrics")
    known = documented()
    shown = set()
    for family in text_string_to_metric_families((await api.client.get("/metrics")).text):
        name = {"counter": f"{family.name}_total"}.get(family.type, family.name)
        assert name in known, f"{name} is missing in docs/metrics.md"
        shown.add(name)
        kind, labels = known[name]
        if name.startswith("process_"):
            continue
        assert kind == family.type, name
        assert labels == {label for sample in family.samples for label in sample.labels} - {"le"}, name
    assert set(known) - shown <= SOMETIMES, "docs/metrics.md lists what is not there"
