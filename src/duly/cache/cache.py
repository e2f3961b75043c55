"""What was counted for a user, kept for exactly as long as the user's tasks stay as they are."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from duly.cache.entries import Entry, until_at_most
from duly.cache.redis import RedisCache

MOST_ENTRIES = 10_000
LAYERS = ("process", "redis")


@dataclass(frozen=True, slots=True)
class Remembered:
    """A JSON value, and until when it holds (seconds since 1970) even if nothing changes; None is for ever.

    `position` is where the value was read, when the statement that read it says so; None is where it was asked for.
    """

    value: Any
    until: float | None = None
    position: int | None = None


Compute = Callable[[], Awaitable[Remembered]]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked for, by whom, and at which state of their tasks."""

    user_id: str
    what: str
    position: int


@dataclass(slots=True)
class _Running:
    """A value that is being computed, and how many wait for it."""

    task: asyncio.Task[Entry]
    waiting: int = 0


class Cache:
    """Values that follow from a user's tasks, under the user's position in the change feed.

    The position is read in the same statement as what it stands beside. Whoever changes a task moves it on, so a value
    of an earlier state is not found any more: there is nothing to invalidate, and nothing can be stale. Values are
    kept in this process and, where that pays, in a Redis behind it, from which the other processes take them.
    """

    def __init__(self, redis: RedisCache | None = None, *, most: int = MOST_ENTRIES) -> None:
        self.redis = redis
        self._entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()
        self._running: dict[_Wanted, _Running] = {}
        self._most = most
        self.hits = Counter(dict.fromkeys(LAYERS, 0))
        self.misses = Counter(dict.fromkeys(LAYERS, 0))

    async def remember(self, user_id: str, position: int, what: str, compute: Compute, *, shared: bool = False) -> Any:
        """The value of `what` for this user at this position; `compute` is asked when it is not known.

        Those who ask for the same at once wait for one computation, and get what it raises. `shared` says that
        computing takes longer than asking Redis.
        """
        wanted = _Wanted(user_id, what, position)
        while True:
            found = self._entries.get((user_id, what))
            if found is not None and found.holds(position):
                self._entries.move_to_end((user_id, what))
                self.hits["process"] += 1
                return found.value
            running = self._running.get(wanted)
            if running is None:
                self.misses["process"] += 1
                return (await self._wait(wanted, self._start(wanted, compute, shared=shared))).value
            entry = await self._wait(wanted, running)
            # It was begun before it was asked for here: its time may have run out since.
            if entry.holds(entry.position):
                self.hits["process"] += 1
                return entry.value

    async def close(self) -> None:
        """Give up what is being computed, and the connections to Redis."""
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.redis is not None:
            await self.redis.close()

    def _start(self, wanted: _Wanted, compute: Compute, *, shared: bool) -> _Running:
        redis = self.redis if shared else None
        running = _Running(asyncio.create_task(self._find(wanted, compute, redis)))
        self._running[wanted] = running
        running.task.add_done_callback(lambda _: self._end(wanted, running))
        return running

    def _end(self, wanted: _Wanted, running: _Running) -> None:
        if self._running.get(wanted) is running:
            del self._running[wanted]

    async def _wait(self, wanted: _Wanted, running: _Running) -> Entry:
        """One who goes away does not take the others' answer along; the last one does."""
        running.waiting += 1
        try:
            return await asyncio.shield(running.task)
        finally:
            running.waiting -= 1
            if not running.waiting and not running.task.done():
                self._end(wanted, running)  # whoever comes next must not wait for what is given up
                running.task.cancel()

    async def _find(self, wanted: _Wanted, compute: Compute, redis: RedisCache | None) -> Entry:
        entry = None
        if redis is not None:
            entry = await redis.find(wanted.user_id, wanted.what, wanted.position)
            (self.misses if entry is None else self.hits)["redis"] += 1
        if entry is None:
            fresh = await compute()
            position = wanted.position if fresh.position is None else fresh.position
            entry = Entry(position, until_at_most(fresh.until), fresh.value)
            if redis is not None:
                redis.keep(wanted.user_id, wanted.what, entry)
        self._keep(wanted, entry)
        return entry

    def _keep(self, wanted: _Wanted, entry: Entry) -> None:
        key = (wanted.user_id, wanted.what)
        known = self._entries.get(key)
        if known is not None and known.position > entry.position and known.holds(known.position):
            return  # one that took long does not displace what is newer
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
