"""Opens the database that the settings name."""

from pathlib import Path

import apsw

from duly.db.postgres import PostgresDatabase
from duly.db.sqlite import SqliteDatabase
from duly.db.unit import Database
from duly.db.url import DatabaseAddress, parse_database_url
from duly.settings import Settings


def address_from(settings: Settings) -> DatabaseAddress:
    """Raises ValueError with one line that says what is wrong with `DATABASE_URL`."""
    return parse_database_url(settings.database_url, settings.data_dir)


async def open_database(settings: Settings) -> Database:
    """Connect. Raises `Unavailable` when the server does not answer, OSError when the folder or file cannot be used."""
    address = address_from(settings)
    if address.dialect == "sqlite":
        path = Path(str(address.path))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return SqliteDatabase(path, slow_seconds=settings.slow_statement_seconds)
        except apsw.Error as error:
            raise OSError(str(error)) from error
    prepared = settings.database_prepared_statements
    database = PostgresDatabase(
        address,
        pool_size=settings.database_pool_size,
        overflow=settings.database_max_overflow,
        prepared=not address.transaction_pooler if prepared is None else prepared,
        slow_seconds=settings.slow_statement_seconds,
    )
    await database.open()
    return database
