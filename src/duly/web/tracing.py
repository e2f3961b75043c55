"""Puts a span around the door, names it by the route and the request id, and puts its trace's id into the log."""

import logging
from collections.abc import Callable

import orjson
from fastapi.telemetry._api import _route_selected
from fastapi.telemetry._asgi import NativeTelemetry
from opentelemetry import trace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from duly.kit.logs import LineHandler, redact, request_id_var
from duly.kit.texts import hide_addresses
from duly.web.access_log import LOGGER, AccessLog, JsonAccessLog, access_log, refusal_level
from duly.web.replies import WHOLE

REQUEST_ID = "duly.request_id"
_KEY = "fastapi.telemetry"  # where FastAPI keeps the span of a request; with it in the scope it begins no other
_FIRST = frozenset(
    {"http.response.start", "websocket.accept", "websocket.close", "websocket.http.response.start"}
)  # fmt: skip
_MOST_PATH = 200


class Traced:
    """FastAPI's own telemetry, moved in front of the door: what the door, the lane or the limits answer is in it.

    A span holds the method, the route, the status, the request id and the path without what looks like a secret or
    an address; never a query string, a header or a body.
    """

    __slots__ = ("_app", "_native", "_route_of")

    def __init__(self, app: ASGIApp, native: NativeTelemetry, route_of: Callable[[Scope], str | None]) -> None:
        self._app = app
        self._native = native
        self._route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket within its span; a `traceparent` of the caller is continued."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return

        async def enter(shown: Scope, receive: Receive, send: Send) -> None:
            scope[_KEY] = shown.get(_KEY)

            async def name(message: Message) -> None:
                if message["type"] in _FIRST:
                    self._name(scope)
                await send(message)

            try:
                await self._app(scope, receive, name)
            finally:
                self._name(scope)

        # It knows the messages of ASGI and no others.
        scope["extensions"] = {name: of for name, of in scope.get("extensions", {}).items() if name != WHOLE}
        # What the telemetry sees of the request; the application gets the request as it came.
        shown = {**scope, "path": show_path(scope["path"]), "query_string": b""}
        await self._native(app=enter, scope=shown, receive=receive, send=send)

    def _name(self, scope: Scope) -> None:
        """What is known once the answer begins; the router has named the route, unless others answered before it."""
        found = scope[_KEY]
        if found is None:
            return
        if found.route is None:
            _route_selected(scope=scope, path=self._route_of(scope))
        request_id = scope.get("state", {}).get("request_id")
        # Not kept: the caller's trace is not sampled. Ended: with the answer, which has named it.
        if found.span is not None and found.span.is_recording() and request_id is not None:
            found.span.set_attribute(REQUEST_ID, request_id)


def show_path(path: str) -> str:
    """A path that may leave the house."""
    return hide_addresses(redact(path))[:_MOST_PATH]


class TraceIDFilter(logging.Filter):
    """Adds `trace_id` to the fields of each record that is logged within a span."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        trace_id = current_trace_id()
        if trace_id:
            record.fields = {**(getattr(record, "fields", None) or {}), "trace_id": trace_id}
        return True


class TracedAccessLog(JsonAccessLog):
    """The same lines with `trace_id` behind `request_id`."""

    __slots__ = ()

    def incoming(self, request_id: str, method: str, path: str) -> str:
        """See `AccessLog`."""
        return super().incoming(_with_trace(request_id), method, path)

    def completed(self, request_id: str, target: str, status: int, seconds: float, client: str) -> None:
        """See `AccessLog`."""
        super().completed(_with_trace(request_id), target, status, seconds, client)


def _with_trace(request_id: str) -> str:
    # The id is written between quotes as it is; so is what comes with it. Both are hexadecimal.
    trace_id = current_trace_id()
    return f'{request_id}","trace_id":"{trace_id}' if trace_id else request_id


def current_trace_id() -> str:
    """32 hexadecimal digits (W3C Trace Context §3.2.2.3); empty outside a span."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


class SentAccessLog:
    """Another access log, whose second line of each request is sent to the collector as well."""

    __slots__ = ("_is_json", "_lines", "_logger", "_logs")

    def __init__(self, lines: AccessLog, logs: logging.Handler, *, is_json: bool) -> None:
        self._lines = lines
        self._logs = logs
        self._is_json = is_json
        self._logger = logging.getLogger(LOGGER)

    def incoming(self, request_id: str, method: str, path: str) -> str:
        """See `AccessLog`. It says nothing that the second line does not say."""
        return self._lines.incoming(request_id, method, path)

    def completed(self, request_id: str, target: str, status: int, seconds: float, client: str) -> None:
        """See `AccessLog`. A refusal has the level of the line that names it."""
        self._lines.completed(request_id, target, status, seconds, client)
        level = refusal_level(status) if status >= 400 else logging.INFO
        if not self._logger.isEnabledFor(level):
            return
        if self._is_json and "\\" in target:
            target = orjson.loads(f'"{target}"')  # it came back as the inside of a string
        method, _, path = target.partition(" ")
        message = f"Request completed: {target} - Status: {status}"
        record = logging.LogRecord(LOGGER, level, "", 0, message, None, None)
        record.fields = {"method": method, "path": path, "status": status, "client": client,
                         "duration_ms": round(seconds * 1000, 3)}  # fmt: skip
        # Behind the answer nobody knows the running request any more.
        token = request_id_var.set(request_id)
        try:
            self._logs.handle(record)
        finally:
            request_id_var.reset(token)


def traced_access_log(lines: LineHandler, logs: logging.Handler) -> AccessLog:
    """The access log with trace ids, and `lines` too; in the console form, which people read, there is no room.

    `logs` is handed each completed request, for the access log does not go through `logging`.
    """
    is_json = lines.form == "json"
    if is_json:
        lines.addFilter(TraceIDFilter())
    return SentAccessLog(TracedAccessLog(lines) if is_json else access_log(lines), logs, is_json=is_json)
