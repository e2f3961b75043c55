"""`duly worker`: mail, the audit chain and the sweeps, in as many processes as wanted."""

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commands import refusal, run_duly
from tests.fixtures.application import PASSWORD
from tests.fixtures.server import Server, StartServer, environment
from tests.fixtures.smtp import MailServer
from tests.fixtures.stored import Stored
from tests.schemas import run_sql

StartWorker = Callable[..., Server]
PEOPLE = 24


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Start `duly worker` and wait until it says what it does; all are ended with the test."""
    workers: list[Server] = []

    def start(**settings: Any) -> Server:
        output = tmp_path / f"worker-{len(workers)}.log"
        with output.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "duly", "worker"], cwd=tmp_path, stdout=log, stderr=log, start_new_session=True,
                env=environment(tmp_path, **settings),
            )  # fmt: skip
        workers.append(Server(process, "", output))
        deadline = time.monotonic() + 30
        while "Working" not in workers[-1].log():
            assert process.poll() is None, workers[-1].log()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


async def register(server: Server, *emails: str) -> None:
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=30) as client:
        for email in emails:
            answered = await client.post("/api/v1/auth/register", json={"email": email, "password": PASSWORD})
            assert answered.status_code == 201, answered.text


async def wait_until(holds: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 60  # a mail that was tried five times rests for up to 19 seconds
    while not await holds():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
async def test_two_workers_and_a_server_deliver_each_mail_once(
    start_server: StartServer, start_worker: StartWorker, mail_server: MailServer, database_url: str, stored: Stored
) -> None:
    settings = {"database_url": database_url, "rate_limit_enabled": "false", **mail_server.settings}
    server = start_server(**settings)
    workers = [start_worker(**settings), start_worker(**settings)]
    # All of it becomes due under the eyes of three relays, again and again until the mail server takes it.
    mail_server.mode = "451"
    emails = [f"person{number}@example.com" for number in range(PEOPLE)]
    await register(server, *emails)

    async def all_have_tried() -> bool:
        return all("was not delivered" in process.log() for process in (server, *workers))

    await wait_until(all_have_tried, "not all three took part")
    mail_server.mode = "ok"

    async def all_sent() -> bool:
        return bool(await stored.value("SELECT count(*) FROM outbox WHERE state = 'sent'") == PEOPLE)

    await wait_until(all_sent, "not every mail was sent")
    await asyncio.sleep(1.5)
    received = Counter(recipient for mail in mail_server.messages for recipient in mail.recipients)
    assert received == Counter(emails)
    assert [worker.stop() for worker in workers] == [0, 0]


async def test_a_worker_delivers_what_a_killed_server_left_and_links_what_it_wrote(
    start_server: StartServer, start_worker: StartWorker, mail_server: MailServer, *, database_url: str, stored: Stored,
    tmp_path: Path,
) -> None:  # fmt: skip
    settings = {"database_url": database_url, **mail_server.settings}
    mail_server.mode = "451"
    server = start_server(**settings)
    await register(server, "ann@example.com")

    async def tried() -> bool:
        return bool(await stored.value("SELECT count(*) FROM outbox WHERE last_error IS NOT NULL"))

    # A server that dies in the middle of a mail holds its lease for 90 seconds more, so it dies after it.
    await wait_until(tried, "the mail was not tried")
    server.kill()
    assert await stored.value("SELECT count(*) FROM outbox WHERE state = 'waiting'") == 1
    words = ("create-admin", "--email", "ada@example.com", "--password-stdin")
    command = [sys.executable, "-m", "duly", *words]
    await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=tmp_path,
        env=environment(tmp_path, **settings),
        input=b"copper-lantern-58\n",
        check=True,
    )
    assert await stored.value("SELECT count(*) FROM audit_log WHERE position IS NULL") >= 1
    mail_server.mode = "ok"
    worker = start_worker(**settings)
    await mail_server.wait_for("ann@example.com")

    async def linked() -> bool:
        return bool(await stored.value("SELECT count(*) FROM audit_log WHERE position IS NULL") == 0)

    await wait_until(linked, "the audit log was not linked")
    assert worker.stop() == 0
    assert len(mail_server.messages) == 1


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(start_worker: StartWorker, database_url: str, number: signal.Signals) -> None:
    worker = start_worker(database_url=database_url)
    first = worker.log().splitlines()[0]
    assert "delivers mail, links the audit log, and removes what is over" in first
    worker.process.send_signal(number)
    assert worker.process.wait(10) == 0
    assert "Traceback" not in worker.log()


async def test_an_old_schema_is_refused_and_left_as_it_is(
    empty_database_url: str, tmp_path: Path, dialect: str
) -> None:
    line = refusal(await run_duly(tmp_path, "worker", database_url=empty_database_url))
    assert "run 'duly migrate upgrade'" in line
    if dialect == "sqlite":
        assert not (tmp_path / "empty.db").exists()
    else:
        tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        assert await run_sql(empty_database_url, tables) == [(0,)]


async def test_a_database_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    line = refusal(
        await run_duly(
            tmp_path, "worker", database_url="postgresql://duly:canary@127.0.0.1:9/duly", startup_timeout_seconds=0
        )
    )
    assert "canary" not in line
