"""Counts requests against policies: in Redis when there is one, and in this process when there is none or it fails."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from limits import RateLimitItem, parse_many
from limits.aio.storage import RedisStorage
from limits.errors import StorageError

from duly.kit.breaker import Breaker
from duly.kit.redis_pools import open_pool
from duly.limits.windows import OwnWindows, Window

log = logging.getLogger(__name__)

# A Redis that hangs may cost a request this much, and is then left alone for a while.
REDIS_SECONDS = 0.04


@dataclass(frozen=True, slots=True)
class Policy:
    """A name, and one or more amounts for windows of time: all of them must be kept."""

    name: str
    items: tuple[RateLimitItem, ...]

    def spell(self) -> bytes:
        """The value of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers §3)."""
        return ", ".join(f'"{self.name}";q={item.amount};w={item.get_expiry()}' for item in self.items).encode()


def read_policy(name: str, text: str) -> Policy:
    """`200/hour`, or several as `10/minute;100/hour`. Raises ValueError."""
    try:
        items = tuple(parse_many(text))
    except ValueError:
        items = ()
    if not items or any(item.amount < 1 for item in items):
        raise ValueError(f"{text!r} is no rate; give one such as 200/hour, or several as 10/minute;100/hour")
    return Policy(name, items)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a caller stands: how many requests are left, and in how many seconds there will be more.

    `window_seconds` is the length of the window that this is about: the tightest, or the one that refused.
    """

    allowed: bool
    policy: Policy
    remaining: int
    reset_seconds: int
    window_seconds: int

    def spell(self) -> bytes:
        """The value of `RateLimit`."""
        return b'"%s";r=%d;t=%d' % (self.policy.name.encode(), self.remaining, self.reset_seconds)


def _allowed(policy: Policy, windows: Iterable[Window]) -> Standing:
    tightest = min(windows, key=lambda window: window.remaining)
    remaining = tightest.remaining
    return Standing(True, policy, remaining, tightest.seconds_until(remaining + 1), tightest.seconds)


def _refused(policy: Policy, windows: Iterable[Window], cost: int) -> Standing:
    """Whoever waits as long as the last of them asks is let in by all."""
    wait, seconds = max((window.seconds_until(cost), window.seconds) for window in windows)
    return Standing(False, policy, 0, wait, seconds)


def _full(windows: Iterable[Window], cost: int) -> list[Window]:
    return [window for window in windows if window.remaining < cost]


class _Redis:
    """The counts that all processes share."""

    def __init__(self, url: str) -> None:
        self._pool = open_pool(url)
        self._storage = RedisStorage(
            "async+redis://", wrap_exceptions=True, implementation="redispy", key_prefix="duly:limits",
            connection_pool=self._pool,  # type: ignore[arg-type]  # documented, but not declared
        )  # fmt: skip

    async def hit(self, policy: Policy, key: str, cost: int) -> Standing:
        """Raises `StorageError` or OSError."""
        if len(policy.items) > 1:
            # One window must not count what another refuses.
            full = _full([await self._look(item, policy.name, key) for item in policy.items], cost)
            if full:
                return _refused(policy, full, cost)
        for item in policy.items:
            name = item.key_for(policy.name, key)
            if not await self._storage.acquire_sliding_window_entry(name, item.amount, item.get_expiry(), cost):
                return _refused(policy, [await self._look(item, policy.name, key)], cost)
        return _allowed(policy, [await self._look(item, policy.name, key) for item in policy.items])

    async def _look(self, item: RateLimitItem, *names: str) -> Window:
        seconds = item.get_expiry()
        found = await self._storage.get_sliding_window(item.key_for(*names), seconds)
        previous, previous_left, current, current_lives = found
        # A count is kept for two windows: its own, and the one in which it is the previous one.
        return Window(item.amount, seconds, previous, previous_left, current, max(0.0, current_lives - seconds))

    async def close(self) -> None:
        await self._pool.aclose()


class Limiter:
    """Counts with sliding windows. Without Redis each process counts for itself: limits get looser, never off.

    What Redis lets through this process counts too, so that nobody starts anew when Redis goes away.
    """

    def __init__(self, redis_url: str | None = None) -> None:
        """Raises ValueError for an address that Redis cannot have."""
        self._own = OwnWindows()
        self._redis = _Redis(redis_url) if redis_url is not None else None
        self._breaker = Breaker(
            seconds=REDIS_SECONDS,
            faults=(StorageError, OSError),
            log=log,
            falls="Redis does not count rate limits (%s); this process counts for itself",
            returns="Redis counts rate limits again",
        )

    async def hit(self, policy: Policy, key: str, *, cost: int = 1) -> Standing:
        """Count `cost` requests of `key`, unless that would be too many."""
        redis = self._redis
        if redis is not None and self._breaker.admits:
            # What went wrong is the breaker's to say; here it only means that this process decides.
            with contextlib.suppress(StorageError, OSError):
                standing = await self._breaker.ask(lambda: redis.hit(policy, key, cost))
                if standing.allowed:
                    self._add(policy, key, cost)
                return standing
        full = _full([self._own.look(item, policy.name, key) for item in policy.items], cost)
        return _refused(policy, full, cost) if full else _allowed(policy, self._add(policy, key, cost))

    @property
    def is_shared(self) -> bool:
        """Whether Redis counts, for all processes; else this one counts for itself."""
        return self._redis is not None and not self._breaker.is_down

    async def close(self) -> None:
        """Close the connections to Redis."""
        await self._breaker.close()
        if self._redis is not None:
            await self._redis.close()

    def _add(self, policy: Policy, key: str, cost: int) -> list[Window]:
        return [self._own.add(item, policy.name, key, cost=cost) for item in policy.items]


@dataclass(slots=True)
class Allowance:
    """Requests that were counted in advance, so that a busy caller does not ask for each one."""

    left: int
    batch: int
    remaining: int
    reset_seconds: int
    until: float


class Allowances:
    """Allowances of signed-in callers, for the hot path: most requests find one and wait for nothing.

    Who is slow is counted one by one; who is quick takes batches that grow to a two-hundredth of the limit. After a
    second the limits are asked again, so that the headers stay true; what is left of a batch is kept for when it ends.
    """

    def __init__(self, limiter: Limiter, policy: Policy, *, most: int = 10_000) -> None:
        self._limiter = limiter
        self._policy = policy
        self._most = most
        self._largest = max(1, min(100, min(item.amount for item in policy.items) // 200))
        self._by_key: dict[str, Allowance] = {}
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._name = policy.name.encode()
        self._policy_header = (b"ratelimit-policy", policy.spell())

    def take(self, key: str) -> Sequence[tuple[bytes, bytes]] | None:
        """The headers of one request that is allowed; None when `refill` has to be asked."""
        allowance = self._by_key.get(key)
        if allowance is None or allowance.left <= 0 or time.monotonic() > allowance.until:
            return None
        allowance.left -= 1
        value = b'"%s";r=%d;t=%d' % (self._name, allowance.remaining + allowance.left, allowance.reset_seconds)
        return self._policy_header, (b"ratelimit", value)

    async def refill(self, key: str) -> Standing | None:
        """Count the next batch; None when there is something to take, the standing when there is not."""
        lock = self._asking.get(key)
        if lock is None:
            lock = self._asking[key] = asyncio.Lock()
        async with lock:  # a crowd of one caller's requests asks once, not each for a batch of its own
            found = self._by_key.get(key)
            is_fresh = found is not None and time.monotonic() <= found.until
            if found is not None and is_fresh and found.left > 0:
                return None
            batch = min(self._largest, found.batch * 2) if found is not None and is_fresh else 1
            standing = await self._limiter.hit(self._policy, key, cost=batch)
            if not standing.allowed and batch > 1:
                batch = 1
                standing = await self._limiter.hit(self._policy, key)
            kept = found.left if found is not None else 0
            if not standing.allowed and not kept:
                return standing
            self._keep(key, standing, batch, kept + (batch if standing.allowed else 0))
            return None

    def _keep(self, key: str, standing: Standing, batch: int, left: int) -> None:
        self._by_key.pop(key, None)
        if len(self._by_key) >= self._most:
            del self._by_key[next(iter(self._by_key))]
        self._by_key[key] = Allowance(left, batch, standing.remaining, standing.reset_seconds, time.monotonic() + 1.0)
