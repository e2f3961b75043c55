"""A client's connection with the limits that uvicorn leaves out: the head of a request is small, and comes in time."""

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from duly.contracts.v1.problems import render_problem
from duly.errors import Malformed
from duly.kit.ids import new_request_id
from duly.web.headers import add_security

HEAD_SECONDS = 10.0
HEAD_BYTES = 64 * 1024


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, which closes a connection whose request head is late, and refuses one that is too large.

    A head that comes in one piece costs nothing more here: only one that is not complete yet is timed and counted.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._waits_for_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that connects owes a request."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer with the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and look at what is not complete."""
        super().data_received(data)
        if self._waits_for_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse("The head of the request is too large. Send fewer or shorter headers.", "HEAD_TOO_LARGE")
            elif self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        super().on_message_begin()
        self._waits_for_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The head is here; from now on the request's own time limit counts."""
        self._waits_for_head = False
        if self._head_timer is not None:
            self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP in the form of every other refusal."""
        self._refuse("This is no request in HTTP/1.1. Check what stands between you and the server.", "NOT_HTTP")

    def _refuse(self, message: str, code: str) -> None:
        request_id = new_request_id()
        status, headers, body = render_problem(Malformed(message, code=code), request_id, "")
        scheme = "https" if self.scheme == "https" else "http"
        dressed = add_security([*headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")], scheme)
        lines = [name + b": " + value + b"\r\n" for name, value in dressed]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
