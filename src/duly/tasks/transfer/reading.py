"""Which kind of file this is, and everything that it holds, in threads of its own."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Final

from duly.tasks.transfer import csv_file, ics_file, json_file
from duly.tasks.transfer.rows import MOST_ROWS, ParsedFile, too_many_rows, unreadable

_BOM: Final = b"\xef\xbb\xbf"
_CALENDAR = re.compile(rb"BEGIN:V(?:CALENDAR|TODO)[ \t]*\r?\n", re.IGNORECASE)
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
# Each task is an object with a list of tags, and some stand around them.
_MOST_BRACKETS: Final = 2 * MOST_ROWS + 100
# Few, because each may hold a whole file in memory.
_threads = ThreadPoolExecutor(2, thread_name_prefix="import")


async def read_file(content: bytes, name: str) -> ParsedFile:
    """The tasks of a file; `name` is the client's and only helps to say what is wrong.

    Raises `Invalid` for what is no such file, is not UTF-8, or has more than 10,000 tasks. A single wrong row is a
    fault of the result.
    """
    return await asyncio.get_running_loop().run_in_executor(_threads, parse_file, content, name)


def parse_file(content: bytes, name: str) -> ParsedFile:
    """As `read_file`, here and now."""
    content = content.removeprefix(_BOM)
    if not content.strip():
        raise unreadable("It is empty.")
    start = content[:1000].lstrip()
    if _CALENDAR.match(start):
        # Some programs give a single task without the calendar around it.
        return ics_file.read(_decode(content))
    if start[:1] in {b"{", b"["}:
        _check_brackets(content)
        return json_file.read(content)
    kind = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if kind == ".json":
        raise unreadable("Its name ends in .json, and it does not begin with { or [.")
    if kind in {".ics", ".ical", ".ifb", ".icalendar"}:
        raise unreadable("Its name is that of a calendar, and it does not begin with BEGIN:VCALENDAR.")
    return csv_file.read(_decode(content))


def _decode(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise unreadable(f"Line {line:,} is not UTF-8. Save it as UTF-8 text.") from None


def _check_brackets(content: bytes) -> None:
    """Millions of empty objects fit into a file, and cost twenty times its size once they are read."""
    if content.count(b"{") + content.count(b"[") <= _MOST_BRACKETS:
        return
    outside = _STRINGS.sub(b"", content)
    if outside.count(b"{") + outside.count(b"[") > _MOST_BRACKETS:
        raise too_many_rows()
