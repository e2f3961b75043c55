"""Copies SQLite's write-ahead log back into its file beside the writer, who would otherwise wait for it."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import apsw

from duly.db.sqlite_connections import open_connection

log = logging.getLogger(__name__)

PAGES: Final = 8000
"""32 MB of log: a page that many commits touch is copied back once. With SQLite's own 4 MB a third of the writes per
second were lost.
"""


class Checkpoints:
    """Two passes: most of the log in a thread while the writer goes on, then behind a commit what has come since.

    That is little, and with all of it copied SQLite uses the log again from its beginning (sqlite.org/wal.html). Here
    `pages` is the length of the log from which it is copied back.
    """

    def __init__(self, path: Path, writer: apsw.Connection) -> None:
        self.pages = PAGES
        self._due_at = 0
        self._length = 0
        self._is_copying = False
        self._is_almost_done = False
        self._connection = open_connection(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-checkpoint")
        # Instead of the writer's own checkpoints, which are made by the same hook.
        writer.set_wal_hook(self._note)

    def _note(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        """What a commit tells: how long the log is now."""
        if pages < self._length:
            self._due_at = 0
        self._length = pages
        return apsw.SQLITE_OK

    def after_commit(self, writer: apsw.Connection) -> None:
        """By the thread that committed, while nobody else can write."""
        if self._is_almost_done:
            self._is_almost_done = False
            self._copy(writer)
        elif not self._is_copying and self._length >= max(self.pages, self._due_at):
            self._is_copying = True
            self._thread.submit(self._copy_most)

    def _copy_most(self) -> None:
        self._is_almost_done = self._copy(self._connection)
        self._is_copying = False

    def _copy(self, connection: apsw.Connection) -> bool:
        """What nobody reads in an older state any more, as of the beginning; False when it cannot be done at all."""
        # Not at each commit again, whatever stands against it.
        self._due_at = self._length + self.pages // 8
        try:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            log.error("SQLite cannot copy its log back into its file, and goes on with the log: %s", error)
            return False
        return True

    def close(self) -> None:
        """Wait for the pass that runs."""
        self._thread.shutdown(wait=True)
        self._connection.close()
