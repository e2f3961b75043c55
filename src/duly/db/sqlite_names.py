"""SQLite names the columns of a violated constraint; this finds the constraint's own name."""

from sqlalchemy import UniqueConstraint
from sqlmodel import SQLModel


def constraint_name(columns: str) -> str:
    """From `users.email` or `tasks.a, tasks.b` or `index 'name'` to the name that PostgreSQL would give."""
    if columns.startswith("index "):
        return columns.removeprefix("index ").strip("'\"")
    pairs = [column.strip().partition(".") for column in columns.split(",")]
    table = SQLModel.metadata.tables.get(pairs[0][0])
    wanted = {name for _, _, name in pairs}
    if table is None:
        return columns
    if set(table.primary_key.columns.keys()) == wanted:
        return str(table.primary_key.name)
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint) and set(constraint.columns.keys()) == wanted:
            return str(constraint.name)
    for index in table.indexes:
        if index.unique and set(index.columns.keys()) == wanted:
            return str(index.name)
    return columns
