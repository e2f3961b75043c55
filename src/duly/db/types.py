"""Column types that mean the same on SQLite and PostgreSQL."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import JSON, String, Text, TypeDecorator
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from duly.kit.clock import parse_rfc3339, rfc3339


class Instant(TypeDecorator[datetime]):
    """A moment in UTC to the microsecond: `timestamptz`, or on SQLite RFC 3339 text that sorts by time."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Name the column type of each dialect."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(String(27))

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], Any] | None:
        """PostgreSQL's driver takes the datetime as it is."""
        if dialect.name == "postgresql":
            return None
        return lambda value: None if value is None else rfc3339(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None] | None:
        """PostgreSQL's driver gives an aware datetime."""
        if dialect.name == "postgresql":
            return None
        return lambda value: None if value is None else parse_rfc3339(value)


def ordered_text(length: int) -> TypeEngine[str]:
    """Text compared byte by byte on both dialects, so that keys and cursors sort alike whatever the server's locale."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def document() -> TypeEngine[Any]:
    """A JSON value that can be searched: `jsonb`, or JSON text on SQLite."""
    return JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def dump_json(value: Any) -> str:
    """For the dialects: a tenth of what the standard library takes."""
    return orjson.dumps(value).decode()


def snapshot() -> TypeEngine[str]:
    """JSON text that is kept and answered as it was written, byte for byte."""
    return Text()
