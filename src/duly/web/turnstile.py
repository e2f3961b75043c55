"""A crowd comes in a few at a time, so that it holds up nobody who is quick."""

import asyncio
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send

EACH_TURN = 1


class Turnstile:
    """Lets `EACH_TURN` requests begin in a turn of the event loop, in the order in which they came.

    A route of FastAPI computes for a millisecond before it first waits. Without this, thousands that come at once
    begin in one turn, and whatever the lane could answer meanwhile comes after all of them. A request that has begun
    is not counted any more, so nothing waits for a slow database here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._begun = 0
        self._is_turning = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request; the server's own start and end wait for nobody."""
        if scope["type"] != "lifespan":
            await self._pass()
        await self._app(scope, receive, send)

    async def _pass(self) -> None:
        loop = asyncio.get_running_loop()
        if not self._is_turning:
            self._is_turning = True
            loop.call_soon(self._turn, loop)
        if self._begun < EACH_TURN:
            self._begun += 1
            return
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begun = 0
        while self._waiting and self._begun < EACH_TURN:
            one = self._waiting.popleft()
            if not one.done():  # else its client has left, or its time is up
                one.set_result(None)
                self._begun += 1
        self._is_turning = self._begun > 0
        if self._is_turning:
            loop.call_soon(self._turn, loop)
