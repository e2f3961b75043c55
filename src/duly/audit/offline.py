"""Verifies an export of the audit log with nothing but the standard library: `python -m duly.audit.offline FILE`."""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

FIELDS = {
    "id", "at", "event", "actor_id", "actor_name", "target_type", "target_id", "ip_address", "user_agent", "request_id",
    "outcome", "details", "hash", "previous_hash",
}  # fmt: skip


class Verdict(NamedTuple):
    """`entries` were in order, up to `head`; `fault` is None, or names the first bad entry and why it is bad."""

    entries: int
    head: str
    fault: str | None


def verify_file(path: Path, anchor: str | None = None) -> Verdict:
    """`anchor` is a hash that was noted elsewhere earlier: it must still be in the chain.

    Without one, an export that was made up from its first entry to its head cannot be told from a true one.
    Raises OSError.
    """
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return verify(file, anchor)


def verify(lines: Iterable[str], anchor: str | None = None) -> Verdict:
    """The same for the lines of an export: what the chain begins and ends with, and then each entry."""
    numbered = enumerate((line.rstrip("\r\n") for line in lines), 1)
    header = _parse(next(numbered, (1, ""))[1])
    if header is None or (header.get("format"), header.get("version")) != ("duly.audit", 1):
        return Verdict(0, "", "line 1 is not the head of an export; make one with 'duly audit export'")
    running, count, last = str(header.get("start_hash")), 0, "the head"
    anchored = anchor in (None, running)
    for number, line in numbered:
        entry = _parse(line)
        name = f"entry {str(entry.get('id') if entry else None)[:36]!r} (line {number})"
        if entry is None or entry.keys() != FIELDS or _spell(entry) != line:
            return Verdict(count, running, f"{name} is changed: it is not in the form in which entries are exported")
        computed = link(entry)
        if computed != entry["hash"]:
            return Verdict(count, running, f"{name} is changed: it does not say what it said when it was written")
        if entry["previous_hash"] != running:
            return Verdict(count, running, f"{name} does not follow {last}: entries were removed, inserted or swapped")
        running, count, last = computed, count + 1, name
        anchored = anchored or running == anchor
    fault = _find_fault_at_end(header, running, count, last)
    if fault is None and not anchored:
        fault = "the anchor is not in this chain: it was written anew, or its beginning was removed"
    return Verdict(count, running, fault)


def link(entry: dict[str, Any]) -> str:
    """SHA-256 over the previous hash, a line feed, and what the entry says beside its two hashes."""
    content = _spell({name: value for name, value in entry.items() if name not in {"hash", "previous_hash"}})
    return hashlib.sha256(f"{entry['previous_hash']}\n{content}".encode(errors="surrogatepass")).hexdigest()


def _find_fault_at_end(header: dict[str, Any], running: str, count: int, last: str) -> str | None:
    if (running, count) == (header.get("head"), header.get("entries")):
        return None
    if isinstance(header.get("entries"), int) and count < header["entries"]:
        return f"the export is cut after {last}: {header['entries'] - count} more belong to it"
    return f"the export does not end where its head says: {last} is not the last of its {header.get('entries')} entries"


def _spell(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--anchor", help="a hash that was noted earlier")
    given = parser.parse_args()
    found = verify_file(given.file, given.anchor)
    if found.fault is not None:
        sys.exit(found.fault)
    sys.stdout.write(f"valid: {found.entries} entries, head {found.head}\n")
