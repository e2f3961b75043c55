"""A client's connection with the limits that uvicorn leaves out: on heads, on what is sent ahead, on not reading."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import is_ssl
from uvicorn.server import ServerState

from duly.cli.cycles import Cycle
from duly.contracts.v1.problems import render_problem
from duly.errors import DulyError, Malformed, Unavailable
from duly.kit.ids import new_request_id
from duly.operations.draining import NOTICE
from duly.web.crowd import crowd
from duly.web.headers import add_security
from duly.web.replies import WHOLE
from duly.web.streams import ABORT

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 1024
# A peer that vanished without a word takes nothing and says nothing: what is sent to it stays unacknowledged so long.
LOST_PEER_SECONDS = 30
# Requests that wait behind one that is being served. Each of them takes memory before anybody asked for its answer.
MOST_AHEAD = 32
# A body that nobody wanted any more is taken in and dropped for so long, so that its sender finds the answer.
REST_SECONDS = 5.0
REST_BYTES = 32 * 1024 * 1024
# How many of those that are turned away are waited for at once, until they have read why, and how long.
MOST_FAREWELLS = 64
READ_SECONDS = 1.0
# A request may be on its way to a connection that is about to be closed; its sender cannot know whether it was taken.
LAST_REQUEST_SECONDS = 0.3


class _Enough(Exception):
    """Ends the parsing of what a client sent."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, which closes a connection whose request head is late, and refuses one that is too large.

    A request that comes in one piece costs little more here: only what is not complete yet is timed and counted.
    """

    _farewells = 0

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # uvicorn's own has a line for each request that is none, as many as somebody likes to send.
        self.logger = _faults
        self._waits_for_head = True
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._extensions: dict[str, Any] = {WHOLE: {}}
        self._is_deaf = False
        self._is_refused = False
        self._owes = False
        self._rest_bytes: int | None = None
        self._is_large = False
        self._is_ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that connects owes a request."""
        if not crowd.enter(self):
            self._turn_away(transport)
            return
        super().connection_made(transport)
        self._start_timer(HEAD_SECONDS)
        self._extensions[ABORT] = lambda *_: transport.abort()
        notice_lost_peer(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer with the connection."""
        self._stop_timer()
        crowd.leave(self)
        if self._is_refused:
            Connection._farewells -= 1
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        super().on_message_begin()
        self._waits_for_head = True
        self._head_bytes = 0
        self.scope["extensions"] = self._extensions

    def data_received(self, data: bytes) -> None:
        """Parse, and look at what is not complete."""
        if self._is_deaf:
            return
        if self._rest_bytes is not None:
            self._rest_bytes += len(data)
        elif self.timeout_keep_alive_task is not None:
            crowd.wake(self)
        self._is_large = self._head_bytes + len(data) > HEAD_BYTES
        super().data_received(data)
        if self._is_deaf:
            return
        if self._waits_for_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse_head()
            elif self._timer is None:
                self._start_timer(HEAD_SECONDS)
        elif self._rest_bytes is not None:
            if self._rest_bytes > REST_BYTES:
                self.transport.close()
        elif getattr(self.cycle, "more_body", False):  # there is none yet behind an upgrade
            self._owes = True
            crowd.owe(self)
        elif self._owes:
            self._owes = False
            crowd.pay(self)

    def on_headers_complete(self) -> None:
        """The head is here; from now on the request's own time limit counts."""
        if self._is_large and sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_BYTES:
            raise _Enough  # its end came with the piece that made it too large
        if len(self.pipeline) >= MOST_AHEAD:
            # What is sent ahead is answered so far, and the last answer says that the connection ends with it.
            self._end_with(self.cycle)
            raise _Enough
        self._waits_for_head = False
        self._head_bytes = 0
        if self._timer is not None:
            self._stop_timer()
        super().on_headers_complete()
        if self.cycle is not None:
            Cycle.adopt(self.cycle)
        if (NOTICE.given or self._is_ending) and self.cycle is not None:
            # The answer says that it is the last here. A proxy then lets the connection go, instead of using it again
            # in the very moment in which it is closed.
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Finish what runs; an idle connection stays for one more request, for a moment."""
        self._is_ending = True
        if self._is_idle():
            self.loop.call_later(LAST_REQUEST_SECONDS, self._close_idle)
        else:
            super().shutdown()

    def _close_idle(self) -> None:
        if self._is_idle():
            self.transport.close()

    def _is_idle(self) -> bool:
        if self.cycle is None:  # uvicorn's type leaves out that there may be none yet
            return True
        return self.cycle.response_complete

    def on_message_complete(self) -> None:
        """Of a request that was answered before all of it came, the rest is here: its client may send another."""
        super().on_message_complete()
        if self._rest_bytes is not None:
            self._rest_bytes = None
            self._stop_timer()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """Nothing more is owed to this client; but perhaps by it."""
        super().on_response_complete()
        if self.timeout_keep_alive_task is None or self._is_deaf:
            return
        self._owes = False
        crowd.rest(self)
        if self.cycle.more_body:
            self._unset_keepalive_if_required()
            self._rest_bytes = 0
            self._start_timer(REST_SECONDS)

    def handle_websocket_upgrade(self) -> None:
        """From here on it is a `Socket` that is counted."""
        crowd.leave(self)
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        """The client does not take what it asked for."""
        super().pause_writing()
        crowd.choke(self)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        crowd.swallow(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP in the form of every other refusal."""
        if self._is_deaf:
            return
        if self._is_large and self._waits_for_head:
            self._refuse_head()
            return
        message = "This is no request in HTTP/1.1. Check what stands between you and the server."
        self._refuse(Malformed(message, code="NOT_HTTP"))

    def _refuse_head(self) -> None:
        message = "The head of the request is too large. Send fewer or shorter headers."
        self._refuse(Malformed(message, code="HEAD_TOO_LARGE"))

    def _refuse(self, error: DulyError) -> None:
        cycle: RequestResponseCycle | None = getattr(self, "cycle", None)
        is_answered = cycle is None or cycle.response_complete
        if cycle is not None and not is_answered and not cycle.more_body:
            self._end_with(cycle)  # whoever waits for an answer gets that one, and nobody a second one in its middle
            return
        self._is_deaf = True
        if cycle is None or is_answered or not (cycle.response_started or self.pipeline):
            self.transport.write(_render(error, "https" if self.scheme == "https" else "http"))
        if is_answered:
            self._linger()
        else:
            self.transport.close()

    def _end_with(self, cycle: RequestResponseCycle) -> None:
        """Hear nothing more, and close behind this request's answer."""
        self._is_deaf = True
        cycle.keep_alive = False
        cycle.transport = cast("asyncio.Transport", _Lingering(cycle.transport, self._linger))  # all that it uses

    def _turn_away(self, transport: asyncio.Transport) -> None:
        """Say that there is no place, before anything was asked: no request is parsed, and no task begun."""
        self._is_deaf = True
        self.transport = transport
        if Connection._farewells >= MOST_FAREWELLS:
            transport.abort()
            return
        self._is_refused = True
        Connection._farewells += 1
        scheme = "https" if is_ssl(transport) else "http"
        transport.write(_render(Unavailable(_FULL, code="TOO_MANY_CONNECTIONS", retry_after=1), scheme))
        self._linger()

    def _linger(self) -> None:
        """Close, but not while the client still sends: it would be told of a reset, and might not see its answer."""
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self.flow is not None:  # one that is turned away has none
            self.flow.resume_reading()
        self._start_timer(READ_SECONDS)

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.transport.close)
        if seconds == HEAD_SECONDS:
            crowd.owe(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            crowd.pay(self)


class _Lingering:
    """The transport of a last answer: its `close` is the connection's own."""

    def __init__(self, transport: asyncio.Transport, linger: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = linger


_faults = logging.getLogger("duly.http")
_faults.setLevel(logging.ERROR)
_FULL = "This server has as many connections as it takes. Try again in a moment."
crowd.is_kept = True


def _render(error: DulyError, scheme: str) -> bytes:
    """A whole answer, after which the connection is closed."""
    request_id = new_request_id()
    status, headers, body = render_problem(error, request_id, "")
    dressed = add_security([*headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")], scheme)
    lines = [name + b": " + value + b"\r\n" for name, value in dressed]
    return b"".join([STATUS_LINE[status], *lines, b"\r\n", body])


def notice_lost_peer(transport: asyncio.BaseTransport) -> None:
    """Let the kernel close a connection whose peer acknowledges nothing any more (RFC 5482), where it can."""
    connection = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and connection is not None and connection.family in {socket.AF_INET, socket.AF_INET6}:
        connection.setsockopt(socket.IPPROTO_TCP, option, LOST_PEER_SECONDS * 1000)
