"""With SENTRY_DSN every unhandled fault reaches the tracker once, with the request's id and nothing of the person."""

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commands import refusal, run_duly
from tests.fixtures.application import PASSWORD
from tests.fixtures.server import Server, StartServer, environment
from tests.receivers import Receiver, hanging, receiving, wait_for
from tests.second_connection import second_connection


def dsn(port: int) -> str:
    return f"http://public-key@127.0.0.1:{port}/1"


async def drop(folder: Path, *tables: str) -> None:
    async with second_connection(f"sqlite:///{folder / 'duly.db'}") as outside:
        for table in tables:
            await outside.run(f"DROP TABLE {table}")


async def sign_in(client: httpx.AsyncClient) -> str:
    answer = await client.post("/api/v1/auth/register", json={"email": "ann@example.com", "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
    return str(answer.json()["access_token"])


def using(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=10)


def of_requests(tracker: Receiver) -> list[dict[str, Any]]:
    return [event for event in tracker.events() if "tags" in event]


def hold(value: Any, key: str) -> bool:
    """Whether `key` is a key anywhere in it."""
    if isinstance(value, dict):
        return key in value or any(hold(inner, key) for inner in value.values())
    return isinstance(value, list) and any(hold(inner, key) for inner in value)


@pytest.mark.covers("A103")
async def test_a_fault_reaches_the_tracker_once_with_the_requests_id_and_nothing_of_the_person(
    start_server: StartServer, tmp_path: Path
) -> None:
    with receiving() as tracker:
        server = start_server(sentry_dsn=dsn(tracker.port))
        async with using(server) as client:
            token = await sign_in(client)
            await drop(tmp_path, "tasks")
            broken = [
                await client.get(
                    "/api/v1/tasks?priority=low&tag=hush-hush-7", headers={"cookie": "theme=hidden-cookie"}
                ),
                await client.post("/api/v1/tasks", json={"title": "buy-a-secret-gift"}),
                await client.get("/api/v1/tasks/ann@example.com"),
            ]
            assert (await client.get("/api/v1/nowhere")).status_code == 404
        assert [answer.status_code for answer in broken] == [500, 500, 500]
        assert server.stop() == 0
        events, sent = of_requests(tracker), tracker.everything()
    told = Counter(event["tags"]["request_id"] for event in events)
    assert told == {answer.headers["x-request-id"]: 1 for answer in broken}
    for event in events:
        assert event["environment"] == "development"
        assert event["release"].startswith("duly@")
        assert event["logger"] == "duly.web.door"
        assert event["exception"]["values"][-1]["stacktrace"]["frames"]
        assert set(event).isdisjoint({"user", "request", "breadcrumbs", "extra", "modules"})
        assert not hold(event, "vars")
    for secret in (token, PASSWORD, "gift", "hush-hush", "hidden-cookie", "example.com", "ann@"):
        assert secret.encode() not in sent, secret


@pytest.mark.covers("A103")
async def test_a_loop_that_fails_again_and_again_is_told_of_once_in_a_while(
    start_server: StartServer, tmp_path: Path
) -> None:
    with receiving() as tracker:
        server = start_server(sentry_dsn=dsn(tracker.port), environment="development")
        await drop(tmp_path, "outbox", "audit_head")
        wait_for(lambda: server.log().count("The relay of the outbox failed") >= 2, "a second failure")
        assert server.stop() == 0
        loggers = Counter(event["logger"] for event in tracker.events())
    assert loggers["duly.outbox.relay"] == 1
    assert max(loggers.values()) == 1


def test_the_worker_reports_too(start_server: StartServer, tmp_path: Path) -> None:
    start_server().stop()
    asyncio.run(drop(tmp_path, "outbox"))
    with receiving() as tracker:
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "duly", "worker"], cwd=tmp_path, stdout=log, stderr=log, start_new_session=True,
                env=environment(tmp_path, sentry_dsn=dsn(tracker.port)),
            )  # fmt: skip
        try:
            events = wait_for(tracker.events, "an event of the worker")
            worker.terminate()
            assert worker.wait(20) == 0
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, 9)
                worker.wait(10)
    assert events[0]["logger"] == "duly.outbox.relay"
    assert "tags" not in events[0]


async def test_a_tracker_that_hangs_delays_no_request_and_not_the_end(
    start_server: StartServer, tmp_path: Path
) -> None:
    with hanging() as port:
        server = start_server(sentry_dsn=dsn(port))
        async with using(server) as client:
            await sign_in(client)
            await drop(tmp_path, "tasks")
            begun = time.monotonic()
            for _ in range(150):  # more than its queue holds
                assert (await client.get("/api/v1/tasks")).status_code == 500
            assert time.monotonic() - begun < 20  # one of them alone would have waited longer
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 10


async def test_what_is_no_address_of_a_tracker_stops_the_start(tmp_path: Path) -> None:
    told = refusal(await run_duly(tmp_path, "serve", sentry_dsn="https://sentry.example.com/secret-part"))
    assert told.startswith("SENTRY_DSN: is no DSN")
    assert "secret-part" not in told
