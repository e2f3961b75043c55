"""SQL expressions whose spelling differs by dialect."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ARRAY, Boolean, ColumnElement, Integer, String, TableValuedAlias, Text, bindparam, func, literal
from sqlalchemy import column as sql_column
from sqlalchemy.dialects.postgresql import insert as insert_on_conflict
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import JSON, TypeEngine

from duly.db.types import Instant

# Its ON CONFLICT is spelt alike on both dialects, and both compilers read it.
__all__ = [
    "array_of", "by_dialect", "hold_name", "insert_on_conflict", "is_among", "json_document", "named", "plain_text",
    "rows_of",
]  # fmt: skip

_INSTANT_FORMAT = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'


class by_dialect(ColumnElement[Any]):  # noqa: N801 - as the others here
    """SQL that was written out for each dialect: `by_dialect({"sqlite": …, "postgresql": …})`."""

    inherit_cache = False

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts


@compiles(by_dialect)
def _by_dialect(element: Any, compiler: Any, **_: Any) -> str:
    return str(element.texts[compiler.dialect.name])


class json_document(GenericFunction[str]):  # noqa: N801 - SQLAlchemy names a SQL function by its class
    """One JSON object as text, built by the database: `json_document("id", id_column, "title", title_column, …)`.

    On PostgreSQL it is a concatenation, which costs a third of `json_build_object`.
    """

    type = Text()
    inherit_cache = True
    name = "json_document"


def _pairs(element: Any) -> list[tuple[str, ColumnElement[Any]]]:
    clauses = list(element.clauses)
    return [(clauses[i].value, clauses[i + 1]) for i in range(0, len(clauses), 2)]


@compiles(json_document, "sqlite")
def _sqlite_document(element: Any, compiler: Any, **kw: Any) -> str:
    parts = []
    for name, column in _pairs(element):
        sql = compiler.process(column, **kw)
        if isinstance(column.type, Boolean):
            sql = f"json(CASE {sql} WHEN 1 THEN 'true' ELSE 'false' END)"
        elif isinstance(column.type, JSON):
            sql = f"json({sql})"
        parts.append(f"'{name}', {sql}")
    return f"json_object({', '.join(parts)})"


class plain_text(GenericFunction[str]):  # noqa: N801 - SQLAlchemy names a SQL function by its class
    """A text that holds nothing JSON would escape, because Duly made it: `plain_text(id_column)`."""

    type = Text()
    inherit_cache = True
    name = "plain_text"


@compiles(plain_text)
def _plain_text(element: Any, compiler: Any, **kw: Any) -> str:
    return str(compiler.process(element.clauses, **kw))


@compiles(json_document, "postgresql")
def _postgres_document(element: Any, compiler: Any, **kw: Any) -> str:
    parts = []
    for name, column in _pairs(element):
        sql = compiler.process(column, **kw)
        if isinstance(column.type, (Boolean, Integer, JSON)):
            sql = f"{sql}::text"
        elif isinstance(column.type, Instant):
            sql = f"""'"' || to_char({sql} AT TIME ZONE 'UTC', '{_INSTANT_FORMAT}') || '"'"""
        elif isinstance(column, plain_text):
            sql = f"""'"' || {sql} || '"'"""
        else:
            sql = f"to_json({sql})::text"
        if getattr(column, "nullable", not isinstance(column, plain_text)):
            sql = f"coalesce({sql}, 'null')"
        parts.append(f"""'"{name}":' || {sql}""")
    return "('{' || " + " || ',' || ".join(parts) + " || '}')"


class is_among(GenericFunction[bool]):  # noqa: N801 - SQLAlchemy names a SQL function by its class
    """Whether a text is in a JSON array of texts: `is_among(column, bindparam("values", type_=document()))`."""

    type = Boolean()
    inherit_cache = True
    name = "is_among"


@compiles(is_among, "sqlite")
def _sqlite_is_among(element: Any, compiler: Any, **kw: Any) -> str:
    column, texts = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({column} IN (SELECT value FROM json_each({texts})))"  # noqa: S608 - SQL of the compiler


@compiles(is_among, "postgresql")
def _postgres_is_among(element: Any, compiler: Any, **kw: Any) -> str:
    column, texts = (compiler.process(clause, **kw) for clause in element.clauses)
    # As an array it is looked up in an index; as a subquery it may be compared with every row.
    return f"({column} = ANY (ARRAY(SELECT jsonb_array_elements_text({texts}))))"


class hold_name(GenericFunction[str]):  # noqa: N801 - SQLAlchemy names a SQL function by its class
    """Whoever holds the same name waits until this transaction ends: for rules over rows that do not exist yet.

    The transaction must have begun; on SQLite its writer is alone anyway.
    """

    type = Text()
    inherit_cache = True
    name = "hold_name"


@compiles(hold_name, "sqlite")
def _sqlite_hold_name(element: Any, compiler: Any, **kw: Any) -> str:
    return str(compiler.process(element.clauses, **kw))


@compiles(hold_name, "postgresql")
def _postgres_hold_name(element: Any, compiler: Any, **kw: Any) -> str:
    return f"pg_advisory_xact_lock(hashtextextended({compiler.process(element.clauses, **kw)}, 0))::text"


def rows_of(name: str, *columns: tuple[str, TypeEngine[Any]]) -> TableValuedAlias:
    """Bound arrays, one for each column, as a table (PostgreSQL): row n has the n-th value of each."""
    arrays = [bindparam(column, type_=array_of(kind)) for column, kind in columns]
    table = func.unnest(*arrays).table_valued(*(sql_column(column, kind) for column, kind in columns), name=name)
    return table.render_derived()


def array_of(kind: TypeEngine[Any]) -> ARRAY[Any]:
    """An array to bind values of a column's type to.

    Its texts have no bound: a cast to bounded ones would cut what is too long, in silence, and make it equal to
    something else.
    """
    # One dimension, said so: a list of lists would else be taken for a table of values.
    return ARRAY(Text(collation="C") if isinstance(kind, String) else kind, dimensions=1)


def named(*pairs: tuple[str, ColumnElement[Any]]) -> json_document:
    """Spell `json_document` with its names as literals rather than bound values."""
    return json_document(*(part for name, column in pairs for part in (literal(name), column)))
