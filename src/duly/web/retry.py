"""Runs a request again whose transaction the database gave up: the client sees only the answer."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from duly.db.conflicts import TransactionAborted

log = logging.getLogger(__name__)

ATTEMPTS = 4
_LEFT_BY_ROUTING = ("path_params", "endpoint", "route", "fastapi_inner_astack", "fastapi_function_astack")


class RunAgain(Response):
    """A response that is the request, routed once more with the body it had."""

    def __init__(self, request: Request, body: bytes) -> None:
        super().__init__()
        self._request = request
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait a little, so that the two that collided do not meet again, and route."""
        note_abort()
        await asyncio.sleep(random.uniform(0.005, 0.05))  # noqa: S311 - spreads load, keeps no secret
        fresh = {key: value for key, value in self._request.scope.items() if key not in _LEFT_BY_ROUTING}
        await self._request.app.router(fresh, replay(self._body, receive), send)


def note_abort() -> None:
    """The line that says so: now and then it is nothing, and often it is a design that fights itself."""
    log.info("The database gave the transaction up (deadlock or serialization failure); the request is run again")


def may_run_again(request: Request) -> bool:
    """Counts the attempts of one request. The body of an upload was read as it came, and is not there any more."""
    if request._stream_consumed and not hasattr(request, "_body"):  # noqa: SLF001 - where body() keeps it
        return False
    attempts: int = getattr(request.state, "attempts", 1)
    request.state.attempts = attempts + 1
    return attempts < ATTEMPTS


async def run_transaction(work: Callable[[], Awaitable[Response]]) -> Response:
    """Do `work`, and again when the database gave its transaction up.

    For requests whose body was streamed and cannot be routed once more.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return await work()
        except TransactionAborted:
            note_abort()
            await asyncio.sleep(attempt * random.uniform(0.005, 0.05))  # noqa: S311 - spreads load, keeps no secret
    return await work()


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read already, and then goes on."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
