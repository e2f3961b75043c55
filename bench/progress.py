"""What the user sees while the harness works: notes and a progress bar on standard error."""

import sys
import threading

BAR_WIDTH = 30


def say(text: str) -> None:
    """One line on standard error; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A bar that many threads may advance; without a terminal, a line every tenth of the way."""

    def __init__(self, title: str, total: int) -> None:
        self._title = title
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._terminal = sys.stderr.isatty()

    def advance(self) -> None:
        """Count one more piece of work as done."""
        with self._lock:
            self._done += 1
            step = max(1, self._total // (200 if self._terminal else 10))
            if self._done % step == 0 or self._done == self._total:
                self._draw()

    def _draw(self) -> None:
        filled = BAR_WIDTH * self._done // self._total
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        line = f"{self._title} [{bar}] {self._done:,} of {self._total:,}"
        if self._terminal:
            print(f"\r{line}", end="\n" if self._done == self._total else "", file=sys.stderr, flush=True)
        else:
            say(line)
