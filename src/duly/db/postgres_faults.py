"""What asyncpg raises, in the words of the error tree, and the next try on a connection that still lives."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from duly.db.conflicts import ForeignKeyViolation, TransactionAborted, UniqueViolation, database_down, writes_refused
from duly.errors import StorageFull

log = logging.getLogger(__name__)
Result = TypeVar("Result")

# What an idle connection says that died, and how long to wait before the next one is tried: the others died with it,
# as a rule, and the loop needs a moment to notice.
GONE = (
    asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError, asyncpg.CannotConnectNowError, asyncpg.IdleSessionTimeoutError, ConnectionError,
)  # fmt: skip
PAUSES = (0.01, 0.1)
# TimeoutError is an OSError. It is no lost connection: trying again would take as long again.
FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def translate(error: Exception) -> Exception:
    """The error tree's word for what the driver raised."""
    if isinstance(error, asyncpg.UniqueViolationError):
        return UniqueViolation(error.constraint_name or "")
    if isinstance(error, asyncpg.ForeignKeyViolationError):
        return ForeignKeyViolation()
    if isinstance(error, (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)):
        return TransactionAborted()
    if isinstance(error, asyncpg.DiskFullError):
        return StorageFull("The database's disk is full. Nothing was changed; tell the operator.")
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        log.error("PostgreSQL takes no writes: %s", error)
        return writes_refused()
    if isinstance(
        error,
        (*GONE, OSError, asyncpg.OperatorInterventionError, asyncpg.InsufficientResourcesError,
         asyncpg.LockNotAvailableError, asyncpg.InvalidAuthorizationSpecificationError,
         asyncpg.InvalidCatalogNameError, asyncpg.PostgresSystemError),
    ):  # fmt: skip
        log.error("PostgreSQL does not serve: %s: %s", type(error).__name__, error)
        return database_down()
    return error


def discard(connection: Any) -> None:
    """Close a connection whose state is unknown. The pool may have noticed first, and then it is closed already."""
    with contextlib.suppress(asyncpg.InterfaceError):
        connection.terminate()


async def run_again(work: Callable[[], Awaitable[Result]]) -> Result:
    """Do it on the next connection while it meets one that had died. Raises what `translate` gives."""
    for pause in PAUSES:
        try:
            return await work()
        except GONE as error:
            log.info("A connection to PostgreSQL had died (%s); the next one is tried", type(error).__name__)
            await asyncio.sleep(pause)
        except FAULTS as error:
            raise translate(error) from error
    try:
        return await work()
    except FAULTS as error:
        raise translate(error) from error
