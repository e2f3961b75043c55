"""The SQL of task lists: pages that walk the index of their order, pages of what a narrow filter finds, and counts.

A filter that many tasks pass is tried while walking in the order of the list, until the page is full. One that few pass
is answered by its own index, and what it finds is sorted. Which of the two a page does is said by its shape and not
left to the databases, which know neither the user's tasks nor, in a prepared statement, the values.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
)

from duly.db.functions import is_among
from duly.db.search import NEEDLES, TEXTS, WORDS, found_words, has_words, holds_all
from duly.db.statements import Statement
from duly.db.types import Instant, document
from duly.tasks.queries import DOCUMENT, counters, now, tasks
from duly.tasks.search_tables import TaskWords

words = TaskWords.__table__  # type: ignore[attr-defined]
user: BindParameter[Any] = bindparam("user_id")

SORT_KEYS: dict[str, ColumnElement[Any]] = {
    "created_at": tasks.c.created_at,
    "updated_at": tasks.c.updated_at,
    "due_date": tasks.c.due_key,
    "priority": tasks.c.priority_key,
    "title": tasks.c.title_key,
}
# Orders that have no index of the tasks: it would cost every write more than it saves. They are walked along the words,
# once those have caught up, and in an account that is not large sorted.
KEPT_KEYS: dict[str, ColumnElement[Any]] = {"updated_at": words.c.updated_at, "title": words.c.title_key}


@dataclass(frozen=True, slots=True)
class ListShape:
    """Which conditions a list has, its order, and how it is read; each shape is one compiled statement.

    `words` are those of the index: of a search, or of a tag; `among` stands in for them where the tasks that have them
    were found already. `kept` walks along the words' own order. `slow` is for pages that read many rows.
    """

    completed: bool = False
    priority: bool = False
    words: bool = False
    among: bool = False
    literals: bool = False
    due_before: bool = False
    due_after: bool = False
    overdue: bool | None = None
    trashed: bool = False
    sort: str = "created_at"
    descending: bool = True
    after: bool = False
    narrow: bool = False
    kept: bool = False
    slow: bool = False

    @property
    def key(self) -> ColumnElement[Any]:
        """What the list is sorted by, and behind it by the id."""
        return KEPT_KEYS[self.sort] if self.kept else SORT_KEYS[self.sort]

    @property
    def id(self) -> ColumnElement[Any]:
        """The task's id, where the order has it."""
        found: ColumnElement[Any] = words.c.task_id if self.kept else tasks.c.id
        return found

    @property
    def filters(self) -> int:
        """How many conditions there are."""
        due = self.due_before or self.due_after or self.overdue is not None
        return self.completed + self.priority + self.words + self.among + due

    @property
    def is_counted(self) -> bool:
        """Whether the user's counters know the total, so that nothing has to be counted."""
        return not self.trashed and self.filters == self.completed

    @property
    def is_walked(self) -> bool:
        """Whether an index of the tasks holds just these in just this order."""
        return self.is_counted and self.sort not in KEPT_KEYS and (not self.completed or self.sort == "created_at")

    def counting(self, *, slow: bool) -> "ListShape":
        """All pages of a list, in every order, share one count."""
        return replace(self, sort="created_at", descending=True, after=False, narrow=True, slow=slow)


def _filters(shape: ListShape) -> list[tuple[str | None, ColumnElement[bool]]]:
    """Each condition, and the order whose index answers it too."""
    due, status = tasks.c.due_key, tasks.c.completed
    found: list[tuple[str | None, ColumnElement[bool]]] = []
    if shape.completed:
        found.append(("created_at", status == bindparam("completed", type_=status.type)))
    if shape.among:
        found.append((None, is_among(tasks.c.id, bindparam("ids", type_=document()))))
    if shape.priority:
        found.append(("priority", tasks.c.priority_key == bindparam("priority_key", type_=Integer())))
    if shape.due_before:
        found.append(("due_date", due < bindparam("due_before", type_=Instant())))
    if shape.due_after:
        found.append(("due_date", due > bindparam("due_after", type_=Instant())))
        found.append((None, tasks.c.due_date.is_not(None)))
    if shape.overdue:
        found += [("due_date", due < now), ("created_at", not_(status))]
    elif shape.overdue is not None:
        found.append((None, not_(and_(due < now, not_(status)))))
    return found


def _conditions(shape: ListShape) -> list[ColumnElement[bool]]:
    """What a row of `tasks` must be, but for its words."""
    is_led = shape.narrow and not shape.trashed
    filters = _filters(shape)
    led = [condition for sort, condition in filters if is_led or sort == shape.sort]
    tried = [condition for sort, condition in filters if not is_led and sort != shape.sort]
    if shape.kept:
        tried.append(tasks.c.user_id == user)  # it is, with such words
    kept = tasks.c.deleted_at.is_not(None) if shape.trashed else tasks.c.deleted_at.is_(None)
    # Inside of a CASE no index is seen, and PostgreSQL takes it for true of half the rows: nothing leads off the walk.
    return [kept, *led, *([case((and_(*tried), true()), else_=false())] if tried else [])]


def _place(shape: ListShape) -> list[ColumnElement[bool]]:
    """Behind the last row of the page before."""
    if not shape.after:
        return []
    key, task_id = shape.key, shape.id
    last_key = bindparam("last_key", type_=key.type)
    last_id = bindparam("last_id", type_=task_id.type)
    # The first condition bounds the index scan; the second settles rows with an equal key.
    if shape.descending:
        return [key <= last_key, or_(key < last_key, task_id < last_id)]
    return [key >= last_key, or_(key > last_key, task_id > last_id)]


def _order(key: ColumnElement[Any], task_id: ColumnElement[str], descending: bool) -> list[ColumnElement[Any]]:
    return [key.desc(), task_id.desc()] if descending else [key.asc(), task_id.asc()]


# As an expression, lest a plan go through all of a user's words instead of those that were found.
_words_owner = words.c.user_id.concat(literal_column("''"))


def indexed_words(*, literals: bool) -> list[ColumnElement[bool]]:
    """What a row of `words` must be to have what is looked for."""
    found = [found_words(words.c.number, words.c.words, bindparam("words", type_=WORDS)), _words_owner == user]
    if literals:
        found.append(holds_all(words.c.folded, bindparam("literals", type_=TEXTS)))
    return found


def _words_of_row(shape: ListShape) -> ColumnElement[bool]:
    """A look at one task's words. As a value of its own it is asked row by row, and never made a join."""
    said: ColumnElement[Any] = has_words(words.c.words, bindparam("words", type_=NEEDLES))
    if shape.literals:
        said = and_(said, holds_all(words.c.folded, bindparam("literals", type_=TEXTS)))
    return select(said).where(words.c.task_id == tasks.c.id).correlate(tasks).scalar_subquery()


def _found(shape: ListShape, *columns: ColumnElement[Any]) -> Select[Any]:
    """Columns of all tasks that a narrow filter finds, by the filter's own index."""
    if shape.words:
        matches = select(words.c.task_id, words.c.user_id).where(*indexed_words(literals=shape.literals)).cte("matches")
        matches = matches.prefix_with("MATERIALIZED")
        same = and_(tasks.c.id == matches.c.task_id, tasks.c.user_id == matches.c.user_id)
        return select(*columns).select_from(matches.join(tasks, same)).where(*_conditions(shape))
    return select(*columns).where(tasks.c.user_id == user, *_conditions(shape))


def _page_of_few(shape: ListShape) -> Select[Any]:
    found = _found(shape, tasks.c.id.label("id"), shape.key.label("place")).where(*_place(shape)).cte("found")
    found = found.prefix_with("MATERIALIZED")
    page = (
        select(found.c.id, found.c.place)
        .order_by(*_order(found.c.place, found.c.id, shape.descending))
        .limit(bindparam("limit"))
        .offset(bindparam("offset"))
        .cte("page")
    )
    # Documents are made for the rows of the page alone.
    return (
        select(DOCUMENT)
        .select_from(page.join(tasks, and_(tasks.c.id == page.c.id, tasks.c.user_id == user)))
        .order_by(*_order(page.c.place, page.c.id, shape.descending))
    )


def _walked_page(shape: ListShape) -> Select[Any]:
    columns: list[ColumnElement[Any]] = [DOCUMENT]
    if shape.is_walked:
        columns += [_counter(counters.c.pending), _counter(counters.c.completed)]
    statement = select(*columns).where(*_conditions(shape), *_place(shape))
    if shape.kept:
        statement = statement.select_from(words.join(tasks, tasks.c.id == words.c.task_id))
        statement = statement.where(words.c.user_id == user)
    else:
        statement = statement.where(tasks.c.user_id == user)
    if shape.words:
        statement = statement.where(_words_of_row(shape))
    order = _order(shape.key, shape.id, shape.descending)
    return statement.order_by(*order).limit(bindparam("limit")).offset(bindparam("offset"))


@lru_cache(maxsize=1024)
def list_tasks(shape: ListShape) -> Statement:
    """One page: of each row the document and, where the shape is walked, the user's counters."""
    return Statement(_page_of_few(shape) if shape.narrow else _walked_page(shape), slow=shape.slow)


def _counter(column: ColumnElement[int]) -> ColumnElement[int]:
    # Asked with the page, so that a total costs no round trip.
    return select(column).where(counters.c.user_id == user).scalar_subquery()


@lru_cache(maxsize=512)
def count_tasks(shape: ListShape) -> Statement:
    """How many rows a list has in all, and the moment at which a task becomes overdue next, where that matters."""
    columns: list[ColumnElement[Any]] = [func.count()]
    if shape.overdue is not None:
        columns.append(_next_overdue())
    if shape.words and shape.filters == 1:
        # The words themselves say in whose trash or list a task is.
        statement = select(*columns).select_from(words).where(*indexed_words(literals=shape.literals))
    else:
        statement = _found(shape, *columns)
        if not shape.words:
            statement = statement.select_from(tasks)
    return Statement(statement, slow=shape.slow)


def _next_overdue() -> ColumnElement[Any]:
    other = tasks.alias("later")
    return (
        select(other.c.due_key)
        .where(
            other.c.user_id == user, other.c.deleted_at.is_(None), not_(other.c.completed), other.c.due_key >= now
        )
        .order_by(other.c.due_key)
        .limit(literal_column("1"))
        .scalar_subquery()
    )  # fmt: skip
