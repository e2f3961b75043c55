"""Time zones by their names, the same ones on every machine."""

from datetime import UTC, datetime, time, timedelta
from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo


@cache
def zone_names() -> tuple[str, ...]:
    """Every name in the IANA database, in order; machines differ in what they have beside it."""
    names = set(files("tzdata").joinpath("zones").read_text(encoding="utf-8").split()) - {"Factory"}
    return tuple(sorted(names))


def day_around(moment: datetime, zone: str) -> tuple[datetime, datetime]:
    """The first moment of that day in the zone, and that of the next: 23 or 25 hours later when the clocks change."""
    place = ZoneInfo(zone)
    day = moment.astimezone(place).date()
    first, second = (datetime.combine(one, time(), place).astimezone(UTC) for one in (day, day + timedelta(days=1)))
    return first, second
