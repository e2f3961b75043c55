"""Puts a backup into an empty database and an own store of attachments: all of it, or nothing."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from duly.cache.redis import forget_everything
from duly.db import migrate
from duly.db.loads import Load, look_at, open_load
from duly.db.shapes import CarryFault
from duly.db.snapshots import open_snapshot
from duly.db.staging import open_staging, upgrade_staging
from duly.db.url import DatabaseAddress
from duly.errors import DulyError
from duly.files.store import FileMissing, FileStore
from duly.kit.ciphers import FieldCipher
from duly.operations import startup
from duly.operations.archive import Archive, BadArchive, Watcher
from duly.operations.archive_reading import read_files, read_rows, verify
from duly.operations.backup import BackupFault, spell_key_check, storing
from duly.settings import Settings

Batch = tuple[str, Sequence[str], list[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put in place. `remarks` are lines about what is not as it was."""

    archive: Archive
    rows: int
    files: int
    remarks: tuple[str, ...]


async def check_archive(settings: Settings, file: BinaryIO, watcher: Watcher, *, any_key: bool = False) -> Archive:
    """Read the backup from end to end, and see whether it can be restored here. Changes nothing.

    Raises `BadArchive` for a file that is damaged, of another program or of a newer version, and `BackupFault` for one
    that was made under keys that are not here.
    """
    archive = await asyncio.to_thread(verify, file, watcher)
    head = archive.head
    if not migrate.knows(head.revision):
        raise BadArchive(
            f"the backup was made by a newer version, Duly {head.duly} with the schema {head.revision}; "
            "install that version, or a newer one"
        )
    if not any_key and (fault := _missing_keys(settings, archive)) is not None:
        raise BackupFault(fault)
    return archive


def _missing_keys(settings: Settings, archive: Archive) -> str | None:
    head = archive.head
    if head.key_check not in {spell_key_check(key, head.created_at) for key in startup.find_secrets(settings)}:
        return (
            "the backup was made under another SECRET_KEY; set that one (in development: copy the file "
            f"{startup.KEY_FILE} of its DATA_DIR), or add it to SECRET_KEY_PREVIOUS. With --any-key everybody is "
            "signed out, mails that wait are lost, and the audit log does not verify"
        )
    lacking = sorted(set(head.field_keys) - set(FieldCipher(startup.field_keys(settings)).key_ids))
    if lacking:
        return (
            f"fields of the backup are encrypted under the key {', '.join(lacking)}, which is not here; add it to "
            "FIELD_ENCRYPTION_KEY. With --any-key addresses and agents from before stay unreadable"
        )
    return None


async def check_target(address: DatabaseAddress) -> None:
    """Raises `BackupFault` unless the database is empty: a restore never deletes anything."""
    if not (await look_at(address)).is_empty:
        remedy = (
            "move the file aside, with those that end in -wal and -shm"
            if address.dialect == "sqlite"
            else "make a new database and name it in DATABASE_URL"
        )
        raise BackupFault(f"{address.safe_text} is not empty and was left as it is; {remedy}")


async def restore(settings: Settings, file: BinaryIO, archive: Archive, watcher: Watcher) -> Restored:
    """Load a verified archive. What fails or is killed leaves no row and, but for unused bytes, no file behind.

    Raises `BackupFault`, `CarryFault`, and `DulyError` when the store of attachments does not take them.
    """
    address = startup.check_settings(settings)
    await check_target(address)
    try:
        await migrate.upgrade(address)
    except migrate.FAULTS as error:
        raise CarryFault(startup.unreachable(address, error)) from error
    async with _Files.opened(settings) as files, open_load(address) as load:
        if not await load.is_empty():
            raise BackupFault(f"{address.safe_text} is not empty any more; stop the servers, and give a new database")
        async with _at_head(file, archive, watcher) as batches:
            loaded = await _load(load, archive, batches, watcher)
        # Before the commit: a row never lacks its bytes, and bytes without a row are swept after an hour.
        await files.put(file, archive, watcher)
        await load.finish()
        files.keep()
    remarks = [line async for line in _recount(address, loaded)]
    remarks += await _forget_cache(settings)
    return Restored(archive, sum(loaded.values()), files.count, tuple(remarks))


@contextlib.asynccontextmanager
async def _at_head(file: BinaryIO, archive: Archive, watcher: Watcher) -> AsyncIterator[AsyncIterator[Batch]]:
    """The rows as the present schema has them: those of an older one are upgraded in a file beside."""
    if archive.head.revision == migrate.head():
        yield _from_archive(file, archive)
        return
    with tempfile.TemporaryDirectory(prefix="duly-restore-") as folder:
        path = Path(folder) / "older.db"
        watcher.begin("upgrade", sum(archive.manifest.rows.values()))
        async with open_staging(path, archive.head.revision) as staging:
            kinds = {table.name: table.kinds for table in archive.head.tables}
            async for table, columns, rows in _from_archive(file, archive):
                await staging.add(table, columns, kinds[table], rows)
                watcher.advance(len(rows))
            await staging.finish()
        await upgrade_staging(staging.address)
        yield _from_database(staging.address)


async def _from_archive(file: BinaryIO, archive: Archive) -> AsyncIterator[Batch]:
    parts = read_rows(file, archive)
    while (part := await asyncio.to_thread(next, parts, None)) is not None:
        table, rows = part
        yield table.name, table.columns, rows


async def _from_database(address: DatabaseAddress) -> AsyncIterator[Batch]:
    async with open_snapshot(address) as snapshot:
        for shape in snapshot.tables:
            async for rows in snapshot.rows(shape.name):
                yield shape.name, shape.columns, rows


async def _load(load: Load, archive: Archive, batches: AsyncIterator[Batch], watcher: Watcher) -> dict[str, int]:
    known = {shape.name for shape in load.tables}
    loaded = dict.fromkeys(known, 0)
    watcher.begin("load", sum(archive.manifest.rows.values()))
    async with contextlib.aclosing(batches) as each:  # type: ignore[type-var]
        async for table, columns, rows in each:
            if table not in known:
                raise BackupFault(f"this Duly has no table {table}; restore the backup with Duly {archive.head.duly}")
            await load.add(table, columns, rows)
            loaded[table] += len(rows)
            watcher.advance(len(rows))
    if archive.head.revision == migrate.head():
        wrong = [name for name, count in archive.manifest.rows.items() if loaded.get(name, 0) != count]
        if wrong:
            raise BackupFault(f"the backup holds not as many rows of {', '.join(wrong)} as it says; use another one")
    return loaded


async def _recount(address: DatabaseAddress, loaded: dict[str, int]) -> AsyncIterator[str]:
    async with open_snapshot(address) as snapshot:
        for shape in snapshot.tables:
            found = await snapshot.count(shape.name)
            if found != loaded.get(shape.name, 0):
                yield f"{shape.name} has {found} rows and not {loaded.get(shape.name, 0)}: was a server running?"


async def _forget_cache(settings: Settings) -> list[str]:
    """What was counted before is of another feed, which may have been further."""
    if settings.redis_url is None:
        return []
    try:
        await forget_everything(settings.redis_url.get_secret_value())
    except OSError:
        return ["REDIS_URL: Redis does not answer; delete its keys duly:cache:* before a server starts"]
    return []


class _Files:
    """Writes the bytes of attachments, and takes back what it wrote unless it is told to `keep` it."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._new: list[str] = []
        self.count = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, settings: Settings) -> AsyncIterator["_Files"]:
        store = storing(settings)
        files = cls(store)
        try:
            yield files
        finally:
            await asyncio.shield(files._take_back())
            store.close()

    async def put(self, file: BinaryIO, archive: Archive, watcher: Watcher) -> None:
        """Write all of them. One that is there already is written over: it can only be the same."""
        watcher.begin("files", archive.manifest.files)
        unused = set(archive.manifest.unused)
        each = read_files(file)
        while (found := await asyncio.to_thread(next, each, None)) is not None:
            key, source = found
            if key in unused:
                continue
            if not await self._is_there(key):
                self._new.append(key)
            await self._store.put(key, source)
            self.count += 1
            watcher.advance(1)

    def keep(self) -> None:
        """The rows are committed."""
        self._new.clear()

    async def _is_there(self, key: str) -> bool:
        try:
            pieces = await self._store.open(key, 0, 1)
        except FileMissing:
            return False
        async with contextlib.aclosing(pieces):
            # Only a generator that was begun closes its file.
            await anext(pieces, b"")
        return True

    async def _take_back(self) -> None:
        for key in self._new:
            with contextlib.suppress(DulyError):
                await self._store.delete(key)
