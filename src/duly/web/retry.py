"""Runs a request again whose transaction the database gave up: the client sees only the answer."""

import asyncio
import random

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

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
        await asyncio.sleep(random.uniform(0.005, 0.05))  # noqa: S311 - spreads load, keeps no secret
        fresh = {key: value for key, value in self._request.scope.items() if key not in _LEFT_BY_ROUTING}
        await self._request.app.router(fresh, replay(self._body, receive), send)


def may_run_again(request: Request) -> bool:
    """Counts the attempts of one request."""
    attempts: int = getattr(request.state, "attempts", 1)
    request.state.attempts = attempts + 1
    return attempts < ATTEMPTS


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
