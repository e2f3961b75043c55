"""Lets SQLAlchemy and Alembic run on apsw, so that one SQLite library opens the file and no second one ever does."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
from sqlalchemy import Engine, create_engine
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.pool import NullPool

from duly.db.sqlite import open_connection


class Cursor:
    """A PEP 249 cursor over apsw's."""

    arraysize = 1
    rowcount = -1

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.lastrowid: int | None = None

    def execute(self, sql: str, values: Sequence[Any] = ()) -> "Cursor":
        """Run one statement and keep its rows."""
        cursor = self._connection.cursor()
        # A statement that gives no row is complete at once and forgets its columns; before it runs it knows them.
        cursor.exec_trace = self._keep_description
        cursor.execute(sql, tuple(values))
        self._rows = cursor.fetchall()
        self.rowcount = self._connection.changes() if self.description is None else -1
        self.lastrowid = self._connection.last_insert_rowid()
        return self

    def _keep_description(self, cursor: apsw.Cursor, _sql: str, _values: Any) -> bool:
        columns = cursor.get_description()
        self.description = tuple((name, *(None,) * 6) for name, _ in columns) or None
        return True

    def executemany(self, sql: str, many: Iterable[Sequence[Any]]) -> "Cursor":
        """Run one statement for each set of values."""
        for values in many:
            self.execute(sql, values)
        return self

    def fetchone(self) -> Any:
        """The next row or None."""
        return self._rows.pop(0) if self._rows else None

    def fetchmany(self, size: int = 1) -> list[Any]:
        """The next rows, at most `size`."""
        taken, self._rows = self._rows[:size], self._rows[size:]
        return taken

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        return self.fetchmany(len(self._rows))

    def close(self) -> None:
        """Forget the rows."""
        self._rows = []


class Connection:
    """A PEP 249 connection over apsw's, for schema work; the dialect begins transactions itself.

    `begin` is the statement that it does so with. Foreign keys are not enforced: a revision that replaces a table
    drops it, and SQLite would delete what refers to its rows.
    """

    def __init__(self, path: Path, begin: str, wait_seconds: int) -> None:
        self.native = open_connection(path)
        self.native.set_busy_timeout(wait_seconds * 1000)
        self.native.execute("PRAGMA foreign_keys=OFF")
        self.begin = begin

    def cursor(self) -> Cursor:
        """A new cursor."""
        return Cursor(self.native)

    def commit(self) -> None:
        """Commit what was begun, if anything."""
        if self.native.in_transaction:
            self.native.execute("COMMIT")

    def rollback(self) -> None:
        """Undo what was begun, if anything."""
        if self.native.in_transaction:
            self.native.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file."""
        self.native.close()


def _module() -> Any:
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    errors = dict.fromkeys(
        ("Warning", "InterfaceError", "DatabaseError", "OperationalError", "ProgrammingError", "NotSupportedError",
         "IntegrityError", "DataError", "InternalError"),
        apsw.Error,
    )  # fmt: skip
    return SimpleNamespace(
        paramstyle="qmark",
        apilevel="2.0",
        threadsafety=1,
        connect=Connection,
        sqlite_version_info=version,
        sqlite_version=apsw.sqlite_lib_version(),
        Error=apsw.Error,
        **errors,
    )


class ApswDialect(SQLiteDialect_pysqlite):
    """SQLAlchemy's SQLite dialect on the driver above."""

    driver = "apsw"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        """The driver as a PEP 249 module."""
        return _module()

    def on_connect(self) -> Callable[[Any], None]:
        """Nothing is left to do: `open_connection` sets what is needed."""
        return lambda _: None

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin as the connection was told to."""
        dbapi_connection.native.execute(dbapi_connection.begin)

    def get_isolation_level(self, dbapi_connection: Any) -> Any:
        """SQLite's only one."""
        return "SERIALIZABLE"

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        """A file does not disconnect."""
        return False


def make_engine(path: Path, *, reads: bool = False, wait_seconds: int = 60) -> Engine:
    """An engine for schema work on one file. A writer takes the write lock at once, or waits for it so many seconds."""
    begin = "BEGIN" if reads else "BEGIN IMMEDIATE"
    return create_engine(
        "sqlite+apsw://", module=_module(), creator=lambda: Connection(path, begin, wait_seconds), poolclass=NullPool
    )
