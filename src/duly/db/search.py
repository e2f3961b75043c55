"""Full text in both databases, over words that Duly itself has cut: an FTS5 index, or a `tsvector` with GIN.

Neither database reads a text here. A row's words are a text of blanks and words, and what a word is says the feature;
it holds letters, digits and characters beyond ASCII only, so that it needs no quoting in any of the two languages.
"""

from collections.abc import Callable, Sequence
from typing import Any

import orjson
from sqlalchemy import Text, TypeDecorator
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import NullType, TypeEngine

INDEX = "task_words_index"
"""SQLite's FTS5 table over `task_words`; revision 0003 makes it."""


def word_list() -> TypeEngine[str]:
    """A row's words: ` one two ` on SQLite, from which triggers fill the index; a `tsvector` on PostgreSQL."""
    return Text().with_variant(TSVECTOR(), "postgresql")


class _Words(TypeDecorator[Sequence[str]]):
    """Bound as the query that finds rows with a word beginning like each of these."""

    impl = Text
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        """FTS5's language, or that of `tsquery`."""
        if dialect.name == "postgresql":
            return lambda words: " & ".join(f"{word}:*" for word in words)
        return lambda words: " AND ".join(f'"{word}"*' for word in words)


class _Needles(TypeDecorator[Sequence[str]]):
    """Bound for a look at one row's words: a `tsquery`, or the beginnings of words as a JSON array."""

    impl = Text
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        """SQLite looks for each beginning with the blank before it."""
        if dialect.name == "postgresql":
            return lambda words: " & ".join(f"{word}:*" for word in words)
        return lambda words: orjson.dumps([f" {word}" for word in words]).decode()


class Texts(TypeDecorator[Sequence[str]]):
    """A list of texts, bound as one JSON array."""

    impl = Text
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], str]:
        """The same on both."""
        return lambda texts: orjson.dumps(texts).decode()


WORDS = _Words()
NEEDLES = _Needles()
TEXTS = Texts()


class found_words(GenericFunction[Any]):  # noqa: N801 - SQLAlchemy names a SQL function by its class
    """Whether the index has a row under all the words: `found_words(number, words, bound_as_WORDS)`."""

    type = NullType()  # a Boolean would be compared with 1 on SQLite, and no index seen
    inherit_cache = True
    name = "found_words"


@compiles(found_words, "sqlite")
def _sqlite_found(element: Any, compiler: Any, **kw: Any) -> str:
    number, _, query = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{number} IN (SELECT rowid FROM {INDEX} WHERE {INDEX} MATCH {query})"  # noqa: S608 - SQL of the compiler


@compiles(found_words, "postgresql")
def _postgres_found(element: Any, compiler: Any, **kw: Any) -> str:
    _, words, query = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{words} @@ CAST({query} AS tsquery)"


class has_words(GenericFunction[Any]):  # noqa: N801 - SQLAlchemy names a SQL function by its class
    """The same, asked of one row that is at hand, without the index: `has_words(words, bound_as_NEEDLES)`."""

    type = NullType()
    inherit_cache = True
    name = "has_words"


@compiles(has_words, "sqlite")
def _sqlite_has(element: Any, compiler: Any, **kw: Any) -> str:
    return _sqlite_holds(element, compiler, **kw)


@compiles(has_words, "postgresql")
def _postgres_has(element: Any, compiler: Any, **kw: Any) -> str:
    words, query = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({words} @@ CAST({query} AS tsquery)) IS TRUE"


class holds_all(GenericFunction[Any]):  # noqa: N801 - SQLAlchemy names a SQL function by its class
    """Whether a text holds each of these literally: `holds_all(text, bound_as_TEXTS)`."""

    type = NullType()
    inherit_cache = True
    name = "holds_all"


@compiles(holds_all, "sqlite")
def _sqlite_holds(element: Any, compiler: Any, **kw: Any) -> str:
    text, wanted = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"NOT EXISTS (SELECT 1 FROM json_each({wanted}) AS wanted WHERE instr({text}, wanted.value) = 0)"  # noqa: S608


@compiles(holds_all, "postgresql")
def _postgres_holds(element: Any, compiler: Any, **kw: Any) -> str:
    text, wanted = (compiler.process(clause, **kw) for clause in element.clauses)
    return (
        f"NOT EXISTS (SELECT 1 FROM json_array_elements_text(CAST({wanted} AS json)) AS wanted(value) "  # noqa: S608
        f"WHERE strpos({text}, wanted.value) = 0)"
    )


class json_rows(GenericFunction[Any]):  # noqa: N801 - SQLAlchemy names a SQL function by its class
    """The elements of a JSON array as rows: `json_rows(bound_as_TEXTS).table_valued("value")`."""

    inherit_cache = True
    name = "json_rows"


@compiles(json_rows, "sqlite")
def _sqlite_rows(element: Any, compiler: Any, **kw: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **kw)})"


@compiles(json_rows, "postgresql")
def _postgres_rows(element: Any, compiler: Any, **kw: Any) -> str:
    return f"json_array_elements(CAST({compiler.process(element.clauses, **kw)} AS json))"
