"""Sliding windows: how much room one has, when there will be more, and the ones that this process counts itself."""

import math
import time
from dataclasses import dataclass

from limits import RateLimitItem

# What one client can make this process remember has to end somewhere.
MOST_WINDOWS = 50_000
# What fractions of seconds lose on the way must not become a whole second.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Window:
    """What was counted in the window that runs and in the one before it, which weighs less the longer this one runs.

    `current_left` and `previous_left` are the seconds until the one ends and until the other weighs nothing.
    """

    limit: int
    seconds: int
    previous: int = 0
    previous_left: float = 0.0
    current: int = 0
    current_left: float = 0.0

    @property
    def remaining(self) -> int:
        """How many requests would still be allowed at once."""
        return max(0, self.limit - math.floor(self.previous * self.previous_left / self.seconds) - self.current)

    def seconds_until(self, amount: int) -> int:
        """In how many whole seconds, at least one, `amount` requests would be allowed if none came in between."""
        room = self.limit - amount - self.current
        if room >= 0:
            wait = self.previous_left - (room + 1) * self.seconds / self.previous if self.previous else 0.0
        else:
            # Only after this window; it then weighs what the one before it weighs now.
            wait = self.current_left
            if self.current:
                wait += max(0.0, self.seconds - (self.limit - amount + 1) * self.seconds / self.current)
        return max(1, math.ceil(wait - _ROUNDING))


class OwnWindows:
    """Counts of this process. Nothing waits here, so nobody comes in between looking and counting."""

    def __init__(self, most: int = MOST_WINDOWS) -> None:
        self._most = most
        self._found: dict[str, tuple[float, int, int, float]] = {}
        # When the running one ends, its count, the count before, and when nothing of it will weigh any more.

    def look(self, item: RateLimitItem, *names: str) -> Window:
        """The window as it stands."""
        moment, seconds = time.monotonic(), item.get_expiry()
        end, current, previous, gone = self._found.get(item.key_for(*names), (0.0, 0, 0, 0.0))
        if end <= moment:
            end, current, previous = (gone, 0, current) if gone > moment else (moment + seconds, 0, 0)
        return Window(item.amount, seconds, previous, end - moment, current, end - moment)

    def add(self, item: RateLimitItem, *names: str, cost: int) -> Window:
        """Count, whether there is room or not; the window as it stands then."""
        window = self.look(item, *names)
        key = item.key_for(*names)
        if key not in self._found and len(self._found) >= self._most:
            self._make_room()
        count = window.current + cost
        end = time.monotonic() + window.current_left
        self._found[key] = (end, count, window.previous, end + window.seconds)
        return Window(window.limit, window.seconds, window.previous, window.previous_left, count, window.current_left)

    def _make_room(self) -> None:
        """Forget what weighs nothing any more, or else the tenth that came first."""
        moment = time.monotonic()
        over = [key for key, (_, _, _, gone) in self._found.items() if gone <= moment]
        for key in over or list(self._found)[: max(1, self._most // 10)]:
            del self._found[key]
