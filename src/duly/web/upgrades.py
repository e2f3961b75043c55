"""What the door does for a WebSocket: an id, an address, two lines in the log, and an end for every error."""

import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any

from starlette.websockets import WebSocketDisconnect

from duly.web.access_log import AccessLog

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Meter = Callable[[Scope, int, float], None]

_REFUSED = 403  # what a server answers when the handshake is refused
_SWITCHED = 101
_GONE_WRONG = 1011  # RFC 6455 §7.4.1
_NO_HOST = 1008

log = logging.getLogger(__name__)


class Upgrade:
    """One WebSocket on its way through the door."""

    __slots__ = ("_log", "_meter", "_scope", "_send", "_since", "_status", "_target")

    def __init__(self, access_log: AccessLog, scope: Scope, send: Send, meter: Meter) -> None:
        self._log = access_log
        self._meter = meter
        self._scope = scope
        self._send = send
        self._status = 0
        self._since = monotonic()
        self._target = access_log.incoming(scope["state"]["request_id"], "GET", scope["path"])

    async def carry(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], receive: Receive) -> None:
        """From the handshake to the end; the second line says 101, or how the handshake was refused."""
        try:
            await app(self._scope, receive, self._pass)
        except WebSocketDisconnect:
            pass  # the client left
        except Exception as error:
            log.error("Unhandled %s in %s", type(error).__name__, self._target, exc_info=error)
            with contextlib.suppress(RuntimeError, OSError):  # it may be closed already
                await self._send({"type": "websocket.close", "code": _GONE_WRONG})
        finally:
            self._complete()

    async def refuse(self) -> None:
        """Before the handshake; the server answers 403."""
        await self._pass({"type": "websocket.close", "code": _NO_HOST})
        self._complete()

    async def _pass(self, message: Message) -> None:
        if not self._status:
            kind = message["type"]
            self._status = _SWITCHED if kind == "websocket.accept" else int(message.get("status", _REFUSED))
        await self._send(message)

    def _complete(self) -> None:
        status, seconds = self._status or _REFUSED, monotonic() - self._since
        self._meter(self._scope, status, seconds)
        client = self._scope.get("client")
        request_id = self._scope["state"]["request_id"]
        self._log.completed(request_id, self._target, status, seconds, client[0] if client else "")
