"""A snapshot of an SQLite file: a read transaction on a connection of its own, in a thread of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import apsw

from duly.db.shapes import (
    BATCH,
    BATCH_BYTES,
    CarryFault,
    Kind,
    TableShape,
    canonical_json,
    check_revision,
    faults_of,
    quoted,
    table_shapes,
)
from duly.db.sqlite import open_connection
from duly.db.url import DatabaseAddress
from duly.kit.clock import parse_rfc3339

Result = TypeVar("Result")


class SqliteThread:
    """One connection, used from one thread only, whoever asks for it."""

    def __init__(self, address: DatabaseAddress) -> None:
        if address.path is None:
            raise CarryFault("a SQLite file is needed")
        self.path = address.path.resolve()
        self.address = address
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-carry")
        self._connection: apsw.Connection | None = None

    async def run(self, work: Callable[[apsw.Connection], Result]) -> Result:
        """Do `work` on the connection. Raises `CarryFault` for what SQLite refuses."""
        with faults_of(self.address):
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[[apsw.Connection], Result]) -> Result:
        if self._connection is None:
            if not self.path.exists():
                raise CarryFault(f"{self.address.safe_text} does not exist; correct the address")
            self._connection = open_connection(self.path)
            # Whatever has to be sorted goes to a file: memory stays bounded.
            self._connection.execute("PRAGMA temp_store=FILE")
        return work(self._connection)

    async def close(self) -> None:
        """Roll back what is open and close. A batch that is under way, of a caller who was cancelled, ends first."""
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)
        with contextlib.suppress(apsw.Error):
            await asyncio.shield(closing)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class SqliteSnapshot:
    """See `duly.db.snapshots.Snapshot`."""

    def __init__(self, thread: SqliteThread, revision: str) -> None:
        self._thread = thread
        self.revision = revision
        self.place = sqlite_place(thread.path)
        self.tables = table_shapes()
        self._shapes = {shape.name: shape for shape in self.tables}

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        sql = f"SELECT count(*) FROM {quoted(self._shapes[table].name)}"  # noqa: S608 - a name of the metadata
        rows: list[Any] = await self._thread.run(lambda connection: connection.execute(sql).fetchall())
        return int(rows[0][0])

    async def rows(self, table: str, batch: int = BATCH) -> AsyncIterator[list[tuple[Any, ...]]]:
        """The rows in the order of the primary key."""
        shape = self._shapes[table]
        sql = f"SELECT {quoted(*shape.columns)} FROM {quoted(table)} ORDER BY {quoted(*shape.key)}"  # noqa: S608
        cursor = await self._thread.run(lambda connection: connection.execute(sql))
        while rows := await self._thread.run(lambda _: _take(cursor, shape, batch)):
            yield rows


@contextlib.asynccontextmanager
async def open_sqlite_snapshot(address: DatabaseAddress) -> AsyncIterator[SqliteSnapshot]:
    """See `duly.db.snapshots.open_snapshot`."""
    thread = SqliteThread(address)
    try:
        revision = await thread.run(_begin)
        check_revision(address, revision)
        yield SqliteSnapshot(thread, revision)
    finally:
        await thread.close()


def sqlite_place(path: Path) -> str:
    """The file itself, under whatever name."""
    found = path.stat()
    return f"sqlite {found.st_dev} {found.st_ino}"


def _begin(connection: apsw.Connection) -> str:
    connection.execute("PRAGMA query_only=ON")
    connection.execute("BEGIN")
    # The first thing that is read decides of which moment the view is.
    return read_revision(connection)


def read_revision(connection: apsw.Connection) -> str:
    """Where the schema stands; nothing for a file without one."""
    if not connection.table_exists(None, "alembic_version"):
        return ""
    rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    return str(rows[0][0]) if rows else ""


def _take(cursor: apsw.Cursor, shape: TableShape, batch: int) -> list[tuple[Any, ...]]:
    readers: list[Callable[[Any], Any]] = [_READERS[kind] for kind in shape.kinds]
    rows: list[tuple[Any, ...]] = []
    volume = 0
    while len(rows) < batch and volume < BATCH_BYTES:
        raw = _next(cursor, shape)
        if raw is None:
            break
        try:
            row = tuple([None if value is None else read(value) for read, value in zip(readers, raw, strict=True)])
        except (ValueError, TypeError, OverflowError) as error:
            raise CarryFault(f"{shape.name_row(raw)}: holds what its column cannot ({error}); mend it first") from None
        rows.append(row)
        volume += sum([len(row[i] or "") for i in shape.unbounded])
    return rows


def _next(cursor: apsw.Cursor, shape: TableShape) -> tuple[Any, ...] | None:
    try:
        return cursor.fetchone()
    except UnicodeDecodeError as error:
        raise CarryFault(f"{shape.name}: a row holds text that is no UTF-8 ({error}); mend it first") from None


def _of_type(wanted: type[Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        # SQLite lets any value into any column; another database would refuse it much later.
        if type(value) is not wanted:
            raise TypeError(f"{type(value).__name__} instead of {wanted.__name__}")
        return value

    return read


def _read_boolean(value: Any) -> bool:
    if value not in (0, 1):
        raise ValueError("neither 0 nor 1")
    return bool(value)


def _read_moment(value: Any) -> datetime:
    return parse_rfc3339(value)


_READERS: dict[Kind, Callable[[Any], Any]] = {
    "text": _of_type(str), "integer": _of_type(int), "real": float, "boolean": _read_boolean, "time": _read_moment,
    "bytes": _of_type(bytes), "json": canonical_json,
}  # fmt: skip
