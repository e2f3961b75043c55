"""What SQLite raises, in the words of the error tree."""

import logging

import apsw

from duly.db.conflicts import ForeignKeyViolation, UniqueViolation, writes_refused
from duly.db.sqlite_names import constraint_name
from duly.errors import StorageFull

log = logging.getLogger(__name__)


def translate(error: apsw.Error) -> Exception:
    """The error tree's word for what SQLite raised."""
    if isinstance(error, apsw.ConstraintError):
        text = str(error)
        if text.startswith("UNIQUE constraint failed: "):
            return UniqueViolation(constraint_name(text.removeprefix("UNIQUE constraint failed: ")))
        if text.startswith("FOREIGN KEY"):
            return ForeignKeyViolation()
        return error
    if isinstance(error, apsw.FullError):
        return StorageFull("The server's disk is full. Nothing was changed; tell the operator.")
    if isinstance(error, (apsw.BusyError, apsw.LockedError, apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError)):
        log.error("SQLite does not serve: %s", error)
        return writes_refused(retry_after=1)
    return error
