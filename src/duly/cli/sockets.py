"""A client's WebSocket, which can be cut, and of which nothing is logged that was sent."""

import asyncio
import contextlib
import logging
from typing import Any

import uvicorn
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.exceptions import InvalidState
from websockets.http11 import Request

from duly.web.crowd import crowd
from duly.web.streams import ABORT, TOO_SLOW

# A client that was too slow may still find out why; one that may see no more is cut.
FAREWELL_SECONDS = 5.0
CUT_SECONDS = 0.1

_quiet = logging.getLogger("duly.websocket")
_quiet.setLevel(logging.WARNING)


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which can be cut under a client that does not read, and logs nothing that was sent.

    The door has its own lines for the handshake; the library's hold the address with its query, and at DEBUG the
    messages themselves.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = _quiet
        self.conn.debug = False
        self._is_cut = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It had its place before it was a WebSocket."""
        super().connection_made(transport)
        crowd.stay(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Its place is free."""
        crowd.leave(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not take what it is sent."""
        super().pause_writing()
        crowd.choke(self)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        crowd.swallow(self)

    def handle_connect(self, event: Request) -> None:
        """Offer what `web/streams.py` ends a stuck stream with."""
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"][ABORT] = self._abort  # type: ignore[assignment]  # no mapping

    async def send(self, message: ASGISendEvent) -> None:
        """To somebody who was cut off nothing can be sent: uvicorn would take it for a fault of the application."""
        try:
            await super().send(message)
        except RuntimeError:
            if not self._is_cut:
                raise
            raise ClientDisconnected from None

    def _abort(self, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self._is_cut = True
        with contextlib.suppress(InvalidState):
            # Behind what still waits to be sent, past the queue of those who wait to send more.
            self.conn.send_close(code, reason)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        seconds = FAREWELL_SECONDS if code == TOO_SLOW.close else CUT_SECONDS
        self.loop.call_later(seconds, self.transport.abort)
