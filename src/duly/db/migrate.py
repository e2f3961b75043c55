"""The schema's chain of revisions: upgrade under a lock, downgrade, where it stands, and the same as SQL."""

import asyncio
import importlib
import io
import logging
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.dialects import registry
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

from duly.db.apsw_dialect import make_engine
from duly.db.database import address_from
from duly.db.postgres_pool import CONNECT_SECONDS
from duly.db.url import DatabaseAddress
from duly.settings import load_settings

registry.register("sqlite.apsw", "duly.db.apsw_dialect", "ApswDialect")

FAULTS = (SQLAlchemyError, CommandError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""What schema work raises when the database cannot be reached or refuses."""
LOCK_ID = 0x64756C79  # "duly"
# How long a process waits for another one that migrates, and a revision for a table that somebody holds: whoever
# asks for that table meanwhile waits behind the revision, so this is no longer than a request may take.
TURN_SECONDS = 60
TABLE_SECONDS = 4
# They keep the counters and the change feed; Alembic compares tables and knows nothing of them.
TRIGGERS = {
    "tasks_changed": "tasks", "tasks_created": "tasks", "tasks_kept": "tasks", "tasks_removed": "tasks",
    "users_created": "users",
}  # fmt: skip
# SQLite's full-text index is kept by triggers of its own.
SQLITE_TRIGGERS = TRIGGERS | {
    "task_words_added": "task_words", "task_words_changed": "task_words", "task_words_removed": "task_words",
}  # fmt: skip
# The full-text indexes, which tables in Python cannot say: on SQLite a table, with those that FTS5 makes beside it.
SEARCH_TABLE, SEARCH_INDEX = "task_words_index", "ix_task_words_words"
Result = TypeVar("Result")

# What it says of each step is noise in the log: the caller says which revision came of it.
logging.getLogger("alembic").setLevel(logging.WARNING)


def _config(**attributes: Any) -> Config:
    config = Config(output_buffer=attributes.pop("output", None))
    config.set_main_option("script_location", str(resources.files("duly.db") / "migrations"))
    config.set_main_option("version_locations", str(resources.files("duly.db") / "migrations" / "versions"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes, metadata=SQLModel.metadata)
    return config


async def _on_connection(
    address: DatabaseAddress, work: Callable[[Connection], Result], *, reads: bool = False
) -> Result:
    """Run `work` in one transaction; unless it only reads, one process at a time."""
    if address.dialect == "sqlite":
        return await asyncio.to_thread(_on_sqlite, address, work, reads)
    engine = create_async_engine(
        "postgresql+asyncpg://",
        connect_args={
            **address.asyncpg_arguments(),
            "timeout": CONNECT_SECONDS,
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            # Behind a pooler another client's statement of the same name may still lie on the server's connection.
            "prepared_statement_name_func": lambda: f"duly_{uuid4().hex}",
        },
        poolclass=NullPool,
    )
    try:
        async with engine.begin() as connection:
            if not reads:
                await connection.execute(text(f"SET LOCAL lock_timeout = '{TURN_SECONDS}s'"))
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK_ID})"))
                await connection.execute(text(f"SET LOCAL lock_timeout = '{TABLE_SECONDS}s'"))
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _on_sqlite(address: DatabaseAddress, work: Callable[[Connection], Result], reads: bool) -> Result:
    if address.path is None:
        raise ValueError("DATABASE_URL: a SQLite file is needed")
    path = address.path
    if not reads:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.exists():
        path = Path(":memory:")  # reads as empty, and looking does not make the file
    with make_engine(path, reads=reads, wait_seconds=TURN_SECONDS).begin() as connection:
        result = work(connection)
        if not reads:
            _check_references(connection)
        return result


def _check_references(connection: Connection) -> None:
    """SQLite checked no foreign key while tables were replaced, so all are checked before the commit."""
    broken = connection.execute(text("PRAGMA foreign_key_check")).first()
    if broken is not None:
        raise CommandError(f"a row of {broken[0]} would refer to a row of {broken[2]} that does not exist")


def head() -> str:
    """The newest revision that this code knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def knows(revision: str) -> bool:
    """Whether this code has that revision; a newer version's it has not."""
    return any(known.revision == revision for known in ScriptDirectory.from_config(_config()).walk_revisions())


async def upgrade(address: DatabaseAddress, revision: str = "head") -> tuple[str | None, str | None]:
    """Apply what is missing, all or nothing; the revisions before and after."""

    def work(connection: Connection) -> tuple[str | None, str | None]:
        before = _revision(connection)
        command.upgrade(_config(connection=connection), revision)
        return before, _revision(connection)

    return await _on_connection(address, work)


async def downgrade(address: DatabaseAddress, revision: str) -> tuple[str | None, str | None]:
    """Undo down to `revision`; `base` removes every table and what is in it."""

    def work(connection: Connection) -> tuple[str | None, str | None]:
        before = _revision(connection)
        command.downgrade(_config(connection=connection), revision)
        return before, _revision(connection)

    return await _on_connection(address, work)


async def current(address: DatabaseAddress) -> str | None:
    """The revision that the database is at; None for an empty one."""
    return await _on_connection(address, _revision, reads=True)


async def differences(address: DatabaseAddress) -> list[str]:
    """What the database's schema lacks or has too much, compared with the tables of this code."""

    def work(connection: Connection) -> list[str]:
        options = {"compare_type": True, "include_name": is_told_by_name, "include_object": is_compared}
        context = MigrationContext.configure(connection, opts=options)
        found = [str(difference) for difference in compare_metadata(context, SQLModel.metadata)]
        return found + _missing_parts(connection)

    return await _on_connection(address, work, reads=True)


def is_told_by_name(name: str | None, kind: str, _: Any) -> bool:
    """Alembic's `include_name`: whether the tables in Python speak of it. The full-text index they cannot say."""
    return not (kind == "table" and (name or "").startswith(SEARCH_TABLE)) and name != SEARCH_INDEX


def is_compared(item: Any, _name: str | None, kind: str, *_: Any) -> bool:
    """Alembic's `include_object`: whether it can be compared."""
    # What a column is computed from each database spells in its own way; that it is there its index shows.
    return not (kind == "column" and item.computed is not None)


def _missing_parts(connection: Connection) -> list[str]:
    """What no comparison of tables sees."""
    names, triggers = "SELECT name FROM sqlite_schema WHERE type IN ('trigger', 'table')", SQLITE_TRIGGERS
    search = SEARCH_TABLE
    if connection.dialect.name == "postgresql":
        # A trigger that is switched off is as good as missing, and so is an index that was not built to its end.
        names = """SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'
            UNION ALL SELECT relname FROM pg_class JOIN pg_index ON indexrelid = pg_class.oid WHERE indisvalid"""
        triggers, search = TRIGGERS, SEARCH_INDEX
    there = set(connection.execute(text(names)).scalars())
    missing = [f"trigger {name} of {table} is missing" for name, table in triggers.items() if name not in there]
    return missing + ([] if search in there else [f"the full-text index {search} of task_words is missing"])


def upgrade_sql(dialect: str, revision: str = "head") -> str:
    """The chain as SQL, for a database that only its administrator may change."""
    output = io.StringIO()
    command.upgrade(_config(output=output, dialect=dialect), revision, sql=True)
    return output.getvalue()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def prepare_for_alembic(config: Config) -> None:
    """Let `alembic` in a checkout work on the database of the settings. Raises `SettingsFault` and ValueError."""
    importlib.import_module(config.get_main_option("tables") or "")
    address = address_from(load_settings())
    config.attributes.update(metadata=SQLModel.metadata, address=address, dialect=address.dialect)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)


def run_for_alembic(config: Config, work: Callable[[Connection], None]) -> None:
    """Run `work` as `upgrade` does: in one transaction, one process at a time."""
    asyncio.run(_on_connection(config.attributes["address"], work))
