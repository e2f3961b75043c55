"""The columns of the CSV files that Todoist and TickTick export, and what they mean to Duly."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from duly.tasks.transfer.loose import one_line, read_loose_moment, title_of
from duly.tasks.transfer.rows import ParsedFile, RawRow

Columns = Mapping[str, int]
Records = Iterator[tuple[int, Sequence[str]]]

# Todoist: 1 is the most urgent, 4 what nobody set.
_TODOIST_PRIORITIES = {"1": "urgent", "2": "high", "3": "medium", "4": "low"}
_LABEL = re.compile(r"(?:(?<=\s)|^)@([^\s@]+)")
# TickTick: 0 is what nobody set.
_TICKTICK_PRIORITIES = {"1": "low", "3": "medium", "5": "high"}
# Completed, archived, and given up: each of them is off the list of what is to do.
_TICKTICK_DONE = frozenset({"1", "2", "-1"})


@dataclass(frozen=True, slots=True)
class Program:
    """One program's file: `rows` turns its records into raw rows and counts on the file what is no task."""

    name: str
    needs: frozenset[str]
    rows: Callable[[Columns, Records, ParsedFile], Iterator[RawRow]]


def recognise(columns: Columns) -> Program | None:
    """Whose header this is; None for Duly's own, and for what is no header."""
    return next((program for program in PROGRAMS if program.needs <= columns.keys()), None)


class _Cells:
    """The cells of one record by name; a column that is not there is an empty one."""

    def __init__(self, columns: Columns, cells: Sequence[str]) -> None:
        self._columns = columns
        self._cells = cells

    def __getitem__(self, name: str) -> str:
        index = self._columns.get(name, -1)
        return self._cells[index].strip() if 0 <= index < len(self._cells) else ""


def _read_todoist(columns: Columns, records: Records, parsed: ParsedFile) -> Iterator[RawRow]:
    for number, record in records:
        cells = _Cells(columns, record)
        if cells["type"].lower() != "task":
            parsed.ignored += 1
            continue
        title, labels = _without_labels(cells["content"])
        values: dict[str, object] = {
            "title": title_of(title, cells["description"]),
            "description": cells["description"] or None,
            "priority": _TODOIST_PRIORITIES.get(cells["priority"], "medium"),
            "tags": labels,
        }
        _add_due(values, cells["date"], cells["timezone"])
        yield RawRow(number, values)


def _without_labels(content: str) -> tuple[str, list[str]]:
    text = one_line(content.removeprefix("* "))
    title = one_line(_LABEL.sub("", text))
    return (title, _LABEL.findall(text)) if title else (text, [])


def _add_due(values: dict[str, object], date: str, zone: str) -> None:
    """A date in words, such as "every day", is no moment: it goes into the description, so that it is not lost."""
    try:
        values["due_date"] = read_loose_moment(date, zone) if date else None
    except ValueError:
        said = f"Date: {date}"
        values["description"] = f"{values['description']}\n\n{said}" if values["description"] else said


def _read_ticktick(columns: Columns, records: Records, parsed: ParsedFile) -> Iterator[RawRow]:
    for number, record in records:
        cells = _Cells(columns, record)
        if cells["kind"].upper() == "NOTE":
            parsed.ignored += 1
            continue
        completed = cells["status"] in _TICKTICK_DONE
        content = cells["content"].replace("\r\n", "\n").replace("\r", "\n") or None
        values: dict[str, object] = {
            "id": f"ticktick:{cells['taskid']}" if cells["taskid"] else None,
            "title": title_of(cells["title"], content),
            "description": content,
            "completed": completed,
            "priority": _TICKTICK_PRIORITIES.get(cells["priority"], "medium"),
            "tags": [tag for tag in (one_line(part) for part in cells["tags"].split(",")) if tag],
        }
        times = {"due_date": cells["due date"] or cells["start date"], "created_at": cells["created time"],
                 "completed_at": cells["completed time"] if completed else ""}  # fmt: skip
        fault = None
        for name, text in times.items():
            is_day = name == "due_date" and cells["is all day"].lower() == "true"
            try:
                values[name] = read_loose_moment(text, cells["timezone"], is_day=is_day) if text else None
            except ValueError:
                fault = f"the time in {name} cannot be read"
        yield RawRow(number, values, fault)


PROGRAMS = (
    Program("todoist", frozenset({"type", "content", "priority"}), _read_todoist),
    Program("ticktick", frozenset({"title", "list name", "status"}), _read_ticktick),
)
