"""Every key, unique constraint and foreign key, violated for real: both dialects refuse it, and by the same name."""

import itertools
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    bindparam,
    insert,
)
from sqlalchemy.schema import ColumnCollectionConstraint, ForeignKeyConstraint
from sqlalchemy.types import JSON
from sqlmodel import SQLModel

import duly.app
from duly.db.conflicts import ForeignKeyViolation, UniqueViolation
from duly.db.sqlite_names import constraint_name
from duly.db.statements import Statement
from duly.db.types import Instant
from duly.db.unit import Database
from tests.people import MOMENT

TABLES = SQLModel.metadata.sorted_tables
UNIQUE = [
    pytest.param(table, constraint, id=str(constraint.name))
    for table in TABLES
    for constraint in sorted(table.constraints, key=lambda one: str(one.name))
    if isinstance(constraint, (PrimaryKeyConstraint, UniqueConstraint))
]
FOREIGN = [
    pytest.param(table, constraint, id=str(constraint.name))
    for table in TABLES
    for constraint in sorted(table.constraints, key=lambda one: str(one.name))
    if isinstance(constraint, ForeignKeyConstraint)
]
# What a CHECK or a trigger asks of a column; everything else may be anything of its type.
FITTING = {"role": "user", "priority": "low", "state": "waiting"}
_numbers = itertools.count(1)


def value_for(column: Column[Any]) -> Any:
    """A value of the column's type that no other row has."""
    number = next(_numbers)
    if column.name == "position" and column.table.name == "task_counters":
        return 100
    if column.name in FITTING and not column.primary_key:
        return FITTING[column.name]
    if isinstance(column.type, Boolean):
        return False
    if isinstance(column.type, (Integer, BigInteger)):
        return 100 + number
    if isinstance(column.type, Instant):
        return MOMENT
    if isinstance(column.type, JSON):
        return []
    return f"v{number}"


async def add_row(database: Database, table: Table, **given: Any) -> dict[str, Any]:
    """Write one row of new values, and the rows that it refers to."""
    row = {column.name: value_for(column) for column in table.columns if column.computed is None} | given
    for constraint in table.constraints:
        if isinstance(constraint, ForeignKeyConstraint):
            for name, key in zip(constraint.column_keys, constraint.elements, strict=True):
                if name not in given:
                    row[name] = (await add_row(database, key.column.table))[key.column.name]
    statement = Statement(insert(table).values({name: bindparam(name) for name in row}))
    async with database.unit() as unit:
        await unit.fetch(statement, **row)
    return row


@pytest.mark.covers("C031")
@pytest.mark.parametrize(("table", "constraint"), UNIQUE)
async def test_a_second_row_of_the_same_values_is_refused_by_the_constraint_s_name(
    database: Database, table: Table, constraint: ColumnCollectionConstraint
) -> None:
    if table.name == "task_counters":
        # A trigger writes this row with its user, so any further one is the second.
        user = await add_row(database, SQLModel.metadata.tables["users"])
        first = {"user_id": user["id"]}
    else:
        first = await add_row(database, table)
    same = {column.name: first[column.name] for column in constraint.columns}
    with pytest.raises(UniqueViolation) as caught:
        await add_row(database, table, **same)
    assert caught.value.constraint == constraint.name


@pytest.mark.covers("C034")
@pytest.mark.parametrize(("table", "constraint"), FOREIGN)
async def test_a_row_that_refers_to_nothing_is_refused(
    database: Database, table: Table, constraint: ForeignKeyConstraint
) -> None:
    with pytest.raises(ForeignKeyViolation):
        await add_row(database, table, **dict.fromkeys(constraint.column_keys, "nobody"))


def test_there_are_constraints_to_try() -> None:
    assert duly.app.create_app is not None
    assert len(UNIQUE) >= len(TABLES) + 3
    assert len(FOREIGN) >= 7
    assert all(param.id is not None and "None" not in str(param.id) for param in [*UNIQUE, *FOREIGN])


def test_what_sqlite_says_of_an_unknown_table_is_left_as_it_is() -> None:
    assert constraint_name("elsewhere.a, elsewhere.b") == "elsewhere.a, elsewhere.b"
    assert constraint_name("users.name") == "users.name"
    assert constraint_name("index 'uq_by_expression'") == "uq_by_expression"
