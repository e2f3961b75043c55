"""The floor: a raw ASGI function that answers a constant body, so the least that any Python server here can cost."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bench.workload import task_fields

Message = MutableMapping[str, Any]

BODY = json.dumps(
    {"id": "01931c3f-9a52-7c6e-8d41-3f0a6b2c9e17", "user_id": "01931c3f-9a52-7c6e-8d41-5b7e1d4f2a90"}
    | task_fields(1)
    | {"completed": False, "tags": [], "created_at": "2026-11-21T09:30:00Z"},
    separators=(",", ":"),
).encode()
START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())],
}
END: Message = {"type": "http.response.body", "body": BODY}


async def app(
    _scope: Message, _receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Answer every request alike; run with uvicorn's `--lifespan off`."""
    await send(START)
    await send(END)
