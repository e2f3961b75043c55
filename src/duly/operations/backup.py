"""Writes a backup: what was committed when it began, while others go on writing, and the bytes that belong to it."""

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from duly import __version__
from duly.db.database import open_database
from duly.db.shapes import TableShape
from duly.db.snapshots import Snapshot, open_snapshot
from duly.files.opening import open_files
from duly.files.store import FileMissing, FileStore
from duly.kit.ciphers import FieldCipher
from duly.kit.clock import now, rfc3339
from duly.kit.secrets import derive_key, keyed_hash
from duly.operations import startup
from duly.operations.archive import FILE_PART_BYTES, ArchiveWriter, Head, TableHead, Watcher
from duly.operations.archive_reading import verify
from duly.settings import Settings
from duly.tasks import attachment_queries

UNFINISHED = ".part"
_FILES = "attachments"


class BackupFault(Exception):
    """A backup cannot be made or used; the text is one line for an operator."""


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that is in its place. `missing` are attachments whose rows it holds, and whose bytes it does not."""

    bytes: int
    rows: int
    files: int
    seconds: float
    missing: tuple[str, ...]


def spell_key_check(secret: str, head_moment: str) -> str:
    """What tells, and nothing more, whether a SECRET_KEY is the one that a backup was made under."""
    return keyed_hash(derive_key(secret, "backup"), f"{head_moment} duly.backup")


def storing(settings: Settings) -> FileStore:
    """Where attachments are, also while they are switched off: their rows are there."""
    files = open_files(settings.model_copy(update={"attachments_enabled": True}))
    assert files is not None  # noqa: S101 - it is None without attachments alone
    return files


async def write_file(settings: Settings, path: Path, watcher: Watcher, *, overwrite: bool = False) -> Made:
    """Make a backup at `path`, verified: it has its name when it is whole and durable, and not before.

    Raises `BackupFault`, `CarryFault`, `BadArchive`, `SettingsFault`, OSError, and `DulyError` when the store of
    attachments does not answer; then nothing is left of it.
    """
    begun = time.monotonic()
    _check_name(path, overwrite=overwrite)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with _create(draft) as file:
            writer = await _write(settings, file, watcher)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        with draft.open("rb") as file:
            await asyncio.to_thread(verify, file, watcher)
        _publish(draft, path, overwrite=overwrite)
    finally:
        draft.unlink(missing_ok=True)
    return _made(writer, begun)


async def write_stream(settings: Settings, file: BinaryIO, watcher: Watcher) -> Made:
    """The same into a pipe: whoever is at its end verifies it."""
    begun = time.monotonic()
    writer = await _write(settings, file, watcher)
    file.flush()
    return _made(writer, begun)


def _made(writer: ArchiveWriter, begun: float) -> Made:
    found = writer.manifest
    return Made(
        writer.size, sum(found.rows.values()), found.files, time.monotonic() - begun, tuple(found.missing)
    )  # fmt: skip


def _check_name(path: Path, *, overwrite: bool) -> None:
    if path.is_dir() or (path.exists() and not overwrite):
        raise BackupFault(f"{path} exists; give another name" + ("" if path.is_dir() else ", or --overwrite"))


def _create(draft: Path) -> BinaryIO:
    return os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _publish(draft: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        draft.replace(path)
    else:
        try:
            os.link(draft, path)
        except FileExistsError:
            raise BackupFault(f"{path} exists; give another name, or --overwrite") from None
        except OSError:
            draft.replace(path)  # a file system without hard links
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


async def _write(settings: Settings, file: BinaryIO, watcher: Watcher) -> ArchiveWriter:
    address = startup.check_settings(settings)
    async with open_snapshot(address) as snapshot:
        moment = now()
        writer = ArchiveWriter(file, _head(settings, snapshot, address.dialect, rfc3339(moment)))
        async with _Bytes.opened(settings, writer) as files:
            for shape in snapshot.tables:
                watcher.begin(shape.name, await snapshot.count(shape.name))
                async for rows in snapshot.rows(shape.name):
                    kept = await files.copy(shape, rows) if shape.name == _FILES else rows
                    await asyncio.to_thread(writer.add_rows, shape.name, kept)
                    watcher.advance(len(rows))
                await asyncio.to_thread(writer.end_table, shape.name)
    await asyncio.to_thread(writer.finish)
    return writer


def _head(settings: Settings, snapshot: Snapshot, dialect: str, moment: str) -> Head:
    return Head(
        duly=__version__,
        dialect=dialect,
        revision=snapshot.revision,
        created_at=moment,
        key_check=spell_key_check(startup.find_secret(settings), moment),
        field_keys=FieldCipher(startup.field_keys(settings)).key_ids,
        tables=tuple(TableHead(shape.name, shape.columns, shape.kinds) for shape in snapshot.tables),
    )


class _Bytes:
    """Copies the bytes of attachments behind the snapshot's back.

    A file may be removed while it is copied. Its row was removed first: then it is left out of the backup. A row that
    is still there and has lost its bytes is kept and named.
    """

    def __init__(self, settings: Settings, files: FileStore, writer: ArchiveWriter) -> None:
        self._settings = settings
        self._files = files
        self._writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, settings: Settings, writer: ArchiveWriter) -> AsyncIterator["_Bytes"]:
        files = storing(settings)
        try:
            yield cls(settings, files, writer)
        finally:
            files.close()

    async def copy(self, shape: TableShape, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """The rows that belong into the backup."""
        places = [shape.columns.index(name) for name in ("id", "key", "size", "sha256")]
        kept, lost = [], {}
        for row in rows:
            attachment_id, key, size, sha256 = (row[place] for place in places)
            if not await self._copy_file(key, size, sha256):
                lost[key] = attachment_id
            kept.append(row)
        if not lost:
            return kept
        there = await self._still_there(sorted(lost))
        self._writer.manifest.missing += [lost[key] for key in sorted(there)]
        return [row for row in kept if row[places[1]] not in lost or row[places[1]] in there]

    async def _copy_file(self, key: str, size: int, sha256: str) -> bool:
        """Whether the file was there as its row says. Pieces of one that was not are in the archive, and not used."""
        digest, number, found = hashlib.sha256(), 0, 0
        pending = bytearray()
        try:
            pieces = await self._files.open(key, 0, size + 1)
        except FileMissing:
            return False
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                digest.update(piece)
                found += len(piece)
                pending += piece
                if len(pending) >= FILE_PART_BYTES:
                    await asyncio.to_thread(self._writer.add_file_part, key, number, bytes(pending))
                    number += 1
                    pending.clear()
        if pending:
            await asyncio.to_thread(self._writer.add_file_part, key, number, bytes(pending))
        is_right = (found, digest.hexdigest()) == (size, sha256)
        if found:
            self._writer.end_file(key, found, digest.hexdigest(), is_right=is_right)
        return is_right

    async def _still_there(self, keys: list[str]) -> set[str]:
        database = await open_database(self._settings)
        try:
            return {key for key in keys if await database.fetch(attachment_queries.LIST_KEYS, first=key, last=key)}
        finally:
            await database.close()
