"""iCalendar (RFC 5545): tasks written as VTODO, and every VTODO of a file read, whoever wrote it.

A file is gone through line by line, and of a VTODO only what Duly keeps is read: recurrences, alarms and attachments
cost nothing, and a broken component is one wrong row.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any, Final

from icalendar import vDatetime, vDuration

from duly.tasks.transfer.ics_text import (
    Property,
    escape,
    fold,
    name_of,
    split_list,
    take_apart,
    unescape,
    unfold,
)  # fmt: skip
from duly.tasks.transfer.loose import day_of, one_line, title_of
from duly.tasks.transfer.rows import ParsedFile, RawRow, read_moment
from duly.tasks.transfer.zones import define_zone, find_zone, in_utc

BEGIN: Final = b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//Duly//Duly//EN\r\nCALSCALE:GREGORIAN\r\n"
END: Final = b"END:VCALENDAR\r\n"

MOST_LINE: Final = 64 * 1024
MOST_LINES: Final = 200
MOST_ZONES: Final = 100
_PRIORITIES = {"urgent": 1, "high": 3, "medium": 5, "low": 9}
_READ = frozenset(
    {"UID", "SUMMARY", "DESCRIPTION", "DUE", "DTSTART", "DURATION", "STATUS", "COMPLETED", "PERCENT-COMPLETE",
     "PRIORITY", "CATEGORIES", "CREATED", "RECURRENCE-ID", "X-DULY-DUE", "X-DULY-COMPLETED", "X-DULY-CREATED",
     "X-DULY-DESCRIPTION"}
)  # fmt: skip
_DATE = re.compile(r"\d{8}", re.ASCII)
_TIME = re.compile(r"\d{8}T\d{6}Z?", re.ASCII)
# A task that was given up is off the list as much as one that was done.
_DONE = frozenset({"COMPLETED", "CANCELLED"})
_RETURN, _PERCENT = "%0D", "%25"

Zones = Mapping[str, tzinfo]
Found = dict[str, Property]


def write(tasks: list[dict[str, Any]]) -> bytes:
    """One VTODO for each task."""
    return b"".join(fold(line) for task in tasks for line in _lines(task))


def _lines(task: dict[str, Any]) -> Iterator[str]:
    changed = _instant(task["updated_at"])
    yield "BEGIN:VTODO"
    yield f"UID:{escape(task['id'])}"
    yield f"DTSTAMP:{changed}"
    yield f"SUMMARY:{escape(task['title'])}"
    if task["description"] is not None:
        yield from _description_lines(task["description"])
    yield f"PRIORITY:{_PRIORITIES[task['priority']]}"
    if task["tags"]:
        yield f"CATEGORIES:{','.join(map(escape, task['tags']))}"
    yield "STATUS:COMPLETED" if task["completed"] else "STATUS:NEEDS-ACTION"
    yield "PERCENT-COMPLETE:100" if task["completed"] else "PERCENT-COMPLETE:0"
    yield from _moment_lines("DUE", task["due_date"])
    yield from _moment_lines("COMPLETED", task["completed_at"])
    yield from _moment_lines("CREATED", task["created_at"])
    yield f"LAST-MODIFIED:{changed}"
    yield "END:VTODO"


def _description_lines(text: str) -> Iterator[str]:
    yield f"DESCRIPTION:{escape(text)}"
    if "\r" in text:
        # A text of RFC 5545 knows one line break and not which.
        exact = text.replace("%", _PERCENT).replace("\r", _RETURN)
        yield f"X-DULY-DESCRIPTION:{escape(exact)}"


def _moment_lines(name: str, text: str | None) -> Iterator[str]:
    if text is None:
        return
    yield f"{name}:{_instant(text)}"
    if not text.endswith(".000000Z"):
        # Times of RFC 5545 end at the second.
        yield f"X-DULY-{name}:{text}"


def _instant(text: str) -> str:
    """A time of Duly's documents in UTC, as §3.3.5 writes it."""
    return f"{text[:19].replace('-', '').replace(':', '')}Z"


def read(text: str) -> ParsedFile:
    """Every VTODO; other components are counted and left. Raises `Invalid`."""
    parsed = ParsedFile("ics")
    parsed.take(_rows(unfold(text), parsed, _zones_of(text)))
    return parsed


def _zones_of(text: str) -> Zones:
    """The zones that the file defines and that nobody knows by name."""
    zones: dict[str, tzinfo] = {}
    if "BEGIN:VTIMEZONE" not in text.upper():
        return zones
    tried: set[str] = set()
    gathered: list[str] | None = None
    for line in unfold(text):
        mark = line[:20].strip().upper()
        if mark == "BEGIN:VTIMEZONE":
            gathered = []
        elif mark == "END:VTIMEZONE" and gathered is not None:
            name = next((one.partition(":")[2].strip() for one in gathered if name_of(one) == "TZID"), "")
            if name and name not in tried and len(tried) < MOST_ZONES and find_zone(name) is None:
                tried.add(name)
                zone = define_zone(gathered)
                if zone is not None:
                    zones[name] = zone
            gathered = None
        elif gathered is not None:
            gathered.append(line)
    return zones


def _rows(lines: Iterator[str], parsed: ParsedFile, zones: Zones) -> Iterator[RawRow]:
    """Each VTODO by itself; what is nested in one, such as an alarm, is passed over."""
    number = depth = 0
    is_todo = False
    gathered: list[str] = []
    for line in lines:
        head = line[:7].upper()
        if head.startswith("BEGIN:"):
            kind = line[6:40].strip().upper()
            if depth == 0 and kind not in {"VTODO", "VCALENDAR", "VTIMEZONE"}:
                parsed.ignored += 1
            if depth or kind != "VCALENDAR":
                depth += 1
            if depth == 1:
                gathered, is_todo = [], kind == "VTODO"
        elif head.startswith("END:") and depth:
            depth -= 1
            if depth == 0 and is_todo:
                raw = _read_todo(number + 1, gathered, zones)
                if raw is None:
                    parsed.ignored += 1
                else:
                    number += 1
                    yield raw
        elif depth == 1 and is_todo and len(gathered) <= MOST_LINES and name_of(line) in _READ:
            gathered.append(line)
    if depth:
        yield RawRow(number + 1, {}, "has no end: the file was cut off or its components are mixed up")


def _read_todo(number: int, lines: list[str], zones: Zones) -> RawRow | None:
    """None for what changes a single occurrence of a task that recurs."""
    found: Found = {}
    tags: list[str] = []
    if len(lines) > MOST_LINES:
        return RawRow(number, {}, f"has more than {MOST_LINES} lines")
    for line in lines:
        if len(line) > MOST_LINE:
            return RawRow(number, {}, f"has a line of more than {MOST_LINE:,} characters")
        try:
            part = take_apart(line)
        except ValueError:
            return RawRow(number, {}, "has a line that cannot be read")
        if part.name == "CATEGORIES":
            tags += split_list(part.value)
        else:
            found.setdefault(part.name, part)
    if "RECURRENCE-ID" in found:
        return None
    description = _description(found)
    values: dict[str, object] = {
        "id": unescape(_value(found, "UID")).strip() or None,
        "title": title_of(unescape(_value(found, "SUMMARY")), description),
        "description": description,
        "tags": [tag for tag in map(one_line, tags) if tag],
    }
    try:
        values["priority"] = _priority(_value(found, "PRIORITY"))
        values["due_date"] = _due(found, zones)
        values["created_at"] = _exact(found, "CREATED", zones)
        values["completed"] = _is_done(found)
        values["completed_at"] = _exact(found, "COMPLETED", zones) if values["completed"] else None
    except ValueError as error:
        return RawRow(number, {}, str(error))
    return RawRow(number, values)


def _value(found: Found, name: str) -> str:
    return found[name].value if name in found else ""


def _description(found: Found) -> str | None:
    if "DESCRIPTION" not in found:
        return None
    text = unescape(found["DESCRIPTION"].value)
    exact = unescape(_value(found, "X-DULY-DESCRIPTION")).replace(_RETURN, "\r").replace(_PERCENT, "%")
    # Whoever edited the text since knew nothing of the other property.
    return exact if "\r" in exact and escape(exact) == escape(text) else text


def _priority(value: str) -> str:
    """§3.8.1.9: 1 is the highest, 9 the lowest, 0 none."""
    number = value.strip() or "0"
    if not re.fullmatch("[0-9]", number):
        raise ValueError("has a PRIORITY that is not a number from 0 to 9")
    return {"0": "medium", "1": "urgent", "5": "medium"}.get(number, "high" if number < "5" else "low")


def _is_done(found: Found) -> bool:
    status = _value(found, "STATUS").strip().upper()
    if status:
        return status in _DONE
    return "COMPLETED" in found or _value(found, "PERCENT-COMPLETE").strip() == "100"


def _due(found: Found, zones: Zones) -> datetime | None:
    if "DUE" in found or "DTSTART" not in found or "DURATION" not in found:
        return _exact(found, "DUE", zones)
    start = _exact(found, "DTSTART", zones)
    try:
        length: timedelta = vDuration.from_ical(  # type: ignore[no-untyped-call]
            found["DURATION"].value.strip()[:100]
        )
        return None if start is None else start + length
    except (ValueError, OverflowError):
        raise ValueError("has a DURATION that cannot be read") from None


def _exact(found: Found, name: str, zones: Zones) -> datetime | None:
    """The moment, with the fraction of a second that Duly wrote beside it if it is still the same second."""
    if name not in found or not found[name].value.strip():
        return None
    moment = _moment(found[name], zones)
    try:
        exact = read_moment(_value(found, f"X-DULY-{name}"))
    except ValueError:
        return moment
    return exact if exact.replace(microsecond=0) == moment else moment


def _moment(part: Property, zones: Zones) -> datetime:
    """§3.3.4 and §3.3.5: a date is its first moment in UTC; a time without a zone, or in an unknown one, is in UTC."""
    text = part.value.strip().upper()
    try:
        if _DATE.fullmatch(text):
            return day_of(date(int(text[:4]), int(text[4:6]), int(text[6:])))
        if not _TIME.fullmatch(text):
            raise ValueError
        # A leap second, which §3.3.12 admits, is the second before it.
        local: datetime = vDatetime.from_ical(  # type: ignore[no-untyped-call]
            text[:13] + text[13:15].replace("60", "59")
        )
        if text.endswith("Z"):
            return local.replace(tzinfo=UTC)
        name = str(part.parameters.get("TZID", ""))
        return in_utc(local, find_zone(name) or zones.get(name) or UTC)
    except ValueError:
        raise ValueError(f"has a {part.name} that is no time") from None
