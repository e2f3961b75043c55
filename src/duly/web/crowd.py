"""The clients that this process is connected to: how many there may be, and who goes first when there are too many."""

import asyncio
import logging
from collections.abc import Iterable
from time import monotonic
from typing import Final, Protocol

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

try:
    import resource
except ImportError:  # Windows counts open files otherwise
    resource = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

# Files beside the clients' connections: databases, attachments, mails, logs.
RESERVE: Final = 256
# A client that owes a head or a piece of a body is waited for so long, also when others want its place.
GRACE_SECONDS: Final = 1.0
# A client that takes nothing of its answer in this time is let go.
STUCK_SECONDS: Final = 30.0
# And when all unsent answers together are larger than this, who has taken nothing for longer than a moment.
MOST_UNSENT: Final = 64 * 1024**2
MOMENT_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 1.0
WARN_SECONDS: Final = 10.0


class Guest(Protocol):
    """One client's connection."""

    transport: asyncio.Transport


class Crowd:
    """Every connection of this process. `limit` is 0 until `open` sets it."""

    def __init__(self, stuck_seconds: float = STUCK_SECONDS, most_unsent: int = MOST_UNSENT) -> None:
        self._stuck_seconds = stuck_seconds
        self._most_unsent = most_unsent
        self.limit = 0
        self.refused = 0
        self.is_kept = False
        """Whether the server tells of its connections, as `duly serve` does."""
        self._inside: set[Guest] = set()
        self._idle: dict[Guest, None] = {}
        self._owing: dict[Guest, float] = {}
        self._stuck: dict[Guest, tuple[float, int]] = {}
        self._look: asyncio.TimerHandle | None = None
        self._warned_at = -WARN_SECONDS

    def __len__(self) -> int:
        return len(self._inside)

    def open(self, most: int) -> None:
        """Let in `most` clients, or as many as the files that this process may open."""
        self.limit = most
        if resource is None:
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft >= most + RESERVE:
            return
        wanted = most + RESERVE
        allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            self.limit = max(1, allowed - min(RESERVE, allowed // 4))
            log.warning(
                "This process may open %d files, so it serves %d clients at once and not MAX_CONNECTIONS=%d; "
                "raise the limit (ulimit -n) to %d", allowed, self.limit, most, wanted,
            )  # fmt: skip

    def enter(self, guest: Guest) -> bool:
        """Count one more, and let somebody go for it where that is needed; False when there is no place."""
        if self.limit and len(self._inside) >= self.limit and not self._make_room():
            self.refused += 1
            self._warn()
            return False
        self._inside.add(guest)
        return True

    def stay(self, guest: Guest) -> None:
        """Count one that has its place already, as another kind of connection."""
        self._inside.add(guest)

    def leave(self, guest: Guest) -> None:
        """It is over, or became another kind of connection."""
        self._inside.discard(guest)
        self._idle.pop(guest, None)
        self._owing.pop(guest, None)
        self._stuck.pop(guest, None)

    def rest(self, guest: Guest) -> None:
        """It has its answer, and asks for nothing now."""
        self._owing.pop(guest, None)
        self._idle[guest] = None

    def wake(self, guest: Guest) -> None:
        """It asks again."""
        self._idle.pop(guest, None)

    def owe(self, guest: Guest) -> None:
        """It has begun something, and the rest of it has not come yet."""
        self._owing.pop(guest, None)
        self._owing[guest] = monotonic()

    def pay(self, guest: Guest) -> None:
        """All of it has come."""
        self._owing.pop(guest, None)

    def choke(self, guest: Guest) -> None:
        """More waits to be sent to it than the connection holds."""
        self._stuck[guest] = monotonic(), guest.transport.get_write_buffer_size()
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_at_stuck)

    def swallow(self, guest: Guest) -> None:
        """It has taken enough to be sent more."""
        self._stuck.pop(guest, None)

    def figures(self) -> Iterable[Metric]:
        """For /metrics; nothing under a server that does not tell."""
        if self.is_kept:
            names = "duly_client_connections", "duly_client_connections_limit", "duly_client_connections_refused"
            yield GaugeMetricFamily(names[0], "Connections of clients that are open.", value=len(self._inside))
            yield GaugeMetricFamily(names[1], "The most that may be open.", value=self.limit)
            yield CounterMetricFamily(names[2], "Connections that were turned away.", value=self.refused)

    def _make_room(self) -> bool:
        """Let the one go that has been idle for longest, or else the one that has owed for longest."""
        guest = next(iter(self._idle), None)
        if guest is None:
            guest, since = next(iter(self._owing.items()), (None, 0.0))
            if guest is None or monotonic() - since < GRACE_SECONDS:
                return False
        self.leave(guest)
        if guest.transport.get_write_buffer_size() or guest.transport.is_closing():
            guest.transport.abort()
        else:
            guest.transport.close()
        return True

    def _warn(self) -> None:
        if monotonic() - self._warned_at >= WARN_SECONDS:
            self._warned_at = monotonic()
            log.warning("All %d places for clients are taken (MAX_CONNECTIONS); turned away so far: %d",
                        self.limit, self.refused)  # fmt: skip

    def _look_at_stuck(self) -> None:
        """Cut who takes nothing; and, while too much waits to be sent in all, those who have stood for longest."""
        self._look = None
        moment, unsent = monotonic(), 0
        for guest, (since, before) in self._stuck.items():
            size = guest.transport.get_write_buffer_size()
            unsent += size
            self._stuck[guest] = (moment if size < before else since), size
        for guest, (since, size) in sorted(self._stuck.items(), key=lambda item: item[1][0]):
            stood = moment - since
            if stood >= self._stuck_seconds or (unsent > self._most_unsent and stood >= MOMENT_SECONDS):
                unsent -= size
                del self._stuck[guest]
                guest.transport.abort()
        if self._stuck:
            self._look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_at_stuck)


crowd = Crowd()
"""Of this process: connections are made by the server, outside of any application."""
