"""Statements written in SQLAlchemy Core, compiled once per dialect and run on the driver."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Executable, UpdateBase
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import Compiled

sql_log = logging.getLogger("duly.sql")
"""Every statement as it runs, at DEBUG, and never a value; `LOG_SQL` sets its level."""

Processor: TypeAlias = Callable[[Any], Any]
Row: TypeAlias = Sequence[Any]


class Plan:
    """What one dialect's driver needs: the SQL, the order of the values, and their conversions."""

    __slots__ = ("_defaults", "_inputs", "_order", "_outputs", "sql")

    def __init__(self, compiled: Any, dialect: Dialect) -> None:
        self.sql: str = compiled.string
        self._order: tuple[str, ...] = tuple(compiled.positiontup or ())
        self._defaults: dict[str, Any] = {
            name: value for name, value in compiled.params.items() if not compiled.binds[name].required
        }
        for column in compiled.insert_prefetch or ():
            # A column's own default would be filled in by the engine, which does not run here.
            self._defaults[column.key] = column.default.arg
        processors: Mapping[str, Any] = compiled._bind_processors  # noqa: SLF001 - the only place SQLAlchemy keeps them
        self._inputs = tuple((i, processors[name]) for i, name in enumerate(self._order) if name in processors)
        self._outputs = _output_processors(compiled, dialect)

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """The driver's positional values. Raises KeyError for a value that the statement needs and was not given."""
        if self._defaults:
            values = {**self._defaults, **values}
        arguments = [values[name] for name in self._order]
        for index, process in self._inputs:
            arguments[index] = process(arguments[index])
        return arguments

    def rows(self, raw: Sequence[Row]) -> Sequence[Row]:
        """The driver's rows with the portable types turned back; rows that need nothing pass through."""
        if not self._outputs:
            return raw
        return [self._convert(row) for row in raw]

    def _convert(self, row: Row) -> Row:
        values = list(row)
        for index, process in self._outputs:
            values[index] = process(values[index])
        return values


def _output_processors(compiled: Any, dialect: Dialect) -> tuple[tuple[int, Processor], ...]:
    columns = getattr(compiled, "_result_columns", None) or ()
    found = []
    for index, column in enumerate(columns):
        process = column.type._cached_result_processor(dialect, None)  # noqa: SLF001 - as Result itself does
        if process is not None:
            found.append((index, process))
    return tuple(found)


class Statement:
    """One SQL statement. Bound names are given by keyword when it is run.

    `many` is the same statement for many rows at once, each value being an array of the rows' values; its first
    columns are the values named `many_key`, and say which request a row is for. `rows` is SQLite's form of it: one
    value of that name, a JSON array with the arguments of each row as the statement has them, in its order.
    `slow` marks a read whose cost grows with the account: SQLite runs it in a thread, so that it cannot stall the loop.
    """

    __slots__ = ("_element", "_plans", "many", "many_key", "rows", "slow", "writes")

    def __init__(
        self,
        element: Executable,
        *,
        slow: bool = False,
        many: "Statement | None" = None,
        many_key: tuple[str, ...] = (),
        rows: "Statement | None" = None,
    ) -> None:
        self._element = element
        self._plans: dict[str, Plan] = {}
        self.slow = slow
        self.many = many
        self.many_key = many_key
        self.rows = rows
        self.writes = isinstance(element, UpdateBase)

    def plan(self, dialect: Dialect) -> Plan:
        """Compiled at the first use for this dialect and kept."""
        plan = self._plans.get(dialect.name)
        if plan is None:
            compiled: Compiled = self._element.compile(dialect=dialect)  # type: ignore[attr-defined]
            plan = self._plans[dialect.name] = Plan(compiled, dialect)
        return plan
