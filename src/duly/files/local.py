"""Files in a folder of this machine: written beside their place, made durable, and then put there in one step."""

import asyncio
import contextlib
import errno
import io
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from duly.files.store import (
    PIECE_BYTES,
    FileMissing,
    Source,
    StoredFile,
    check_key,
    is_key,
    new_key,
    refusal_of,
)

THREADS = 8
UNFINISHED = ".part"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

log = logging.getLogger(__name__)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class LocalFiles:
    """A `FileStore` below `root`, which is made when the first file comes. Threads of its own do all the waiting."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._threads = ThreadPoolExecutor(THREADS, "files")  # starts a thread when there is work for it

    async def put(self, key: str, source: Source) -> None:
        """See `FileStore.put`."""
        await self._run(self._write, check_key(key), source)

    async def open(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """See `FileStore.open`."""
        file = await self._run(self._open, check_key(key), start)
        return self._pieces(file, end - start)

    async def _pieces(self, file: BinaryIO, left: int) -> AsyncGenerator[bytes]:
        try:
            while left > 0 and (piece := await self._run(file.read, min(PIECE_BYTES, left))):
                left -= len(piece)
                yield piece
        finally:
            file.close()

    async def delete(self, key: str) -> None:
        """See `FileStore.delete`; it also takes what `pages` lists as unfinished."""
        check_key(key.removesuffix(UNFINISHED))
        await self._run((self.root / key).unlink, missing_ok=True)

    async def pages(self) -> AsyncIterator[Sequence[StoredFile]]:
        """See `FileStore.pages`; a page is one of the 256 folders."""
        for folder in await self._run(_names, self.root):
            page = await self._run(self._list, folder)
            if page:
                yield page

    async def check(self) -> None:
        """See `FileStore.check`; whoever asks says what is wrong, so nothing is logged."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._try)
        except OSError as error:
            raise refusal_of(error) from error

    def close(self) -> None:
        """See `FileStore.close`."""
        self._threads.shutdown(wait=False)

    async def _run(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **options: Arguments.kwargs
    ) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: work(*args, **options))
        except OSError as error:
            log.error("The file store at %s: %s", self.root, error)
            raise refusal_of(error) from error

    def _try(self) -> None:
        key = new_key()
        self._write(key, io.BytesIO(b"check"))
        (self.root / key).unlink()

    def _write(self, key: str, source: Source) -> None:
        folder = self._make_folder(key)
        path = self.root / key
        unfinished = path.with_name(path.name + UNFINISHED)
        # A restore that was killed leaves one, and writes the same keys when it is run again.
        unfinished.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(unfinished, _NEW_FILE, 0o600), "wb", buffering=0) as file:
                while piece := source.read(PIECE_BYTES):
                    _write_all(file, piece)
                os.fsync(file.fileno())
            unfinished.rename(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _sync_folder(folder)

    def _make_folder(self, key: str) -> Path:
        """The folder of a key; a folder is durable only with its entry in the one above."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = self.root
        for name in key.split("/")[:-1]:
            above, folder = folder, folder / name
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
                _sync_folder(above)
        return folder

    def _open(self, key: str, start: int) -> BinaryIO:
        try:
            file = io.FileIO(os.open(self.root / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
        except FileNotFoundError:
            raise FileMissing(key) from None
        file.seek(start)
        return file

    def _list(self, first: str) -> list[StoredFile]:
        found = []
        for second in _names(self.root / first):
            found += list(_files(self.root, f"{first}/{second}"))
        return sorted(found, key=lambda file: file.key)


def _write_all(file: io.RawIOBase, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        written = file.write(view)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(folder: Path) -> list[str]:
    """The folders of two characters in it; what else lies there is not ours."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if len(e.name) == 2 and e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _files(root: Path, folder: str) -> Iterator[StoredFile]:
    with contextlib.suppress(FileNotFoundError), os.scandir(root / folder) as entries:
        for entry in entries:
            key = f"{folder}/{entry.name}"
            if is_key(key.removesuffix(UNFINISHED)):
                # A file that is removed meanwhile is no fault.
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    yield StoredFile(key, datetime.fromtimestamp(found.st_mtime, UTC), found.st_size)
