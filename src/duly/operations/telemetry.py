"""Traces and measures of requests, and the log, sent by OTLP over HTTP as OTEL_* says; needs the extra `otel`."""

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable

from fastapi.telemetry import TelemetryConfig
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from duly import __version__
from duly.operations import log_export
from duly.operations.log_export import LogExport

SERVICE_NAME = "duly"
# What waits is sent at the end, but an orderly end does not wait longer for a collector that does not answer.
CLOSE_SECONDS = 2.0
# A collector that is down would otherwise be in the log every five seconds.
QUIET_SECONDS = 60.0

_PROTOCOL = "http/protobuf"
_TALKATIVE = (
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
)


class Seldom(logging.Filter):
    """Lets a logger speak once in `QUIET_SECONDS`; the level decides nothing, for each line says the same."""

    _next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """True for the first record, and for the first after the pause."""
        if record.created < self._next:
            return False
        self._next = record.created + QUIET_SECONDS
        return True


def find_faults() -> list[str]:
    """What the OTEL_* variables ask for that is not here; one line each.

    Read here and not in `settings`, because they are the SDK's own: it reads all others by itself.
    """
    faults = []
    for signal in ("TRACES", "METRICS", "LOGS"):
        name = f"OTEL_{signal}_EXPORTER"
        if _exporter(signal) not in {"otlp", "none"}:
            faults.append(f"{name}: give otlp or none; a collector passes on to anything else")
        for name in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            if os.environ.get(name) not in {None, "", _PROTOCOL} and f"{name}:" not in " ".join(faults):
                faults.append(f"{name}: give {_PROTOCOL}, the one that is spoken here (port 4318 of most collectors)")
    try:
        trial = BatchSpanProcessor(ConsoleSpanExporter())  # given nothing, it prints nothing; but it reads OTEL_BSP_*
        trial.shutdown()  # type: ignore[no-untyped-call]  # the SDK's
    except ValueError as error:
        faults.append(f"OTEL_BSP_*: {error}; give a batch that is no larger than its queue")
    if (fault := log_export.find_fault()) is not None:
        faults.append(f"OTEL_BLRP_*: {fault}; give a batch that is no larger than its queue")
    return faults


def _exporter(signal: str) -> str:
    return (os.environ.get(f"OTEL_{signal}_EXPORTER") or "otlp").strip().lower()


def _resource() -> Resource:
    """Who speaks: OTEL_SERVICE_NAME or `duly`, the version, and a name for this process."""
    own = {"service.version": __version__, "service.instance.id": str(uuid.uuid4())}
    resource = Resource.create(own)
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": SERVICE_NAME}))
    return resource


class Telemetry:
    """One process's providers. What is to be sent waits in bounded queues, and threads of their own send it: a
    collector that is slow or gone costs a request nothing, and what does not fit any more is dropped.
    """  # noqa: D205 - one sentence

    def __init__(self) -> None:
        resource = _resource()
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._figures = MeterProvider(resource=resource, shutdown_on_exit=False)
        self.logs = LogExport(resource)
        self._ends: list[Callable[[], None]] = [self._traces.shutdown, self.logs.end]
        self.config: TelemetryConfig = {
            "tracer_provider": self._traces,
            "meter_provider": self._figures,
            "logs": False,  # FastAPI's carry the text of exceptions, which may quote what was sent; `logs` masks it
            "auto_configure": False,
        }

    def start(self) -> None:
        """Begin to send. In the process that serves: threads do not survive a fork."""
        for name in _TALKATIVE:
            logger = logging.getLogger(name)
            if not any(isinstance(known, Seldom) for known in logger.filters):
                logger.addFilter(Seldom())
        if _exporter("TRACES") == "otlp":
            self._traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        if _exporter("METRICS") == "otlp":
            reader = PeriodicExportingMetricReader(OTLPMetricExporter())
            self._figures.add_metric_reader(reader)
            self._ends.append(reader.shutdown)  # the provider ends only the readers that it was made with
        if _exporter("LOGS") == "otlp":
            self.logs.start()

    async def close(self) -> None:
        """Send what waits, for `CLOSE_SECONDS` at most."""
        self.logs.stop()
        threads = [threading.Thread(target=end, daemon=True, name="end-telemetry") for end in self._ends]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))
