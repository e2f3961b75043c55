"""CSV: Duly's own columns, and whichever other program's a header row names."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from duly.tasks.transfer import programs
from duly.tasks.transfer.cells import join_tags, read_cell, split_tags, write_cell
from duly.tasks.transfer.rows import FIELDS, ParsedFile, RawRow, unreadable

# A legend stands before the header of some programs.
_PREAMBLE: Final = 20
_BARE = frozenset({"completed", "completed_at", "priority", "due_date", "created_at"})
# Empty, these say nothing rather than "none": a task always has them.
_NEVER_EMPTY = frozenset({"completed", "priority", "created_at"})
_CLEARED: dict[str, object] = {"tags": []}
_REFUSED = re.compile("[\x00\ud800-\udfff]")

_Record = tuple[int, Sequence[str]]


def begin() -> bytes:
    """The header row."""
    return _lines([FIELDS])


def write(tasks: list[dict[str, Any]]) -> bytes:
    """One row for each task (RFC 4180)."""
    return _lines([[_cell(name, task[name]) for name in FIELDS] for task in tasks])


def _lines(rows: Sequence[Sequence[str]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue().encode()


def _cell(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if name == "tags":
        return write_cell(join_tags(value))
    return write_cell(None if value is None else str(value))


def read(text: str) -> ParsedFile:
    """Comma, semicolon or tab between cells, whatever line ends. Raises `Invalid`."""
    if _REFUSED.search(text):
        raise unreadable("It has a NUL character: this is no text file.")
    for delimiter in ",;\t":
        records = enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        try:
            for _, cells in islice(records, _PREAMBLE):
                parsed = _read_below(cells, records)
                if parsed is not None:
                    return parsed
        except csv.Error as error:
            if delimiter == "\t":
                raise unreadable(f"It is no CSV: {error}.") from None
    raise unreadable(
        f"There is no header row in it: a row with the names {', '.join(FIELDS)}, of which title is needed, or the "
        "header of a CSV that Todoist or TickTick exported."
    )


def _read_below(header: Sequence[str], records: Iterator[_Record]) -> ParsedFile | None:
    """Everything under a header; None when these cells are none."""
    names = [name.strip().lower() for name in header]
    columns = {name: index for index, name in enumerate(names) if name}
    program = programs.recognise(columns)
    if program is None and "title" not in columns:
        return None
    parsed = ParsedFile(program.name if program else "csv")
    if program is None:
        _check_header(names)
        raws = _own_rows(names, _filled(records))
    else:
        raws = program.rows(columns, _filled(records), parsed)
    try:
        parsed.take(raws)
    except csv.Error as error:
        raise unreadable(f"It is no CSV below row {len(parsed.rows) + parsed.failed}: {error}.") from None
    return parsed


def _check_header(names: Sequence[str]) -> None:
    for place, name in enumerate(names, 1):
        if name not in FIELDS:
            raise unreadable(f"Column {place} of the header is none of {', '.join(FIELDS)}.")
        if names.index(name) != place - 1:
            raise unreadable(f"Column {place} of the header has a name that an earlier one has.")


def _filled(records: Iterator[_Record]) -> Iterator[_Record]:
    """Without empty lines, counted from 1."""
    return enumerate((cells for _, cells in records if any(cells)), 1)


def _own_rows(names: Sequence[str], records: Iterator[_Record]) -> Iterator[RawRow]:
    for number, cells in records:
        if len(cells) != len(names):
            yield RawRow(number, {}, f"must have {len(names)} cells and has {len(cells)}")
        else:
            yield RawRow(number, dict(_values(names, cells)))


def _values(names: Sequence[str], cells: Sequence[str]) -> Iterator[tuple[str, object]]:
    for name, cell in zip(names, cells, strict=True):
        value = read_cell(cell.strip() if name in _BARE else cell)
        if value is None and name in _NEVER_EMPTY:
            continue
        if value is None:
            yield name, _CLEARED.get(name, "" if name == "title" else None)
        elif name == "tags":
            yield name, split_tags(value)
        elif name == "completed":
            # Spreadsheets write them in capitals.
            yield name, {"true": True, "false": False}.get(value.lower(), value)
        else:
            yield name, value
