"""Lists of tasks: filters, search, order, and pages by offset or cursor."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson

from duly.cache.cache import Cache, Remembered
from duly.db.conflicts import WritesRefused
from duly.db.statements import Row
from duly.db.unit import Database
from duly.errors import StorageFull
from duly.identity.principals import Principal
from duly.kit.clock import now, parse_rfc3339, rfc3339
from duly.kit.paging import Cursors
from duly.tasks import list_queries, search
from duly.tasks.drafts import NO_DUE_DATE, title_key
from duly.tasks.list_queries import KEPT_KEYS, ListShape
from duly.tasks.search import State
from duly.tasks.tables import PRIORITIES
from duly.tasks.words import Wanted, read_search, tokens

SORTS = tuple(f"{sign}{key}" for key in list_queries.SORT_KEYS for sign in ("", "-"))
DEFAULT_SORT = "-created_at"
# Rows that are read on the event loop rather than in a thread.
QUICK_ROWS = 500
# Accounts of so many tasks are sorted by title in a millisecond or two; in larger ones that order is kept.
SORTED_ROWS = 2000


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """What a list asks for. `limit` is 1 to 100; of `offset` and `cursor` at most one is given.

    `search` is words in any order, each of which begins one in title, description or tags (see `words`).
    """

    completed: bool | None = None
    priority: str | None = None
    tag: str | None = None
    due_before: datetime | None = None
    due_after: datetime | None = None
    overdue: bool | None = None
    search: str | None = None
    trashed: bool = False
    sort: str = DEFAULT_SORT
    limit: int = 50
    offset: int = 0
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Documents in order, how many there are in all, and the cursor of the next page or None."""

    documents: Sequence[str]
    total: int
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class _Reading:
    """What follows from a filter, whoever asks: the shape, the words, the values, and one spelling for each filter.

    `name` is the filter's, `order` its and the order's.
    """

    shape: ListShape
    looked_for: Wanted
    values: dict[str, Any]
    name: str
    order: str


@dataclass(frozen=True, slots=True)
class _Asked:
    """A list that somebody asks for, as its statements need it."""

    wanted: TaskFilter
    reading: _Reading
    values: dict[str, Any]

    @property
    def shape(self) -> ListShape:
        return self.reading.shape


async def list_tasks(
    database: Database, cursors: Cursors, cache: Cache, actor: Principal, wanted: TaskFilter
) -> TaskPage:
    """One page. Raises `Malformed` (`BAD_CURSOR`) for a cursor of another user, filter or order."""
    reading = _read(wanted)
    asked = _Asked(wanted, reading, _values(reading, actor, wanted))
    # Binds a cursor to its user, its filter and its order.
    scope = f"tasks:{reading.order}:{actor.user_id}"
    if wanted.cursor is not None:
        last_key, last_id = cursors.open(scope, wanted.cursor)
        asked.values["last_key"] = parse_rfc3339(str(last_key)) if _is_time(asked.shape.sort) else last_key
        asked.values["last_id"] = last_id
    rows, total = await (_walk if reading.shape.is_walked else _filter)(database, cache, asked)
    next_cursor = None
    if len(rows) > wanted.limit:
        rows = rows[: wanted.limit]
        next_cursor = cursors.seal(scope, _place(asked.shape.sort, rows[-1][0]))
    return TaskPage([row[0] for row in rows], total, next_cursor)


async def _walk(database: Database, _: Cache, asked: _Asked) -> tuple[Sequence[Row], int]:
    """A page and its total in one statement."""
    rows = await _rows(database, asked, asked.shape)
    # Every row brings the counters along; a page without rows asks for them.
    if rows:
        return rows, _counted(asked.wanted, rows[0][1], rows[0][2])
    state = await search.find_state(database, asked.values["user_id"])
    return rows, _counted(asked.wanted, state.pending, state.completed)


async def _filter(database: Database, cache: Cache, asked: _Asked) -> tuple[Sequence[Row], int]:
    """The total first: it says how the page is best read."""
    user_id = asked.values["user_id"]
    state = await search.find_state(database, user_id)
    if asked.shape.words:
        asked = await _with_words(database, asked, state)
    if asked.shape.words:
        state = replace(state, indexed=state.position)
    total = await _total(database, cache, asked, state)
    if not total:
        return [], 0
    shape = _planned(asked, total, state)
    if not shape.narrow and shape.sort in KEPT_KEYS:
        is_kept = state.pending + state.completed > SORTED_ROWS and await _is_kept(database, asked, state)
        shape = replace(shape, kept=is_kept, narrow=not is_kept)
    rows = await _rows(database, asked, shape)
    if asked.wanted.cursor is None and not asked.wanted.offset and len(rows) <= asked.wanted.limit:
        return rows, len(rows)  # all of it: even if something has changed since it was counted
    return rows, total


async def _with_words(database: Database, asked: _Asked, state: State) -> _Asked:
    """The same list once the index knows all of it; or by ids, when nothing can be stored and reads go on."""
    user_id = asked.values["user_id"]
    try:
        await search.catch_up(database, user_id, state)
    except (StorageFull, WritesRefused):
        reading = asked.reading
        words, literals = asked.values["words"], reading.looked_for.literals
        ids = await search.find_without_storing(database, user_id, state, words, literals)
        shape = replace(reading.shape, words=False, literals=False, among=True)
        return replace(asked, reading=replace(reading, shape=shape), values={**asked.values, "ids": ids})
    return asked


async def _is_kept(database: Database, asked: _Asked, state: State) -> bool:
    """Whether the words have every task in its place. What is far behind is left to the upkeep, and sorted."""
    if state.position - state.indexed > search.UNNOTICED:
        return False
    try:
        is_whole = await search.catch_up(database, asked.values["user_id"], state)
    except (StorageFull, WritesRefused):
        return False
    return is_whole and await search.has_every_key(database, asked.values["user_id"])


async def _rows(database: Database, asked: _Asked, shape: ListShape) -> Sequence[Row]:
    # One row more than asked says whether there is a next page.
    limit, offset = asked.wanted.limit + 1, asked.wanted.offset
    return await database.fetch(list_queries.list_tasks(shape), **asked.values, limit=limit, offset=offset)


def _planned(asked: _Asked, total: int, state: State) -> ListShape:
    """The shape with how it is read: whatever reads fewer rows.

    A walk reads about `limit * size / total` rows until the page is full, or more when those that pass stand far back;
    a narrow page reads all `total`.
    """
    shape, wanted = asked.shape, asked.wanted
    size = state.pending + state.completed
    narrow = shape.trashed or shape.among or total * total < (wanted.limit + wanted.offset) * size
    read = total if narrow and shape.filters == 1 else size
    return replace(shape, narrow=narrow, slow=read > QUICK_ROWS)


def _place(sort: str, document: str) -> list[str | int | None]:
    """Where a task stands in an order: its sort key and its id, as they follow from what the client sees of it."""
    task = orjson.loads(document)
    key = task[sort]
    if sort == "due_date" and key is None:
        key = rfc3339(NO_DUE_DATE)
    elif sort == "priority":
        key = PRIORITIES.index(key) + 1
    elif sort == "title":
        key = title_key(key)
    return [key, task["id"]]


def _counted(wanted: TaskFilter, pending: int, completed: int) -> int:
    if wanted.completed is None:
        return pending + completed
    return completed if wanted.completed else pending


async def _total(database: Database, cache: Cache, asked: _Asked, state: State) -> int:
    """What the counters know, or what was counted when nothing had changed since."""
    if asked.shape.is_counted:
        return _counted(asked.wanted, state.pending, state.completed)
    slow = asked.shape.trashed or state.pending + state.completed > QUICK_ROWS
    statement = list_queries.count_tasks(asked.shape.counting(slow=slow))

    async def count() -> Remembered:
        row = await database.first(statement, **asked.values)
        if row is None:
            return Remembered(0)
        return Remembered(row[0], row[1].timestamp() if len(row) > 1 and row[1] is not None else None)

    if asked.shape.trashed:
        return int((await count()).value)  # emptying the trash is no change that would make a new state
    total: int = await cache.remember(asked.values["user_id"], state.position, asked.reading.name, count)
    return total


@lru_cache(maxsize=1024)
def _read(wanted: TaskFilter) -> _Reading:
    """The same few filters are asked for again and again."""
    looked_for = read_search(wanted.search or "")
    parts = (
        wanted.completed, wanted.priority, wanted.tag, wanted.due_before, wanted.due_after, wanted.overdue,
        wanted.search, wanted.trashed,
    )  # fmt: skip
    values = {
        "completed": wanted.completed,
        "priority": wanted.priority,
        "priority_key": None if wanted.priority is None else PRIORITIES.index(wanted.priority) + 1,
        "literals": looked_for.literals,
        "due_before": wanted.due_before,
        "due_after": wanted.due_after,
    }
    return _Reading(
        _shape(wanted, looked_for), looked_for, values, f"total:{_digest(parts)}", _digest((*parts, wanted.sort))
    )


def _shape(wanted: TaskFilter, looked_for: Wanted) -> ListShape:
    return ListShape(
        completed=wanted.completed is not None,
        priority=wanted.priority is not None,
        words=bool(looked_for.words) or wanted.tag is not None,
        literals=bool(looked_for.literals),
        due_before=wanted.due_before is not None,
        due_after=wanted.due_after is not None,
        overdue=wanted.overdue,
        trashed=wanted.trashed,
        sort=wanted.sort.removeprefix("-"),
        descending=wanted.sort.startswith("-"),
        after=wanted.cursor is not None,
        slow=wanted.offset > QUICK_ROWS,
    )


def _values(reading: _Reading, actor: Principal, wanted: TaskFilter) -> dict[str, Any]:
    values = {**reading.values, "user_id": actor.user_id}
    if reading.shape.words:
        values["words"] = tokens(actor.user_id, reading.looked_for.words, wanted.tag, trashed=wanted.trashed)
    if wanted.overdue is not None:
        values["now"] = now()
    return values


def _digest(parts: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()


def _is_time(sort: str) -> bool:
    return sort in {"created_at", "updated_at", "due_date"}
