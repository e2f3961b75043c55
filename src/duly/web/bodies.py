"""The body of a request on its way in: how much of it there may be, and how long its next piece may take."""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

from duly.errors import TimedOut, TooLarge, Unavailable

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

SMALL: Final = 64 * 1024
"""Bytes of a body that are held without being counted."""
MOST_HELD: Final = 64 * 1024**2
"""Bytes of all larger bodies together that one process holds in memory."""
# Here a stranger may send something: a name, a password and a token are small, in whatever form they come.
_strangers = re.compile(
    r"/api(?:/v1)?/(?:auth|password|admins)/.*"
    r"|/api(?:/v1)?/users/(?:login|register|refresh|forgot-password|reset-password|verify-email|resend-verification)"
).fullmatch


def body_limit(path: str, limit: int) -> int:
    """How large a body may be at this path, where others take `limit` bytes."""
    return min(limit, SMALL) if _strangers(path) else limit


class Passage(Protocol):
    """What the body's counter and the answer tell each other: `status` is 0 until the answer starts."""

    status: int
    overflow: TooLarge | Unavailable | None
    held: int


class Larder:
    """What all large bodies of a process take of its memory; more than `MOST_HELD` is not taken in."""

    __slots__ = ("_room",)

    def __init__(self, room: int = MOST_HELD) -> None:
        self._room = room

    def take(self, passage: Passage, size: int) -> bool:
        """Whether there is room for so many bytes more of a body that is too large to go uncounted."""
        if self._room < size:
            return False
        self._room -= size
        passage.held += size
        return True

    def give_back(self, passage: Passage) -> None:
        """The request is over."""
        self._room += passage.held
        passage.held = 0


class CountedBody:
    """Counts a body as it comes, and stops it at the limit; one announced as larger is stopped at its first piece.

    With a `larder`, which is for bodies that are held whole, it also stops what finds no room there any more.
    """

    __slots__ = ("_came", "_larder", "_left", "_limit", "_passage", "_receive")

    def __init__(
        self, passage: Passage, receive: Receive, limit: int, announced: int = 0, larder: Larder | None = None
    ) -> None:
        self._passage = passage
        self._receive = receive
        self._limit = limit
        self._left = limit - announced
        self._larder = larder
        self._came = 0

    async def receive(self) -> Message:
        """Raises `TooLarge` or `Unavailable` at the first piece beyond what may come, and at every later call."""
        if self._passage.overflow is not None:
            raise self._passage.overflow
        message: Message = {}
        if self._left >= 0:
            message = await self._receive()
            size = len(message.get("body", b""))
            self._left -= size
            self._came += size
            if self._larder is not None and self._came > SMALL and not self._larder.take(self._passage, size):
                raise self._stop(_no_room())
        if self._left < 0:
            raise self._stop(_too_large(self._limit))
        return message

    def _stop(self, overflow: TooLarge | Unavailable) -> TooLarge | Unavailable:
        if not self._passage.status:
            self._passage.overflow = overflow
        return overflow


class Patient:
    """Waits `seconds` for each piece of a body."""

    __slots__ = ("_receive", "_seconds")

    def __init__(self, receive: Receive, seconds: float) -> None:
        self._receive = receive
        self._seconds = seconds

    async def receive(self) -> Message:
        """Raises `TimedOut` after a silence."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._receive()
        except TimeoutError:
            raise TimedOut(f"Nothing more of the upload came for {self._seconds:g} seconds. Send it again.") from None


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The request body is larger than {limit} bytes, which is the most that is accepted here.")


def _no_room() -> Unavailable:
    return Unavailable("Too many large requests at once. Send it again in a moment.", code="BUSY", retry_after=1)
