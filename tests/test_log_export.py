"""With TELEMETRY_ENABLED a collector gets the log too: masked, with request id and trace, to the last line."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.commands import run_duly
from tests.fixtures.application import PASSWORD
from tests.fixtures.server import Server, StartServer, environment
from tests.receivers import Receiver, Record, Span, receiving, wait_for
from tests.second_connection import second_connection

FAST = {"otel_bsp_schedule_delay": 50, "otel_blrp_schedule_delay": 50, "otel_metrics_exporter": "none"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
INFO, WARN, ERROR = 9, 13, 17


def sending(start_server: StartServer, collector: Receiver, **settings: Any) -> Server:
    given = {"telemetry_enabled": True, "otel_exporter_otlp_endpoint": collector.url, "log_level": "debug"}
    return start_server(**{**given, **FAST, **settings})


def find_span(collector: Receiver, answer: httpx.Response) -> Span:
    mine = answer.headers["x-request-id"]
    look = lambda: [one for one in collector.served() if one.attributes.get("duly.request_id") == mine]  # noqa: E731
    span: Span = wait_for(look, "the span")[0]
    return span


def of(collector: Receiver, answer: httpx.Response, *loggers: str) -> list[Record]:
    """The records of one answer, by its request id: one at least of each of these loggers, and no others."""
    mine = answer.headers["x-request-id"]

    def look() -> list[Record]:
        found = [one for one in collector.records() if one.attributes.get("duly.request_id") == mine]
        return found if {one.logger for one in found} >= set(loggers) else []

    records: list[Record] = wait_for(look, f"the records of {answer.request.method} {answer.request.url}")
    return [one for one in records if one.logger in loggers]


async def test_the_log_arrives_masked_with_request_id_and_trace(start_server: StartServer, tmp_path: Path) -> None:
    with receiving() as collector:
        server = sending(start_server, collector, log_format="json", otel_service_name="tasks-eu")
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20) as client:
            body = {"email": "ann@example.com", "password": PASSWORD}
            headers = {"traceparent": TRACEPARENT}
            made = await client.post("/api/v1/auth/register", json=body, headers=headers)
            wrong = await client.post("/api/v1/auth/login", json={**body, "password": "hush-hush-7"}, headers=headers)
            token = made.json()["access_token"]
            missing = await client.get(f'/x"y/carol@example.com/{token}?token=hush-hush-7')
            client.headers["authorization"] = f"Bearer {token}"
            async with second_connection(f"sqlite:///{tmp_path / 'duly.db'}") as outside:
                await outside.run("DROP TABLE tasks")
            broken = await client.post("/api/v1/tasks", json={"title": "buy-a-secret-gift"})
        registered = of(collector, made, "duly.audit", "duly.access")
        assert {"user.registered", "Request completed: POST /api/v1/auth/register - Status: 201"} <= {
            one.body for one in registered
        }
        assert {one.trace_id for one in registered} == {TRACE}
        event, *_ = of(collector, wrong, "duly.audit")
        assert (event.body, event.severity, event.attributes["outcome"]) == ("user.login_failed", WARN, "failure")
        span = find_span(collector, wrong)
        access, *_ = of(collector, wrong, "duly.access")
        assert (access.span_id, access.severity, access.attributes["status"]) == (span.span_id, WARN, 401)
        assert access.resource["service.name"] == "tasks-eu"
        access, *_ = of(collector, missing, "duly.access")
        assert access.body == 'Request completed: GET /x"y/***/*** - Status: 404'
        fault, *_ = of(collector, broken, "duly.web.door")
        assert (fault.severity, fault.trace_id) == (ERROR, find_span(collector, broken).trace_id)
        assert "no such table" in fault.attributes["exception.stacktrace"]
        assert server.stop() == 0
        loggers = {one.logger.partition(".")[0] for one in collector.records()}
        sent = collector.everything()
    assert "duly" in loggers
    assert not loggers & {"opentelemetry", "urllib3", "requests"}
    for secret in (token, token.split(".")[2], PASSWORD, "hush-hush", "example.com", "gift", "eyJhbGci"):
        assert secret.encode() not in sent, secret


async def test_the_worker_sends_its_log_too(tmp_path: Path) -> None:
    assert (await run_duly(tmp_path, "migrate", "upgrade")).returncode == 0
    with receiving() as collector:
        given = {"telemetry_enabled": True, "otel_exporter_otlp_endpoint": collector.url, **FAST}
        with (tmp_path / "worker.log").open("wb") as output:
            worker = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "duly", "worker", cwd=tmp_path, stdout=output, stderr=output,
                env=environment(tmp_path, **given),
            )  # fmt: skip
        try:
            wait_for(lambda: [one for one in collector.records() if one.body.startswith("Working:")], "its first line")
        finally:
            worker.terminate()
            code = await asyncio.wait_for(worker.wait(), 20)
        assert code == 0
        assert [one.severity for one in collector.records() if one.body == "Ended"][:1] == [INFO]
