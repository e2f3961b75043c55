"""Sends log records by OTLP to a collector, masked as they are in the log and without addresses; needs `otel`."""

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import orjson
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, ConsoleLogRecordExporter
from opentelemetry.sdk.resources import Resource

from duly.kit.logs import RedactionFilter, RequestIDFilter
from duly.kit.texts import hide_addresses

# The name that spans have it by too.
REQUEST_ID = "duly.request_id"
# What the exporters themselves log stays here: sent on, each failure to send would be one more record to send.
_OWN = ("opentelemetry", "urllib3", "requests")
_MOST_CHARACTERS = 8192
_SEVERITIES = (
    (logging.CRITICAL, SeverityNumber.FATAL),
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
)


class LogExport(logging.Handler):
    """A log handler whose records wait in a bounded queue and are sent by a thread of its own.

    It takes nothing before `start` and after `stop`. A full queue drops its oldest record; nothing waits for it.
    """

    def __init__(self, resource: Resource) -> None:
        super().__init__()
        self._provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._is_sending = False
        self.addFilter(RequestIDFilter())
        self.addFilter(RedactionFilter())

    def start(self) -> None:
        """Begin to send what is logged in this process from now on."""
        self._provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
        self._is_sending = True
        logging.getLogger().addHandler(self)

    def stop(self) -> None:
        """Take nothing more; what waits is sent by `end`."""
        self._is_sending = False
        logging.getLogger().removeHandler(self)

    def end(self) -> None:
        """Send what waits; blocks as long as the collector lets it wait."""
        self._provider.shutdown()

    def handle(self, record: logging.LogRecord) -> bool:
        """Leaves out what tells of the sending itself, before it is masked and formatted for nothing."""
        if not self._is_sending or record.name.startswith(_OWN):
            return False
        return bool(super().handle(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a record that cannot be sent is still in the log."""
        with contextlib.suppress(Exception):
            # The trace context is that of the running span: the SDK finds it by itself.
            self._provider.get_logger(record.name).emit(
                timestamp=int(record.created * 1e9),
                severity_number=next((found for least, found in _SEVERITIES if record.levelno >= least), _DEBUG),
                severity_text=record.levelname,
                body=_shown(record.getMessage()),
                attributes=_attributes(record),
            )


_DEBUG = SeverityNumber.DEBUG


def find_fault() -> str | None:
    """What is wrong with OTEL_BLRP_*, in the SDK's words."""
    try:
        # Given nothing, it prints nothing; but it reads the variables.
        BatchLogRecordProcessor(ConsoleLogRecordExporter()).shutdown()  # type: ignore[no-untyped-call]  # the SDK's
    except ValueError as error:
        return str(error)
    return None


def _attributes(record: logging.LogRecord) -> dict[str, str | bool | int | float]:
    found: dict[str, str | bool | int | float] = {}
    fields: Mapping[str, Any] = getattr(record, "fields", None) or {}
    for name, value in fields.items():
        if isinstance(value, bool | int | float):
            found[name] = value
        elif value is not None:
            found[name] = _shown(value if isinstance(value, str) else orjson.dumps(value, default=str).decode())
    request_id = getattr(record, "request_id", None)
    if request_id:
        found[REQUEST_ID] = request_id
    if record.exc_text:
        found["exception.stacktrace"] = _shown(record.exc_text)
        if record.exc_info and record.exc_info[0] is not None:
            found["exception.type"] = record.exc_info[0].__name__
    return found


def _shown(text: str) -> str:
    return hide_addresses(text)[:_MOST_CHARACTERS]
