"""Who follows whose changes in this process, and how they learn that there is something new to read."""

import asyncio
import logging
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from time import monotonic
from typing import Any

from duly.errors import DulyError, TooMany
from duly.live.signals import Signals

log = logging.getLogger(__name__)

MOST_STREAMS = 10
POLL_SECONDS = 1.0
RETRY_SECONDS = 5

Positions = Callable[[Sequence[str]], Awaitable[Mapping[str, int]]]


class Topic:
    """One user's followers in this process. `version` rises with each wake; `reads` are those under way."""

    __slots__ = ("followers", "name", "reads", "user_id", "version")

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.name = short_name(user_id)
        self.version = 0
        self.followers: set[Follower] = set()
        self.reads: dict[tuple[int, int], asyncio.Task[Any]] = {}

    def wake(self) -> None:
        """Let every follower read on."""
        self.version += 1
        moment = monotonic()
        for follower in self.followers:
            follower.wake(moment)


class Follower:
    """One stream's place in the feed: `position` is the last change that it has, -1 before that is known."""

    __slots__ = ("_told_at", "owed_since", "position", "topic", "woken")

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.position = -1
        self.woken = asyncio.Event()
        self.owed_since: float | None = None
        self._told_at: float | None = None

    def wake(self, moment: float) -> None:
        """There may be something new since `moment`, of the monotonic clock."""
        if self._told_at is None:
            self._told_at = moment
        self.woken.set()

    def begin(self) -> None:
        """A read begins: it finds what it was told of until now."""
        self.woken.clear()
        if self.owed_since is None:
            self.owed_since = self._told_at
        self._told_at = None

    def sleep_on(self) -> None:
        """It was woken for something else than news; what it was told of meanwhile stays told."""
        if self._told_at is None:
            self.woken.clear()

    def caught_up(self) -> None:
        """All that the read found was handed over."""
        self.owed_since = None

    @property
    def waits_since(self) -> float | None:
        """Since when something is known here that the follower was not handed."""
        return self._told_at if self.owed_since is None else self.owed_since


class Hub:
    """Wakes followers; what there is to read is in the database alone.

    Three things wake: a commit of this process, a signal from another one, and a look at everybody's position once a
    second, which also finds what was written without a signal or while none came through.
    """

    def __init__(self, positions: Positions, signals: Signals | None, *, most: int = MOST_STREAMS) -> None:
        self._positions = positions
        self._signals = signals
        self._most = most
        self._topics: dict[str, Topic] = {}
        self._by_name: dict[str, set[Topic]] = {}

    def join(self, user_id: str) -> Follower:
        """Raises `TooMany` for a user who has as many streams here as a user may have."""
        topic = self._topics.get(user_id)
        if topic is None:
            topic = self._topics[user_id] = Topic(user_id)
            self._by_name.setdefault(topic.name, set()).add(topic)
        if len(topic.followers) >= self._most:
            raise TooMany(
                f"You have {self._most} live streams open, which is the most. Close one, or wait.",
                code="TOO_MANY_STREAMS", retry_after=RETRY_SECONDS,
            )  # fmt: skip
        follower = Follower(topic)
        topic.followers.add(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """The follower is gone; the last of a user takes the topic along."""
        topic = follower.topic
        topic.followers.discard(follower)
        if topic.followers or self._topics.get(topic.user_id) is not topic:
            return
        del self._topics[topic.user_id]
        named = self._by_name[topic.name]
        named.discard(topic)
        if not named:
            del self._by_name[topic.name]

    def announced(self, user_id: str) -> None:
        """A transaction of this process that changed the user's tasks is durable: wake here, and tell the others."""
        topic = self._topics.get(user_id)
        if topic is not None:
            topic.wake()
        if self._signals is not None:
            self._signals.send(short_name(user_id) if topic is None else topic.name)

    @property
    def signals(self) -> Signals | None:
        """What carries the signals, where there are several processes."""
        return self._signals

    def lag_seconds(self) -> float:
        """How long the oldest change that this process knows of waits for one of its followers; 0 when none does."""
        waits = [
            follower.waits_since
            for topic in self._topics.values()
            for follower in topic.followers
            if follower.waits_since is not None
        ]
        return max(0.0, monotonic() - min(waits)) if waits else 0.0

    async def run(self) -> None:
        """Listen and look until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._poll(), name="poll-changes")
            if self._signals is not None:
                group.create_task(self._signals.run(self._heard), name="carry-signals")

    def _heard(self, names: Iterable[str]) -> None:
        for name in names:
            for topic in self._by_name.get(name, ()):
                topic.wake()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._topics:
                continue
            try:
                found = await self._positions(list(self._topics))
            except DulyError:
                continue  # a database that is down is for the requests to report
            except Exception:  # the next look must come
                log.exception("The positions of the change feed cannot be read")
                continue
            for user_id, position in found.items():
                topic = self._topics.get(user_id)
                if topic is not None and any(follower.position < position for follower in topic.followers):
                    topic.wake()


def short_name(user_id: str) -> str:
    """Twelve characters that stand for a user in a signal. Two users with one name would only wake each other."""
    return urlsafe_b64encode(blake2b(user_id.encode(errors="surrogatepass"), digest_size=9).digest()).decode()
