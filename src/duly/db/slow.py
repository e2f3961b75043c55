"""Notes statements that took long, with the request that they were for and without any value."""

import logging
from collections.abc import Sequence
from contextvars import ContextVar

log = logging.getLogger(__name__)

LONGEST_TEXT = 500

sharers: ContextVar[Sequence[str]] = ContextVar("sharers", default=())
"""The ids of the requests that share the running statement, when there are several."""


class SlowStatements:
    """`seconds` is the limit, and 0 notes none; `count` is how many there were.

    It counts what the caller waited: for a connection, or for the turn of the writer, and for the statement.
    """

    __slots__ = ("count", "limit")

    def __init__(self, seconds: float) -> None:
        self.limit = seconds or float("inf")
        self.count = 0

    def note(self, sql: str, seconds: float, rows: int | None, *, waited: float = 0.0) -> None:
        """One line for one that is over the limit; `rows` is None for one that failed. The figures are seconds."""
        if seconds + waited < self.limit:
            return
        self.count += 1
        text = " ".join(sql.split())
        shown = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
        fields: dict[str, object] = {
            "event": "slow_statement", "seconds": round(seconds, 4), "waited_seconds": round(waited, 4), "rows": rows,
            "statement": shown,
        }  # fmt: skip
        ids = list(dict.fromkeys(filter(None, sharers.get())))
        if len(ids) > 1:
            fields["request_ids"] = ids
        log.warning(
            "Slow statement: %.3f s after waiting %.3f s, %s: %s", seconds, waited,
            "it failed" if rows is None else f"{rows} rows", shown, extra={"fields": fields},
        )  # fmt: skip
