"""How the entries of the audit log are linked, and the walk that finds where they are not."""

import hashlib
import json
from dataclasses import asdict, dataclass

from duly.audit.events import Entry
from duly.kit.clock import rfc3339

START = "0" * 64
UNREADABLE = "(encrypted under a key that is not here)"
ALTERED = "(altered)"


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends, and the link before its first entry, which moves when old entries are removed."""

    position: int
    hash: str
    start_position: int
    start_hash: str
    mac: str = ""


NO_HEAD = Head(0, START, 1, START)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found. `fault` says what is wrong in one sentence, and `first_bad` with which entry.

    The sentence begins with its kind: `changed`, `missing`, `moved`, `inserted`, `truncated`, `replaced`,
    `unanchored`, or `unreadable`.
    """

    valid: bool
    entries: int
    first_bad: str | None
    head: str
    fault: str | None = None


def origin_place(entry_id: str) -> str:
    """What an entry's encrypted origin is bound to."""
    return f"audit_log:{entry_id}"


def content_of(entry: Entry) -> str:
    """Everything an entry says, in one spelling: JSON, sorted keys, no blanks, times in UTC with microseconds."""
    content = asdict(entry)
    del content["hash"], content["previous_hash"]
    content["at"] = rfc3339(entry.at)
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def link(previous_hash: str, content: str) -> str:
    """The hash of an entry: SHA-256 over the previous hash, a line feed, and the content."""
    return hashlib.sha256(f"{previous_hash}\n{content}".encode()).hexdigest()


class Walk:
    """One pass over the chain, entry by entry, until the first fault.

    `known` is the latest head that this process saw; `anchor` is a hash that was noted outside.
    """

    def __init__(self, head: Head, *, known: Head = NO_HEAD, anchor: str | None = None) -> None:
        self._head = head
        self._known = known
        self._anchor = anchor
        self._anchored = anchor is None or anchor == head.start_hash
        self._last: str | None = None
        self._bad: str | None = None
        self.running = head.start_hash
        self.count = 0
        self.fault: str | None = None

    def step(self, position: int, mac: str, entry: Entry) -> bool:
        """Take the next entry, whose `mac` is empty since it was linked; False ends the walk."""
        if position > self._head.position:
            return self.fail(entry.id, "inserted: this entry stands behind the end of the chain")
        if position != self._head.start_position + self.count:
            return self.fail(entry.id, "missing: the entries before this one were removed")
        if UNREADABLE in {entry.ip_address, entry.user_agent}:
            return self.fail(entry.id, "unreadable: the address in this entry is encrypted under a key that is not "
                             "here; see FIELD_ENCRYPTION_KEY and SECRET_KEY_PREVIOUS")  # fmt: skip
        computed = _compute(entry)
        if computed is None or computed != entry.hash or mac:
            return self.fail(entry.id, "changed: this entry does not say what it said when it was written")
        if entry.previous_hash != self.running:
            return self.fail(entry.id, "moved: this entry does not follow the one before it, so one of the two was "
                             "swapped, inserted or replaced")  # fmt: skip
        if position == self._known.position and computed != self._known.hash:
            return self.fail(entry.id, "replaced: another entry was linked in this place")
        self.running, self._last = computed, entry.id
        self.count += 1
        self._anchored = self._anchored or computed == self._anchor
        return True

    def finish(self) -> None:
        """Ask after the last entry whether it is the one that the head names, and whether the anchor was seen."""
        if self._head.start_position + self.count <= self._head.position:
            self.fail(self._last, "truncated: the entries after this one were removed")
        elif self.running != self._head.hash:
            self.fail(self._last, "replaced: the chain does not end where its head says")
        elif not self._anchored and self._head.start_position > 1:
            self.fail(None, f"unanchored: the anchor is not in this chain, which begins with entry "
                      f"{self._head.start_position} since older ones were removed as AUDIT_RETENTION_DAYS says; unless "
                      "the anchor is older than that, the chain was written anew")  # fmt: skip
        elif not self._anchored:
            self.fail(None, "replaced: the anchor is not in this chain, so it was cut or written anew")

    def fail(self, entry_id: str | None, fault: str) -> bool:
        """Keep the first fault."""
        if self.fault is None:
            self._bad, self.fault = entry_id, fault
        return False

    def verdict(self) -> Verdict:
        """What was found; entries counts those that are in order."""
        return Verdict(self.fault is None, self.count, self._bad, self.running, self.fault)


def _compute(entry: Entry) -> str | None:
    """None for what no entry that Duly wrote can hold, such as bytes in a text column of SQLite."""
    try:
        return link(entry.previous_hash or "", content_of(entry))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
