"""With TELEMETRY_ENABLED every request is a span that a collector gets by OTLP: who answered does not matter."""

import json
import re
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commands import run_duly
from tests.fixtures.application import PASSWORD
from tests.fixtures.server import Server, StartServer
from tests.receivers import Receiver, Span, hanging, receiving, wait_for, without
from tests.second_connection import second_connection

FAST = {"otel_bsp_schedule_delay": 50, "otel_blrp_schedule_delay": 50, "otel_metric_export_interval": 300}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
NOWHERE = "/nowhere/carol@example.com/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"


def traced(start_server: StartServer, endpoint: str, **settings: Any) -> Server:
    given = {"telemetry_enabled": True, "otel_exporter_otlp_endpoint": endpoint, "log_format": "json"}
    return start_server(**{**given, **FAST, **settings})


async def drop_tasks(folder: Path) -> None:
    async with second_connection(f"sqlite:///{folder / 'duly.db'}") as outside:
        await outside.run("DROP TABLE tasks")


async def sign_in(client: httpx.AsyncClient) -> str:
    body = {"email": "ann@example.com", "password": PASSWORD}
    answer = await client.post("/api/v1/auth/register", json=body, headers={"traceparent": TRACEPARENT})
    assert answer.status_code == 201, answer.text
    client.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
    return str(answer.json()["access_token"])


def find(receiver: Receiver, answer: httpx.Response) -> Span:
    """The span of one answer, by its request id."""
    mine = answer.headers["x-request-id"]

    def look() -> list[Span]:
        return [span for span in receiver.served() if span.attributes.get("duly.request_id") == mine]

    spans: list[Span] = wait_for(look, f"the span of {answer.request.method} {answer.request.url}")
    assert len(spans) == 1
    return spans[0]


def summary(span: Span) -> tuple[str, Any, Any, bool]:
    return span.name, span.attributes.get("http.route"), span.attributes["http.response.status_code"], span.failed


@pytest.mark.covers("D058", "A102", "D091")
async def test_each_request_arrives_as_a_span_whoever_answered_it(start_server: StartServer, tmp_path: Path) -> None:
    with receiving() as collector:
        server = traced(start_server, collector.url)
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20) as client:
            token = await sign_in(client)
            task = await client.post("/api/v1/tasks", json={"title": "buy-a-secret-gift"})
            path, plain = f"/api/v1/tasks/{task.json()['id']}", {"accept-encoding": "identity"}
            one, several, unknown = "/api/v1/tasks/{task_id}", "/api/v1/tasks", f"/api/v1/tasks/{uuid.uuid4()}"
            answers = [
                (task, (f"POST {several}", several, 201, False)),
                (await client.get(path, headers=plain), (f"GET {one}", one, 200, False)),
                (await client.get(path, headers={"origin": "https://a.example"}), (f"GET {one}", one, 200, False)),
                (await client.get(unknown, headers=plain), (f"GET {one}", one, 404, False)),
                (await client.patch(path, json={"title": "x"}), (f"PATCH {one}", one, 200, False)),
                (await client.get("/api/v1/auth/me"), ("GET /api/v1/auth/me", "/api/v1/auth/me", 200, False)),
                (await client.get(f"{several}?search=carol@example.com&token=hush-hush-7"),
                 (f"GET {several}", several, 422, False)),
                (await client.get(NOWHERE), ("GET", None, 404, False)),
                (await client.post(several, content=b"x" * 3_000_000), (f"POST {several}", several, 413, False)),
            ]  # fmt: skip
            await drop_tasks(tmp_path)
            answers.append((await client.get(path, headers=plain), (f"GET {one}", one, 500, True)))
        for answer, expected in answers:
            assert summary(find(collector, answer)) == expected, answer.request.url
        wait_for(lambda: "http.server.request.duration" in collector.metric_names(), "the figures")
        assert server.stop() == 0
        sent = collector.everything()
    for secret in (token, token.split(".")[2], PASSWORD, "example.com", "gift", "search=", "hush-hush", "eyJhbGci"):
        assert secret.encode() not in sent, secret


@pytest.mark.covers("D058")
async def test_the_callers_trace_is_continued_and_is_in_the_log_of_the_request(start_server: StartServer) -> None:
    with receiving() as collector:
        told = {"otel_resource_attributes": "deployment.environment.name=blue", "otel_logs_exporter": "none"}
        server = traced(start_server, collector.url, **told)
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20) as client:
            await sign_in(client)
            mine = await client.post("/api/v1/tasks", json={"title": "x"}, headers={"traceparent": TRACEPARENT})
            span = find(collector, mine)
            assert (span.trace_id, span.parent) == (TRACE, PARENT)
            alone = find(collector, await client.get("/api/v1/auth/me", headers={"traceparent": "00-0-0-zz"}))
            assert alone.trace_id != TRACE
            assert alone.parent == ""
            parts = wait_for(
                lambda: [part for part in collector.spans() if part.parent == alone.span_id], "the parts of a request"
            )
            assert "fastapi.endpoint" in {part.name for part in parts}
        assert server.stop() == 0
        assert collector.records() == []  # the log stays here
    assert span.resource["service.name"] == "duly"
    assert span.resource["deployment.environment.name"] == "blue"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", span.resource["service.version"])
    entries = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    request_id = mine.headers["x-request-id"]
    assert [entry["trace_id"] for entry in entries if entry["request_id"] == request_id] == [TRACE, TRACE]
    assert all("trace_id" not in entry for entry in entries if entry["request_id"] is None)


def test_what_waits_at_the_end_is_sent(start_server: StartServer) -> None:
    with receiving() as collector:
        slow = dict.fromkeys(FAST, 60000) | {"log_format": "console"}
        server = traced(start_server, collector.url, otel_service_name="tasks-eu", **slow)
        answer = httpx.get(f"{server.base_url}/health")
        lost = httpx.get(f"{server.base_url}/nowhere").headers["x-request-id"]
        assert collector.posts == []
        assert server.stop() == 0
        span = find(collector, answer)
        assert (span.name, span.resource["service.name"]) == ("GET /health", "tasks-eu")
        assert "http.server.request.duration" in collector.metric_names()
        records = [one for one in collector.records() if one.attributes.get("duly.request_id") == lost]
        said = {(one.body, one.attributes["status"]) for one in records if one.logger == "duly.access"}
        assert said == {("Request completed: GET /nowhere - Status: 404", 404)}


def test_a_collector_that_hangs_delays_no_request_and_not_the_end(start_server: StartServer) -> None:
    with hanging() as port:
        server = traced(
            start_server, f"http://127.0.0.1:{port}", otel_bsp_max_queue_size=64, otel_bsp_max_export_batch_size=16
        )
        with httpx.Client(base_url=server.base_url, trust_env=False) as client:
            slowest = 0.0
            for _ in range(200):
                begun = time.monotonic()
                assert client.get("/health/live").status_code == 200
                slowest = max(slowest, time.monotonic() - begun)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 10
    assert slowest < 2  # an export would have waited its ten seconds


def test_a_collector_that_is_gone_is_told_of_once_a_minute(start_server: StartServer) -> None:
    with hanging() as port:
        pass  # nobody listens there any more
    server = traced(start_server, f"http://127.0.0.1:{port}", otel_exporter_otlp_timeout=1,
                    otel_metrics_exporter="none")  # fmt: skip
    for _ in range(3):
        assert httpx.get(f"{server.base_url}/health").status_code == 200
        time.sleep(0.3)
    assert server.stop() == 0
    for kind in ("trace_exporter", "_log_exporter"):
        told = [line for line in server.log().splitlines() if "opentelemetry.exporter" in line and kind in line]
        assert len(told) == 1, server.log()


def test_nothing_is_traced_unless_it_is_asked_for(start_server: StartServer) -> None:
    with receiving() as collector:
        given = {
            "fastapi_otel_auto_configure": "true",
            "otel_exporter_otlp_endpoint": collector.url,
            "log_format": "json",
        }
        server = start_server(**given, **FAST)
        for _ in range(3):
            assert httpx.get(f"{server.base_url}/health", headers={"traceparent": TRACEPARENT}).status_code == 200
        assert server.stop() == 0
        assert collector.posts == []
    assert "trace_id" not in server.log()


async def test_what_cannot_be_sent_as_it_is_set_stops_the_start(tmp_path: Path) -> None:
    wrong = {"otel_exporter_otlp_protocol": "grpc", "otel_traces_exporter": "jaeger", "otel_bsp_max_queue_size": 64,
             "otel_logs_exporter": "console", "otel_blrp_max_queue_size": 64}  # fmt: skip
    done = await run_duly(tmp_path, "serve", telemetry_enabled=True, **wrong)
    assert done.returncode == 1
    assert [line.partition(" ")[2].partition(";")[0] for line in done.stderr.splitlines()] == [
        "OTEL_TRACES_EXPORTER: give otlp or none",
        "OTEL_EXPORTER_OTLP_PROTOCOL: give http/protobuf, the one that is spoken here (port 4318 of most collectors)",
        "OTEL_LOGS_EXPORTER: give otlp or none",
        "OTEL_BSP_*: max_export_batch_size must be less than or equal to max_queue_size.",
        "OTEL_BLRP_*: max_export_batch_size must be less than or equal to max_queue_size.",
    ]


@pytest.mark.covers("A103")
async def test_without_the_extras_the_start_says_how_to_get_them(tmp_path: Path) -> None:
    bare = without(tmp_path / "bare", "opentelemetry.sdk", "opentelemetry.exporter", "sentry_sdk")
    done = await run_duly(tmp_path, "serve", telemetry_enabled=True, sentry_dsn="http://k@127.0.0.1/1", pythonpath=bare)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "duly: TELEMETRY_ENABLED: the SDK is not installed; run pip install 'duly[otel]', or switch it off",
        "duly: SENTRY_DSN: sentry-sdk is not installed; run pip install 'duly[sentry]', or unset it",
    ]


async def test_without_the_extras_and_the_settings_all_else_works(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(pythonpath=without(tmp_path / "bare", "opentelemetry.sdk", "sentry_sdk"))
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20) as client:
        await sign_in(client)
        assert (await client.post("/api/v1/tasks", json={"title": "x"})).status_code == 201
    assert server.stop() == 0
