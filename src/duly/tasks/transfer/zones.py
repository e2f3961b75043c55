"""Time zones by any of the names that programs give them, and those that a calendar file defines itself."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo

from icalendar import Timezone
from icalendar.timezone.windows_to_olson import WINDOWS_TO_OLSON

from duly.kit.zones import zone_names

MOST_LINES: Final = 100
MOST_LENGTH: Final = 200
# A rule once a year at most: one for each second would keep a reader busy for years.
_KEPT = re.compile(
    r"(?:BEGIN|END):(?:STANDARD|DAYLIGHT)"
    r"|(?:DTSTART|RDATE)(?:;VALUE=DATE-TIME)?:\d{8}T\d{6}"
    r"|TZOFFSET(?:FROM|TO):[+-]\d{4}(?:\d\d)?"
    r"|RRULE:FREQ=YEARLY(?:;(?:BYMONTH=\d\d?|BYDAY=[+-]?\d[A-Z]{2}|WKST=[A-Z]{2}|UNTIL=\d{8}T\d{6}Z?))*",
    re.IGNORECASE | re.ASCII,
)
_SETTLED: Final = 2096


@cache
def _known() -> frozenset[str]:
    return frozenset(zone_names())


def find_zone(name: str) -> tzinfo | None:
    """By its name in the IANA database, by Windows' name, or by one that ends in either after a vendor's prefix."""
    name = name.strip().strip("/")
    if len(name) > MOST_LENGTH:
        return None
    parts = name.split("/")
    for start in range(max(len(parts) - 3, 0), len(parts)):
        wanted = "/".join(parts[start:])
        wanted = WINDOWS_TO_OLSON.get(wanted, wanted)
        if wanted in _known():
            return ZoneInfo(wanted)
    return None


def define_zone(lines: Sequence[str]) -> tzinfo | None:
    """What the lines between BEGIN and END of a VTIMEZONE define; None where that is not to be understood."""
    if len(lines) > MOST_LINES:
        return None
    located = next((line.partition(":")[2] for line in lines if line.upper().startswith("X-LIC-LOCATION:")), "")
    zone = find_zone(located) if located else None
    if zone is not None:
        return zone
    kept = [line for line in lines if len(line) <= MOST_LENGTH and _KEPT.fullmatch(line)]
    text = "\r\n".join(["BEGIN:VTIMEZONE", "TZID:x", *kept, "END:VTIMEZONE", ""])
    try:
        component = Timezone.from_ical(text)
        if not isinstance(component, Timezone):
            return None
        defined: tzinfo = component.to_tz(lookup_tzid=False)
        in_utc(datetime(2026, 1, 1), defined)  # noqa: DTZ001 - a local time, as those that will be asked for
    except Exception:  # noqa: BLE001 - whatever two libraries make of a stranger's rules, it is no zone
        return None
    return defined


def in_utc(local: datetime, zone: tzinfo) -> datetime:
    """A local time in UTC. Raises ValueError beyond the calendar."""
    # Rules are counted from their beginning: far in the future a year stands for all others like it.
    year = local.year if local.year < _SETTLED else _SETTLED + local.year % 4
    settled = local.replace(year=year) if not isinstance(zone, ZoneInfo) else local
    offset = settled.replace(tzinfo=zone).utcoffset()
    try:
        return (local - offset).replace(tzinfo=UTC) if offset is not None else local.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("must be a time between the years 1 and 9999") from None
