"""What a caller asks a task to be, before the database has it."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from duly.kit.unset import UNSET, Unset
from duly.tasks.tables import TITLE_LENGTH

# Where a task without a due date stands when tasks are sorted by it: after all others.
NO_DUE_DATE = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class TaskDraft:
    """A new task; texts are trimmed and within their limits, `due_date` is aware."""

    title: str
    description: str | None = None
    completed: bool = False
    priority: str = "medium"
    due_date: datetime | None = None
    tags: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class TaskPatch:
    """A merge update: a field that is UNSET stays as it is."""

    title: str | Unset = UNSET
    description: str | Unset | None = UNSET
    completed: bool | Unset = UNSET
    priority: str | Unset = UNSET
    due_date: datetime | Unset | None = UNSET
    tags: Sequence[str] | Unset = UNSET

    def columns(self) -> dict[str, Any]:
        """The columns to set, with those that follow from them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return with_keys({name: value for name, value in values.items() if value is not UNSET})


def with_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Add what lists sort by to the columns that it follows from."""
    if "title" in values:
        values["title_key"] = title_key(values["title"])
    if "due_date" in values:
        values["due_key"] = values["due_date"] or NO_DUE_DATE
    if "tags" in values:
        values["tags"] = list(dict.fromkeys(values["tags"]))
    return values


def title_key(title: str) -> str:
    """Upper and lower case sort together, whatever the database's locale."""
    return unicodedata.normalize("NFKC", title).casefold()[:TITLE_LENGTH]
