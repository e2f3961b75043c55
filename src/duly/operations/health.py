"""Whether this process and what it depends on can serve."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from redis.asyncio import Redis
from redis.exceptions import RedisError

from duly.db.unit import Database
from duly.errors import DulyError

CHECK_SECONDS = 2.0
MAIL_SECONDS = 10.0
Status = Literal["healthy", "degraded", "unhealthy"]


@dataclass(frozen=True, slots=True)
class Check:
    """One dependency: whether it works, whether it is configured at all, and how long the answer took."""

    ok: bool
    configured: bool
    detail: str
    milliseconds: float = 0.0


@dataclass(slots=True)
class HealthChecks:
    """Asks the dependencies; `draining` is set when the process has been told to end."""

    database: Database
    redis_url: str | None
    ask_mail: Callable[[], Awaitable[tuple[str, str | None]]] | None = None
    started: float = field(default_factory=time.monotonic)
    draining: bool = False
    _mail: Check = field(default_factory=lambda: Check(ok=True, configured=False, detail="not configured"))
    _mail_asked: float = float("-inf")

    def uptime_seconds(self) -> float:
        """Since the process began to serve."""
        return round(time.monotonic() - self.started, 3)

    async def check_database(self) -> Check:
        """One round trip, at most two seconds."""
        return await _timed(self.database.ping)

    async def summary(self) -> tuple[Status, dict[str, Check]]:
        """Without the database nothing works; without Redis or the mail server everything does, a little worse."""
        database, redis, email = await asyncio.gather(
            self.check_database(), check_redis(self.redis_url), self.check_email()
        )
        status: Status = "healthy" if redis.ok and email.ok else "degraded"
        if not database.ok:
            status = "unhealthy"
        return status, {"database": database, "redis": redis, "email": email}

    async def check_email(self) -> Check:
        """Whether the mail server greets; the answer is kept for ten seconds, for it is not our server."""
        if self.ask_mail is None:
            return Check(ok=True, configured=False, detail="not configured")
        if time.monotonic() - self._mail_asked > MAIL_SECONDS:
            begun = time.perf_counter()
            name = "smtp"
            fault: str | None = "does not answer"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    name, fault = await self.ask_mail()
            detail = "ok" if name == "smtp" else "not configured"
            self._mail = Check(fault is None, name == "smtp", detail, _since(begun))
            self._mail_asked = time.monotonic()
        return self._mail


async def check_redis(url: str | None) -> Check:
    """A PING, at most two seconds; without an address there is nothing to check."""
    if url is None:
        return Check(ok=True, configured=False, detail="not configured")
    client = Redis.from_url(url, socket_connect_timeout=CHECK_SECONDS, socket_timeout=CHECK_SECONDS)
    try:
        return await _timed(client.ping)
    finally:
        await client.aclose()


async def _timed(ask: Callable[[], Awaitable[object]]) -> Check:
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await ask()
    except (DulyError, RedisError, OSError, TimeoutError):
        return Check(ok=False, configured=True, detail="does not answer", milliseconds=_since(begun))
    return Check(ok=True, configured=True, detail="ok", milliseconds=_since(begun))


def _since(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 2)
