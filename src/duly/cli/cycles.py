"""One request and its answer on a connection: uvicorn's, whose answers leave in one piece."""

import asyncio
from collections.abc import Generator
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from duly.web.replies import WHOLE


class _Done:
    """What there is nothing to wait for."""

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()


_DONE = _Done()


class _Head:
    """The transport of an answer whose head waits for the first of its body: all that uvicorn's cycle uses of it."""

    __slots__ = ("_head", "_write", "close", "is_closing")

    def __init__(self, transport: Any) -> None:
        self._head: bytes | None = None
        self._write = transport.write
        self.close = transport.close
        self.is_closing = transport.is_closing

    def write(self, piece: bytes) -> None:
        if self._head is None:
            self._head = piece
        else:
            self._write(self._head + piece)
            self._head = b""


class Cycle(RequestResponseCycle):
    """Writes an answer that comes whole as one piece: one call of the system, one packet, one wake-up of the client.

    In two pieces, a server that is killed between them has sent a head without a body: a proxy cannot ask another
    server any more, and the client cannot read what was done.

    uvicorn makes the cycles and names their class itself, so one becomes a `Cycle` by `adopt`.
    """

    @classmethod
    def adopt(cls, cycle: RequestResponseCycle) -> None:
        """Make it one of these."""
        cycle.__class__ = cls

    def send(self, message: Any) -> Any:  # no coroutine: each one costs every request
        """Take a message of ASGI, or one of type `WHOLE` whose headers are the application's own."""
        kind = message["type"]
        if kind != WHOLE:
            if kind == "http.response.start" and self._has_body(message):
                self.transport = cast("asyncio.Transport", _Head(self.transport))
            return super().send(message)
        if self.disconnected:
            return _DONE
        if self.response_started or not self.keep_alive or self.flow.write_paused:
            return self._send_in_parts(message)
        lines = [b"%b: %b\r\n" % pair for pair in (*self.default_headers, *message["headers"])]
        self.waiting_for_100_continue = False
        self.response_started = self.response_complete = True
        self.transport.write(b"".join((STATUS_LINE[message["status"]], *lines, b"\r\n", message["body"])))
        self.message_event.set()
        self.on_response()
        return _DONE

    async def _send_in_parts(self, message: Any) -> None:
        start: Any = {"type": "http.response.start", "status": message["status"], "headers": message["headers"]}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": message["body"], "more_body": False})

    def _has_body(self, start: Any) -> bool:
        """Whether a body of known length follows at once: what streams is to be seen to begin."""
        if self.response_started or self.flow.write_paused or self.scope["method"] == "HEAD":
            return False
        return any(name == b"content-length" for name, _ in start["headers"])
