"""Task statistics of v1 on the wire."""

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, WithJsonSchema

from duly.contracts.v1.models import Input, Output
from duly.kit.zones import zone_names
from duly.tasks.stats import DEFAULT_ZONE

_EXAMPLE: dict[str, Any] = {
    "total": 7, "pending": 4, "completed": 3, "overdue": 1, "due_today": 2,
    "by_priority": {"low": 1, "medium": 4, "high": 1, "urgent": 1},
}  # fmt: skip


def _known(name: str) -> str:
    if name not in zone_names():
        raise ValueError("must be a name of the IANA time zone database, such as Europe/Berlin")
    return name


TimeZone = Annotated[
    str,
    AfterValidator(_known),
    WithJsonSchema(
        {"type": "string", "enum": list(zone_names()), "description": "Decides when today begins and ends."}
    ),
]


class TaskStatsQuery(Input):
    """Whose day it is that tasks are due in."""

    time_zone: TimeZone = DEFAULT_ZONE


class PriorityCounts(Output):
    """How many tasks of each priority there are, pending and completed."""

    low: int
    medium: int
    high: int
    urgent: int


class TaskStatsResponse(Output):
    """Counts of one moment, without the trash.

    `overdue` and `due_today` count pending tasks; one whose due date has passed today is in both. `by_priority` adds up
    to `total`.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    total: int
    pending: int
    completed: int
    overdue: int
    due_today: int
    by_priority: PriorityCounts
