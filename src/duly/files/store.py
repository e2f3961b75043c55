"""Where the bytes of files lie: the port, the names in it, and what it says when it cannot serve."""

import errno
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from duly.errors import StorageFull, Unavailable

PIECE_BYTES = 256 * 1024
"""How much of a file is in memory at a time."""

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_is_key = re.compile(r"([0-9a-f]{2})/([0-9a-f]{2})/\1\2[0-9a-f]{28}").fullmatch


class FileMissing(Exception):
    """The store has no file under this key."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file as the store lists it; a copy that was never finished is one too. `modified` is aware."""

    key: str
    modified: datetime
    size: int


class Source(Protocol):
    """What a file is read from; it blocks, so stores read it in a thread."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size`; empty at the end."""
        ...


class FileStore(Protocol):
    """Keeps files under keys from `new_key`. A file is there whole or not at all, and never changes.

    Every method raises `Unavailable` (`FILES_UNAVAILABLE`) while the store does not answer.
    """

    async def put(self, key: str, source: Source) -> None:
        """Copy all of `source`, durably. Raises `StorageFull`; then nothing is left of it."""
        ...

    async def open(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """The bytes from `start` up to `end`, in pieces; whoever takes them closes it. Raises `FileMissing`."""
        ...

    async def delete(self, key: str) -> None:
        """Remove a file; one that is not there is gone already."""
        ...

    def pages(self) -> AsyncIterator[Sequence[StoredFile]]:
        """All files, a page at a time, each page sorted by key; what Duly did not name is left out."""
        ...

    async def check(self) -> None:
        """Write a small file and remove it. Raises like `put`."""
        ...

    def close(self) -> None:
        """Give back what the store holds open."""
        ...


def new_key() -> str:
    """A name that says nothing of the file, spread over 65,536 folders."""
    name = uuid.uuid4().hex
    return f"{name[:2]}/{name[2:4]}/{name}"


def check_key(key: str) -> str:
    """The key itself. Raises ValueError for what `new_key` cannot have made, so that no path leaves the store."""
    if not _is_key(key):
        raise ValueError("not a key of the file store")
    return key


def is_key(key: str) -> bool:
    """Whether `new_key` could have made this."""
    return _is_key(key) is not None


def refusal_of(error: OSError) -> StorageFull | Unavailable:
    """What a client is told about a disk that does not take or give a file."""
    if error.errno in _DISK_FULL:
        return StorageFull("The disk for files is full. Nothing was stored; tell the operator.")
    return unavailable()


def unavailable() -> Unavailable:
    """The answer while the store does not serve; details are for the log."""
    return Unavailable(
        "The store of the files does not answer right now. Nothing was lost; try again.", code="FILES_UNAVAILABLE"
    )
