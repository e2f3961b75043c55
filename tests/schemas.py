"""What a database's schema is, read from the database itself and written so that two of them can be compared."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection

from duly.db.apsw_dialect import make_engine
from duly.db.sqlite import open_connection
from duly.db.url import DatabaseAddress, parse_database_url

Schema = dict[str, Any]

_POSTGRES = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               coalesce(pg_get_expr(d.adbin, d.adrelid), ''), coalesce(l.collname, '')
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "triggers": """
        SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal""",
    "functions": "SELECT '', proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
}


def address_of(url: str) -> DatabaseAddress:
    """The address as Duly reads it."""
    return parse_database_url(url, Path())


async def run_sql(url: str, sql: str) -> list[tuple[Any, ...]]:
    """What an operator does with the database's own client: any number of statements, and the rows of a single one."""
    address = address_of(url)
    if address.path is not None:
        # In a thread: what holds the lock may be a commit that has to be finished in this loop.
        return await asyncio.to_thread(_run_on_sqlite, address.path, sql)
    server = await asyncpg.connect(url, timeout=5)
    try:
        if ";" in sql.strip().rstrip(";"):
            await server.execute(sql)
            return []
        return [tuple(row) for row in await server.fetch(sql)]
    finally:
        await server.close()


def _run_on_sqlite(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = open_connection(path)
    try:
        connection.set_busy_timeout(4000)
        return list(connection.execute(sql).fetchall())
    finally:
        connection.close()


async def read_schema(url: str) -> Schema:
    """Every table with its columns, constraints and indexes, and every trigger, except for Alembic's own table."""
    address = address_of(url)
    if address.path is not None:
        with make_engine(address.path, reads=True).connect() as connection:
            return _read_sqlite(connection)
    server = await asyncpg.connect(url, timeout=5)
    try:
        found = {name: sorted(tuple(row) for row in await server.fetch(sql)) for name, sql in _POSTGRES.items()}
    finally:
        await server.close()
    return {name: [row for row in rows if row[0] != "alembic_version"] for name, rows in found.items()}


def _read_sqlite(connection: Connection) -> Schema:
    inspector = inspect(connection)
    schema: Schema = {"columns": [], "constraints": [], "indexes": []}
    for table in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        key = inspector.get_pk_constraint(table)
        for column in inspector.get_columns(table):
            fact = (str(column["type"]), column["nullable"], column["default"])
            schema["columns"].append((table, column["name"], *map(str, fact)))
        schema["constraints"].append((table, str(key["name"]), str(key["constrained_columns"])))
        for one in inspector.get_unique_constraints(table):
            schema["constraints"].append((table, str(one["name"]), str(one["column_names"])))
        for other in inspector.get_foreign_keys(table):
            rule = (other["constrained_columns"], other["referred_table"], other["referred_columns"], other["options"])
            schema["constraints"].append((table, str(other["name"]), str(rule)))
        for check in inspector.get_check_constraints(table):
            schema["constraints"].append((table, str(check["name"]), check["sqltext"]))
        for index in inspector.get_indexes(table):
            schema["indexes"].append((table, str(index["name"]), str((index["column_names"], index["unique"]))))
    triggers = connection.execute(text("SELECT tbl_name, name, sql FROM sqlite_schema WHERE type = 'trigger'"))
    schema["triggers"] = [tuple(row) for row in triggers]
    return {name: sorted(rows) for name, rows in schema.items()}
