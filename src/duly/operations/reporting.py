"""Sends unhandled faults to an error tracker that speaks Sentry's protocol; needs the extra `sentry`."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import sentry_sdk
from opentelemetry import trace
from sentry_sdk.utils import BadDsn, Dsn, event_from_exception

from duly import __version__
from duly.errors import DulyError
from duly.kit.logs import redact, request_id_var
from duly.kit.texts import hide_addresses
from duly.settings import SettingsFault

Raised = tuple[type[BaseException], BaseException, TracebackType | None]

# Whose ERROR lines with an exception are unhandled faults; asyncio's are those of tasks that nobody waited for.
LOGGERS = ("duly", "asyncio")
CLOSE_SECONDS = 2.0
# A loop that fails each second is told once in this time; a request that fails is always told.
QUIET_SECONDS = 60.0

_NOTHING: Any = {"mode": "off"}
_COLLECTED: Any = {
    "user_info": False,
    "cookies": _NOTHING,
    "http_headers": {"request": _NOTHING},
    "http_bodies": [],
    "url_query_params": _NOTHING,
    "database_query_data": False,
    "stack_frame_variables": False,
}


def find_faults(dsn: str) -> list[str]:
    """One line when it is no address of a tracker."""
    try:
        Dsn(dsn)
    except BadDsn:
        return ["SENTRY_DSN: is no DSN; copy the one that the tracker shows, such as https://key@host/1"]
    return []


class Reporter(logging.Handler):
    """A log handler whose client has no integration, breadcrumb or scope: an event holds only what is put in here.

    Events wait in a bounded queue and are sent by a thread of its own.
    """

    def __init__(self, dsn: str, environment: str) -> None:
        super().__init__(logging.ERROR)
        self._told: dict[tuple[str, int, str], float] = {}
        self._client = sentry_sdk.Client(
            dsn=dsn,
            environment=environment,
            release=f"duly@{__version__}",
            default_integrations=False,
            auto_enabling_integrations=False,
            data_collection=_COLLECTED,
            include_local_variables=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            auto_session_tracking=False,
            send_client_reports=False,
            in_app_include=["duly"],
            shutdown_timeout=CLOSE_SECONDS,
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a tracker must not fail the request that failed."""
        raised = record.exc_info
        if not raised or raised[0] is None or self._was_told(record, raised[0]):
            return
        with contextlib.suppress(Exception):
            self._report(raised, record.name, record.getMessage())

    def _was_told(self, record: logging.LogRecord, kind: type[BaseException]) -> bool:
        if request_id_var.get():
            return False
        place = (record.pathname, record.lineno, kind.__qualname__)
        last = self._told.get(place)
        now = time.monotonic()
        if last is not None and now - last < QUIET_SECONDS:
            return True
        self._told[place] = now
        return False

    def _report(self, raised: Raised, logger: str, message: str) -> None:
        event: Any
        mechanism = {"type": "logging", "handled": False}
        event, hint = event_from_exception(raised, client_options=self._client.options, mechanism=mechanism)
        for exception in event["exception"]["values"]:
            if exception.get("value"):
                exception["value"] = _impersonal(str(exception["value"]))
        event["logger"] = logger
        event["logentry"] = {"formatted": _impersonal(message)}
        request_id = request_id_var.get()
        if request_id:
            event["tags"] = {"request_id": request_id}
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            event["contexts"] = {"trace": {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}}
        self._client.capture_event(event, hint)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Report what is logged while the block runs, and what ends it; then send what waits."""
        loggers = [logging.getLogger(name) for name in LOGGERS]
        for logger in loggers:
            logger.addHandler(self)
        try:
            yield
        except (SettingsFault, DulyError):
            raise  # said to the operator, in a line of its own
        except Exception as error:
            with contextlib.suppress(Exception):
                self._report((type(error), error, error.__traceback__), __name__, "The process ends by this")
            raise
        finally:
            for logger in loggers:
                logger.removeHandler(self)
            await asyncio.to_thread(self._client.close, CLOSE_SECONDS)


def _impersonal(text: str) -> str:
    return hide_addresses(redact(text))
