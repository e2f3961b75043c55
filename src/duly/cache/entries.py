"""What is kept of an answer: the answer, where in the change feed it is true, and until when."""

from dataclasses import dataclass
from typing import Any

from duly.kit.clock import now

# Positions tell of every change but one: a database that was put back to an earlier state counts the same positions
# again. So nothing is kept for longer than this.
LONGEST_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Entry:
    """A JSON value at a position, and the moment (seconds since 1970) from which it does not hold any more."""

    position: int
    until: float
    value: Any

    def holds(self, position: int) -> bool:
        """Whether it is true now, for one who is at this position."""
        return self.position == position and now().timestamp() < self.until


def until_at_most(until: float | None) -> float:
    """The end of an entry made now that would hold until then, or for ever."""
    latest = now().timestamp() + LONGEST_SECONDS
    return latest if until is None else min(until, latest)
