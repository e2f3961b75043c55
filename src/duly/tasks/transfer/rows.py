"""What every file is read into: rows of raw values, then rows that keep the limits of a task."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from duly.errors import FieldFault, Invalid
from duly.kit.texts import clean_line, clean_text
from duly.tasks.tables import DESCRIPTION_LENGTH, PRIORITIES, TITLE_LENGTH

FIELDS: Final = (
    "id", "user_id", "title", "description", "completed", "completed_at", "priority", "due_date", "tags", "version",
    "created_at", "updated_at",
)  # fmt: skip
READ_OVER: Final = frozenset({"user_id", "version", "updated_at"})
MOST_ROWS: Final = 10_000
MOST_TAGS: Final = 20
TAG_LENGTH: Final = 50
ID_LENGTH: Final = 1000
MOST_NAME: Final = 100

_CLOCK = r"([01]\d|2[0-3]):[0-5]\d"
_MOMENT = re.compile(rf"\d{{4}}-\d\d-\d\d[Tt ]{_CLOCK}:[0-5]\d(\.\d{{1,9}})?([Zz]|[+-]{_CLOCK})", re.ASCII)
# PostgreSQL's driver takes the first and the last moment of Python's calendar for minus and plus infinity.
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RowFault:
    """One wrong field of one row; rows count from 1, whatever stands before the first."""

    row: int
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class RawRow:
    """One task as a file has it: texts, and values that a format already understands. `fault` says it has none."""

    number: int
    values: Mapping[str, object]
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task within the limits; a field that the file does not have is absent from `values`."""

    number: int
    file_id: str | None
    values: Mapping[str, Any]


@dataclass(slots=True)
class ParsedFile:
    """All of a file. `ignored` counts what is no task: appointments, notes, headings."""

    format: str
    rows: list[TaskRow] = field(default_factory=list)
    faults: list[RowFault] = field(default_factory=list)
    failed: int = 0
    ignored: int = 0

    def take(self, raws: Iterable[RawRow]) -> None:
        """Check each row. Raises `Invalid` beyond 10,000."""
        for count, raw in enumerate(raws, 1):
            if count > MOST_ROWS:
                raise too_many_rows()
            row, faults = check_row(raw)
            if row is None:
                self.failed += 1
                self.faults += faults
            else:
                self.rows.append(row)


def unreadable(message: str) -> Invalid:
    """The refusal of a whole file."""
    fault = FieldFault("file", message, "unreadable_file")
    return Invalid("The file cannot be read. See `errors` for why.", code="UNREADABLE_FILE", faults=[fault])


def too_many_rows() -> Invalid:
    """The refusal of a file with more tasks than are taken at once."""
    fault = FieldFault("file", f"It has more than {MOST_ROWS:,} tasks. Split it.", "too_many_rows")
    return Invalid("The file has too many tasks for one import.", code="TOO_MANY_ROWS", faults=[fault])


def check_row(raw: RawRow) -> tuple[TaskRow | None, list[RowFault]]:
    """The row within the limits of a task, or everything that is wrong with it."""
    if raw.fault is not None:
        return None, [RowFault(raw.number, "", raw.fault)]
    values: dict[str, Any] = {}
    faults: list[RowFault] = []
    for name, value in raw.values.items():
        if name in READ_OVER:
            continue
        check = _CHECKS.get(name)
        if check is None:
            faults.append(RowFault(raw.number, _shown(name), "is no field of a task"))
            continue
        try:
            values[name] = check(value)
        except ValueError as error:
            faults.append(RowFault(raw.number, name, str(error)))
    if faults:
        return None, faults
    return TaskRow(raw.number, values.pop("id", None), values), []


def read_moment(value: object) -> datetime:
    """An RFC 3339 time with an offset, or a time that is aware already, in UTC. Raises ValueError."""
    moment = value
    if isinstance(value, str):
        if not _MOMENT.fullmatch(value):
            raise ValueError("must be an RFC 3339 time such as 2026-12-31T09:00:00Z")
        try:
            moment = datetime.fromisoformat(value.upper())
        except ValueError:
            raise ValueError("must be a time that exists, such as 2026-12-31T09:00:00Z") from None
    if not isinstance(moment, datetime):
        raise ValueError("must be a time, as a text such as 2026-12-31T09:00:00Z")
    try:
        moment = moment.astimezone(UTC)
        if _FIRST < moment < _LAST:
            return moment
    except OverflowError:
        pass
    raise ValueError("must be a time between the years 1 and 9999, and not their very first or last moment")


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name[:MOST_NAME])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value


def _line(value: object, most: int) -> str:
    line = clean_line(_text(value))
    if not 1 <= len(line) <= most:
        raise ValueError(f"must have 1 to {most} characters and has {len(line):,}")
    return line


def _id(value: object) -> str | None:
    return None if value is None or value == "" else _line(value, ID_LENGTH)


def _title(value: object) -> str:
    return _line(value, TITLE_LENGTH)


def _description(value: object) -> str | None:
    if value is None:
        return None
    text = clean_text(_text(value))
    if len(text) > DESCRIPTION_LENGTH:
        raise ValueError(f"must have at most {DESCRIPTION_LENGTH:,} characters and has {len(text):,}")
    return text


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _priority(value: object) -> str:
    if value not in PRIORITIES:
        raise ValueError(f"must be one of {', '.join(PRIORITIES)}")
    return str(value)


def _moment_or_none(value: object) -> datetime | None:
    return None if value is None else read_moment(value)


def _tags(value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError("must be a list of texts")
    if len(value) > MOST_TAGS:
        raise ValueError(f"must be at most {MOST_TAGS} tags and are {len(value):,}")
    return list(dict.fromkeys(_line(tag, TAG_LENGTH) for tag in value))


_CHECKS: dict[str, Callable[[object], Any]] = {
    "id": _id,
    "title": _title,
    "description": _description,
    "completed": _flag,
    "completed_at": _moment_or_none,
    "priority": _priority,
    "due_date": _moment_or_none,
    "tags": _tags,
    "created_at": _moment_or_none,
}
