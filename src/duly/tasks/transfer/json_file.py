"""Duly's own JSON: written around the documents of the database, read strictly."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import orjson

from duly.errors import Malformed
from duly.kit.clock import rfc3339
from duly.kit.strict_json import parse_json
from duly.tasks.transfer.rows import MOST_ROWS, ParsedFile, RawRow, too_many_rows, unreadable

FORMAT: Final = "duly.tasks"
VERSION: Final = 1
END: Final = b"]}\n"
# Each row with every field and twenty tags.
MOST_VALUES: Final = 40 * MOST_ROWS
_KNOWN = frozenset({"format", "version", "exported_at", "tasks"})


def begin(moment: datetime) -> bytes:
    """Everything before the first task."""
    return f'{{"format":"{FORMAT}","version":{VERSION},"exported_at":"{rfc3339(moment)}","tasks":['.encode()


def write(documents: list[str], *, first: bool) -> bytes:
    """Some tasks; `first` when nothing stands before them."""
    text = ",\n".join(documents)
    return text.encode() if first else f",\n{text}".encode()


def read(raw: bytes) -> ParsedFile:
    """Duly's own file, or a bare list of tasks. Raises `Invalid`."""
    try:
        document = parse_json(raw, MOST_VALUES)
    except Malformed as error:
        raise unreadable(error.message.replace("body", "file")) from None
    parsed = ParsedFile("json")
    parsed.take(_rows(_tasks(document)))
    return parsed


def _tasks(document: object) -> list[Any]:
    tasks = document
    if isinstance(document, dict):
        if document.get("format") != FORMAT or not document.keys() <= _KNOWN:
            raise unreadable(f'It must be a list of tasks, or an object whose "format" is "{FORMAT}".')
        if document.get("version") != VERSION:
            raise unreadable(f'Its "version" is not {VERSION}, the only one that is read here.')
        tasks = document.get("tasks")
    if not isinstance(tasks, list):
        raise unreadable("There is no list of tasks in it.")
    if len(tasks) > MOST_ROWS:
        raise too_many_rows()
    return tasks


def _rows(tasks: list[Any]) -> Iterator[RawRow]:
    for number, task in enumerate(tasks, 1):
        if isinstance(task, dict):
            yield RawRow(number, task)
        else:
            yield RawRow(number, {}, "must be an object with the fields of a task")


def parse_documents(documents: list[str]) -> list[dict[str, Any]]:
    """The database's documents as values."""
    return [orjson.loads(document) for document in documents]
