"""A user's tasks as a file, made while it is sent."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Final, Literal
from weakref import WeakKeyDictionary

from duly.db.unit import Reader
from duly.identity.principals import Principal
from duly.kit.clock import parse_rfc3339
from duly.tasks import queries, transfer_queries
from duly.tasks.transfer import csv_file, ics_file, json_file

Format = Literal["json", "csv", "ics"]
MEDIA_TYPES: Final[dict[Format, str]] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "ics": "text/calendar; charset=utf-8",
}
# All that is in memory of an export whose client takes its time.
AT_ONCE: Final = 50
# So many pieces are made at once, for all exports together: hundreds of them must not stand in everybody's way.
_MAKERS: Final = 2
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
# PostgreSQL's driver takes the very first moment for minus infinity.
_Place = tuple[datetime, str]
_BEGIN: Final[_Place] = datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=UTC), ""


async def count_tasks(reader: Reader, actor: Principal) -> int:
    """How many there are outside the trash."""
    counts = await reader.first(queries.FIND_COUNTS, user_id=actor.user_id)
    return 0 if counts is None else int(counts[0]) + int(counts[1])


async def export_tasks(reader: Reader, actor: Principal, form: Format, *, moment: datetime) -> AsyncGenerator[bytes]:
    """The file in pieces, oldest task first, without the trash.

    Each piece is read by itself: a task that is changed meanwhile is there once, as it was before or after, and one
    that is created meanwhile may be missing.
    """
    yield {"json": json_file.begin(moment), "csv": csv_file.begin(), "ics": ics_file.BEGIN}[form]
    first = True
    turn = _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_MAKERS))
    last: _Place | None = _BEGIN
    while last is not None:
        async with turn:
            documents, last = await _read(reader, actor, last)
            piece = await asyncio.to_thread(_write, form, documents, first=first) if documents else b""
        first = False
        del documents
        if piece:
            yield piece
        del piece
    end = {"json": json_file.END, "csv": b"", "ics": ics_file.END}[form]
    if end:
        yield end


def _write(form: Format, documents: list[str], *, first: bool) -> bytes:
    if form == "json":
        return json_file.write(documents, first=first)
    tasks = json_file.parse_documents(documents)
    return csv_file.write(tasks) if form == "csv" else ics_file.write(tasks)


async def _read(reader: Reader, actor: Principal, last: _Place) -> tuple[list[str], _Place | None]:
    """The tasks after a place, and the place after them; None at the end."""
    rows = await reader.fetch(
        transfer_queries.LIST_DOCUMENTS, user_id=actor.user_id, last_created_at=last[0], last_id=last[1], limit=AT_ONCE
    )
    documents = [row[0] for row in rows]
    if len(rows) < AT_ONCE:
        return documents, None
    task = json_file.parse_documents(documents[-1:])[0]
    return documents, (parse_rfc3339(task["created_at"]), task["id"])
