"""A connection to a SQLite file as every part of Duly must have it."""

import time
from pathlib import Path

import apsw

BUSY_MILLISECONDS = 4000
PRAGMAS = (
    "synchronous=FULL",
    "foreign_keys=ON",
    "cache_size=-65536",
    "temp_store=MEMORY",
    # For loads and migrations; the server's writer has `sqlite_checkpoints`, which says why so many.
    "wal_autocheckpoint=8000",
)


def open_connection(path: Path) -> apsw.Connection:
    """A connection as every part of Duly must have it: WAL, durable commits, foreign keys, bounded waiting.

    `synchronous=FULL` because NORMAL loses acknowledged commits when the power goes.
    """
    connection = apsw.Connection(str(path), statementcachesize=256)
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    _switch_to_wal(connection)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def _switch_to_wal(connection: apsw.Connection) -> None:
    # SQLite's own waiting leaves this out, so of two processes that open a new file at once one would be refused.
    deadline = time.monotonic() + BUSY_MILLISECONDS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            return
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
