"""What of a database is carried to another one or into a file: the tables, and values that mean the same on both."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import apsw
import asyncpg
import orjson
from sqlalchemy import JSON, Boolean, Column, Float, Integer, LargeBinary, String, Table, Text
from sqlmodel import SQLModel

from duly.db import migrate
from duly.db.types import Instant
from duly.db.url import DatabaseAddress

Kind = Literal["text", "integer", "real", "boolean", "time", "bytes", "json"]
"""Of a portable value: str, int, float, bool, an aware datetime in UTC, bytes, or JSON as compact text with its keys
sorted. None stands for NULL everywhere.
"""
CARRIED = (
    "attachments", "audit_head", "audit_log", "blacklisted_tokens", "changes", "field_keys", "idempotency_keys",
    "login_failures", "one_time_tokens", "outbox", "refresh_tokens", "sessions", "task_counters", "tasks", "users",
)  # fmt: skip
"""Every table whose rows cannot be made again from others. It is said here and not read from the metadata, because a
program that has not imported the module of a table would leave it out in silence.
"""
DERIVED = ("search_places", "task_words")
"""They follow from the change feed, and are made again by the next search."""

BATCH = 2000
BATCH_BYTES = 8_000_000
"""What a batch of rows may hold in columns without a bound, so that memory stays bounded too."""

_KINDS: tuple[tuple[type[Any], Kind], ...] = (
    (Instant, "time"), (Boolean, "boolean"), (Integer, "integer"), (Float, "real"), (JSON, "json"),
    (LargeBinary, "bytes"), (String, "text"),
)  # fmt: skip
_DRIVER_FAULTS = (apsw.Error, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class CarryFault(Exception):
    """A snapshot or a load cannot go on; the text is one line for an operator."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """One table: its columns but for those that the database computes, and its primary key.

    `unbounded` are the places of the columns whose values may be of any length.
    """

    name: str
    columns: tuple[str, ...]
    kinds: tuple[Kind, ...]
    key: tuple[str, ...]
    unbounded: tuple[int, ...] = field(default=())

    def name_row(self, row: Sequence[Any], columns: Sequence[str] = ()) -> str:
        """What a row is called in a message: its table and primary key."""
        values = dict(zip(columns or self.columns, row, strict=True))
        return f"{self.name}, row {', '.join(f'{name}={values.get(name)!r}' for name in self.key)}"


@dataclass(frozen=True, slots=True)
class Standing:
    """What is at an address: which database, its schema's revision, and whether a table of Duly has a row.

    `place` is the same for two addresses of one database, and for no others. It is empty where there is no file yet,
    and `revision` where there is no schema.
    """

    place: str
    revision: str
    is_empty: bool


def table_shapes() -> tuple[TableShape, ...]:
    """Every table that is carried, each after those that it refers to.

    Raises RuntimeError when the module of one has not been imported: that is a fault of the program.
    """
    missing = set(CARRIED) - SQLModel.metadata.tables.keys()
    if missing:
        raise RuntimeError(f"import the modules of these tables first: {', '.join(sorted(missing))}")
    return tuple(_shape(table) for table in SQLModel.metadata.sorted_tables if table.name in CARRIED)


def _shape(table: Table) -> TableShape:
    columns = [column for column in table.columns if column.computed is None]
    return TableShape(
        name=table.name,
        columns=tuple(column.name for column in columns),
        kinds=tuple(_kind(column) for column in columns),
        key=tuple(column.name for column in table.primary_key.columns),
        unbounded=tuple(i for i, column in enumerate(columns) if isinstance(column.type, Text | JSON | LargeBinary)),
    )


def _kind(column: Column[Any]) -> Kind:
    for known, kind in _KINDS:
        if isinstance(column.type, known):
            return kind
    raise RuntimeError(f"{column}: nobody has said how a {column.type!r} is carried")


@contextlib.contextmanager
def faults_of(address: DatabaseAddress) -> Iterator[None]:
    """What a driver raises becomes a `CarryFault` that names the database."""
    try:
        yield
    except _DRIVER_FAULTS as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CarryFault(f"{address.safe_text} cannot be used ({reason}); {_remedy(error)}") from error


def _remedy(error: Exception) -> str:
    if isinstance(error, apsw.BusyError | asyncpg.LockNotAvailableError):
        return "stop what uses it, and run this again"
    if isinstance(error, apsw.FullError | asyncpg.DiskFullError):
        return "make room on its disk, and run this again"
    return "start it or correct the address"


def check_revision(address: DatabaseAddress, revision: str) -> None:
    """Raises `CarryFault` unless the schema is the one that this code knows."""
    if revision != migrate.head():
        found = revision or "nothing"
        raise CarryFault(
            f"the schema of {address.safe_text} is at {found}, not {migrate.head()}; run 'duly migrate upgrade' there"
        )


def quoted(*names: str) -> str:
    """Names of tables or columns as SQL."""
    return ", ".join(f'"{name}"' for name in names)


def canonical_json(text: str) -> str:
    """Compact, with its keys sorted: the same text for the same value, however a database keeps it."""
    return orjson.dumps(orjson.loads(text), option=orjson.OPT_SORT_KEYS).decode()
