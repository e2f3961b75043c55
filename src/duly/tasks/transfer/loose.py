"""Texts and times of other programs, read with patience for their form."""

import re
from datetime import UTC, date, datetime, time
from typing import Final

from duly.tasks.tables import TITLE_LENGTH
from duly.tasks.transfer.zones import find_zone

MOST_LENGTH: Final = 60
UNTITLED: Final = "Untitled"
_BREAKS = re.compile("[\t\n\x0b\x0c\r\x85\u2028\u2029 ]+")
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DAY_WORDS = ("%d %b %Y", "%d %B %Y", "%b %d %Y", "%B %d %Y")
_CLOCKS = ("", " %H:%M", " %I:%M %p", " %I:%M%p", " %I%p")


def one_line(text: str) -> str:
    """Line breaks, tabs and runs of blanks as one blank; none at the ends."""
    return _BREAKS.sub(" ", text).strip()


def title_of(text: str, description: str | None) -> str:
    """A title in one line; RFC 5545 and others have tasks without one, which go by the first line below it."""
    return one_line(text) or one_line((description or "").strip().partition("\n")[0])[:TITLE_LENGTH].strip() or UNTITLED


def day_of(day: date) -> datetime:
    """A day without a time is its first moment in UTC, so that it is written with the same date."""
    return datetime.combine(day, time(), UTC)


def read_loose_moment(text: str, zone: str = "", *, is_day: bool = False) -> datetime:
    """ISO 8601 in any form, or English months with a year; without an offset in `zone`, else in UTC.

    With `is_day` only the date counts, as it is in `zone`. Raises ValueError.
    """
    if len(text) > MOST_LENGTH:
        raise ValueError("too long for a time")
    if _DAY.fullmatch(text):
        return day_of(date.fromisoformat(text))
    local = find_zone(zone) or UTC
    moment = _read(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=local)
    try:
        return day_of(moment.astimezone(local).date()) if is_day else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("no time of this calendar") from None


def _read(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    words = one_line(text.replace(",", " ").replace(" at ", " ").replace(" @ ", " "))
    for day in _DAY_WORDS:
        for clock in _CLOCKS:
            try:
                found = datetime.strptime(words, day + clock)  # noqa: DTZ007 - whoever asked knows the zone
            except ValueError:
                continue
            return found if clock else found.replace(tzinfo=UTC)
    raise ValueError("a time in words")
