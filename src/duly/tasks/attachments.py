"""Files of tasks: taking them in, listing, finding and removing them, within a size, a count and a quota."""

import hashlib
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO

from duly.db.conflicts import ForeignKeyViolation
from duly.db.unit import Database, Reader, Unit
from duly.errors import Conflict, DulyError, NotFound, TooLarge
from duly.files.store import FileMissing, FileStore, Source, new_key
from duly.files.types import find_type
from duly.identity.principals import Principal
from duly.kit.clock import now
from duly.kit.ids import new_id
from duly.tasks import attachment_queries as queries
from duly.tasks.tasks import missing as missing_task

MOST_OF_A_TASK = 50
# A file without a row may belong to an upload that is under way; none takes this long.
ORPHAN_AGE = timedelta(hours=1)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Room:
    """How much a caller may store, in bytes: one file, and all files."""

    largest: int
    quota: int


@dataclass(frozen=True, slots=True)
class TakenFile:
    """A file whose bytes are in the store and which no task has yet."""

    key: str
    name: str
    content_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredAttachment(TakenFile):
    """A file of a task."""

    id: str
    task_id: str


class _Measured:
    """Counts and hashes what is read through it; `hashlib` lets other threads run meanwhile."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int, /) -> bytes:
        piece = self._source.read(size)
        self._hash.update(piece)
        self.size += len(piece)
        return piece

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def check_size(size: int, room: Room) -> None:
    """Raises `TooLarge` (`ATTACHMENT_TOO_LARGE`)."""
    if size > room.largest:
        raise TooLarge(f"The file is larger than {room.largest} bytes. Send a smaller one.",
                       code="ATTACHMENT_TOO_LARGE")  # fmt: skip


async def check_room(reader: Reader, actor: Principal, task_id: str, size: int, room: Room) -> None:
    """Whether the task and its owner have room for `size` bytes now.

    Raises `NotFound` for a task that is not the caller's or lies in the trash, `TooLarge` (`QUOTA_EXCEEDED`),
    `Conflict` (`TOO_MANY_ATTACHMENTS`).
    """
    usage = await reader.first(queries.FIND_USAGE, task_id=task_id, user_id=actor.user_id)
    if usage is None:
        raise missing_task()
    count, used = usage
    if count >= MOST_OF_A_TASK:
        raise Conflict(f"The task has {MOST_OF_A_TASK} attachments, which is the most. Delete one first.",
                       code="TOO_MANY_ATTACHMENTS")  # fmt: skip
    if used + size > room.quota:
        raise TooLarge(f"Your files would take more than {room.quota} bytes in all. Delete some first.",
                       code="QUOTA_EXCEEDED")  # fmt: skip


async def take_in(files: FileStore, source: BinaryIO, name: str) -> TakenFile:
    """Copy a file into the store. `source` can be read from its beginning, and is, outside of any transaction.

    Raises `StorageFull` and `Unavailable`.
    """
    measured = _Measured(source)
    key = new_key()
    await files.put(key, measured)
    return TakenFile(key, name, await find_type(source), measured.size, measured.sha256)


async def add_attachment(unit: Unit, actor: Principal, task_id: str, file: TakenFile, room: Room) -> tuple[str, str]:
    """Give a file that was taken in to a task: the new id, and the JSON document. Raises as `check_room`.

    Uploads of one user wait here for one another, so that count and quota are exact.
    """
    await unit.begin()
    await unit.fetch(queries.HOLD_NAME, held=f"files:{actor.user_id}")
    await check_room(unit, actor, task_id, file.size, room)
    attachment_id = new_id()
    try:
        row = await unit.first(
            queries.INSERT_ATTACHMENT, id=attachment_id, task_id=task_id, user_id=actor.user_id, name=file.name,
            content_type=file.content_type, size=file.size, sha256=file.sha256, key=file.key, created_at=now(),
        )  # fmt: skip
    except ForeignKeyViolation:
        raise missing_task() from None
    assert row is not None  # noqa: S101 - INSERT … RETURNING of one row gives one row
    return attachment_id, row[0]


async def list_attachments(reader: Reader, actor: Principal, task_id: str) -> Sequence[str]:
    """The JSON documents of all of a task's files, oldest first. Raises `NotFound`."""
    rows = await reader.fetch(queries.LIST_ATTACHMENTS, task_id=task_id, user_id=actor.user_id)
    if not rows:
        raise missing_task()
    return [document for attachment_id, document in rows if attachment_id is not None]


async def find_attachment(reader: Reader, actor: Principal, task_id: str, attachment_id: str) -> StoredAttachment:
    """Raises `NotFound` unless the file is that task's, and the task the caller's and not in the trash."""
    row = await reader.first(
        queries.FIND_ATTACHMENT, task_id=task_id, user_id=actor.user_id, attachment_id=attachment_id
    )
    if row is None:
        raise missing()
    key, name, content_type, size, sha256 = row
    return StoredAttachment(key, name, content_type, size, sha256, attachment_id, task_id)


async def open_attachment(
    reader: Reader, files: FileStore, actor: Principal, found: StoredAttachment, *, start: int, end: int
) -> AsyncGenerator[bytes]:
    """The bytes from `start` up to `end`. Raises `NotFound`, `Unavailable`.

    A row whose bytes are gone is a fault of the server, such as a store that was restored without them: 500
    `FILE_MISSING`.
    """
    try:
        return await files.open(found.key, start, end)
    except FileMissing:
        # Unless it was deleted this moment.
        await find_attachment(reader, actor, found.task_id, found.id)
        log.error("The file store has no %s, which attachment %s names", found.key, found.id)
        raise DulyError("The bytes of this file are lost. Tell the operator, and attach it again.",
                        code="FILE_MISSING") from None  # fmt: skip


async def remove_attachment(unit: Unit, actor: Principal, task_id: str, attachment_id: str) -> str:
    """The key of the bytes, which are to be discarded once the removal is committed. Raises `NotFound`."""
    row = await unit.first(
        queries.DELETE_ATTACHMENT, task_id=task_id, user_id=actor.user_id, attachment_id=attachment_id
    )
    if row is None:
        raise missing()
    return str(row[0])


async def discard(files: FileStore, key: str) -> None:
    """Remove the bytes of a file that no task has. What cannot be removed now is left to the sweep."""
    try:
        await files.delete(key)
    except DulyError:
        log.warning("The file store keeps %s for now; a sweep removes it", key)


async def sweep(database: Database, files: FileStore, *, moment: datetime | None = None) -> int:
    """Remove what no task has: cut-off uploads, and files of purged tasks and deleted accounts. How many there were.

    Raises `Unavailable`; what could not be looked up is then left. `moment` is the time to count from, now by default.
    """
    removed = 0
    cutoff = (moment or now()) - ORPHAN_AGE
    async for page in files.pages():
        old = [file.key for file in page if file.modified < cutoff]
        if not old:
            continue
        used = {row[0] for row in await database.fetch(queries.LIST_KEYS, first=old[0], last=old[-1])}
        for key in old:
            if key not in used:
                await files.delete(key)
                removed += 1
    return removed


def missing() -> NotFound:
    """Absent, another task's and somebody else's are one answer."""
    return NotFound("There is no such attachment.")
