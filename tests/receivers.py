"""What Duly sends outside arrives here: a collector of traces, an error tracker, and one that never answers."""

import contextlib
import gzip
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATIENCE_SECONDS = 15


@dataclass(slots=True)
class Span:
    """One span as it came over the wire; `parent` is empty for the first of a trace."""

    name: str
    kind: int
    trace_id: str
    parent: str
    span_id: str
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass(slots=True)
class Record:
    """One log record as it came over the wire; `trace_id` is empty outside a request."""

    logger: str
    severity: int
    body: str
    trace_id: str
    span_id: str
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass(slots=True)
class Receiver:
    """An HTTP server that keeps every POST: path, headers and body, unpacked."""

    port: int
    posts: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def everything(self) -> bytes:
        """All that was ever sent, to search for what must not be in it."""
        return b"\n".join(str((path, headers)).encode() + body for path, headers, body in list(self.posts))

    def spans(self) -> list[Span]:
        return [span for path, _, body in list(self.posts) if path == "/v1/traces" for span in _spans(body)]

    def served(self) -> list[Span]:
        """The spans of requests themselves, not of their parts."""
        return [span for span in self.spans() if span.kind == 2]

    def metric_names(self) -> set[str]:
        found = set()
        for path, _, body in list(self.posts):
            if path == "/v1/metrics":
                for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    found |= {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
        return found

    def records(self) -> list[Record]:
        return [record for path, _, body in list(self.posts) if path == "/v1/logs" for record in _records(body)]

    def events(self) -> list[dict[str, Any]]:
        """What a tracker was told: the items of the envelopes, whatever their type."""
        found = []
        for path, _, body in list(self.posts):
            if path.endswith("/envelope/"):
                lines = body.split(b"\n")
                found += [json.loads(line) for line in lines[2::2] if line]
        return found


def wait_for(found: Callable[[], Any], what: str) -> Any:
    """Ask until the answer is true; fails after a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.02)
    return pytest.fail(f"{what} did not come")


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value") or "string_value")


def _spans(body: bytes) -> Iterator[Span]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        who = {pair.key: _value(pair.value) for pair in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.name, span.kind, span.trace_id.hex(), span.parent_span_id.hex(), span.span_id.hex(),
                    span.status.code == 2, {pair.key: _value(pair.value) for pair in span.attributes}, who,
                )  # fmt: skip


def _records(body: bytes) -> Iterator[Record]:
    for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
        who = {pair.key: _value(pair.value) for pair in resource.resource.attributes}
        for scope in resource.scope_logs:
            for one in scope.log_records:
                yield Record(
                    scope.scope.name, one.severity_number, one.body.string_value, one.trace_id.hex(), one.span_id.hex(),
                    {pair.key: _value(pair.value) for pair in one.attributes}, who,
                )  # fmt: skip


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on a free port for as long as the block runs."""
    receiver = Receiver(0)

    class Keep(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.posts.append((self.path, dict(self.headers), body))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keep) as server:
        receiver.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join(10)


@contextlib.contextmanager
def hanging() -> Iterator[int]:
    """The port of a server that takes connections, as the kernel does, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield int(listener.getsockname()[1])


MISSING = """
import importlib.abc, sys


class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith({names!r}):
            raise ModuleNotFoundError(name, name=name)
        return None


sys.meta_path.insert(0, Absent())
"""


def without(folder: Any, *names: str) -> str:
    """A PYTHONPATH with which Python has none of these packages, as where an extra is not installed."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(MISSING.format(names=names), encoding="utf-8")
    return str(folder)
