"""Requests as a server hands them on, with nothing tidied up on the way: odd bytes, headers twice, bodies in pieces."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Asked:
    """One request, down to the pieces in which its body arrives; `unfinished`: more is promised and never comes."""

    method: str
    path: str
    query: bytes = b""
    headers: Headers = ()
    pieces: tuple[bytes, ...] = (b"",)
    unfinished: bool = False


@dataclass
class Answer:
    """What came back, in the order in which it came; `was_direct` when no route was looked for."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    was_direct: bool = False


async def ask(app: Any, asked: Asked) -> Answer:
    """Send one request to an application that has been started."""
    messages = [
        {"type": "http.request", "body": piece, "more_body": asked.unfinished or place < len(asked.pieces)}
        for place, piece in enumerate(asked.pieces, start=1)
    ]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": asked.method, "scheme": "http",
        "path": unquote(asked.path), "raw_path": asked.path.encode(), "query_string": asked.query, "root_path": "",
        "headers": [(b"host", b"testserver"), *asked.headers],
        "client": ("127.0.0.1", 50000), "server": ("testserver", 80), "state": {},
    }  # fmt: skip
    answer = Answer()
    answered = asyncio.Event()

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], list(message["headers"])
        else:
            answer.body += message.get("body", b"")
            # A stream of events has no end: whoever asks here leaves with the first one.
            if not message.get("more_body", False) or answer.body.startswith(b"event: "):
                answered.set()

    await app(scope, receive, send)
    answer.was_direct = "route" not in scope
    return answer
