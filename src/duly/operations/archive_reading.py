"""Reads a backup: all of it is checked before anything of it is used."""

import base64
import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol

import orjson
from pydantic import TypeAdapter, ValidationError

from duly.kit.clock import parse_rfc3339
from duly.operations.archive import (
    BLOCK,
    FILE_PART_BYTES,
    FORMAT,
    HEAD,
    MANIFEST,
    SEAL,
    TAIL_BYTES,
    VERSION,
    Archive,
    BadArchive,
    Head,
    Manifest,
    TableHead,
    Watcher,
    file_line,
    file_name,
    table_name,
    tail_of,
)  # fmt: skip

MOST_PART_BYTES = 256 * 1024**2
_heads, _manifests = TypeAdapter(Head), TypeAdapter(Manifest)


def verify(file: BinaryIO, watcher: Watcher) -> Archive:
    """Read the whole file, which can seek, and check all of it. Raises `BadArchive`."""
    size = file.seek(0, 2)
    file.seek(0)
    head = _read_head(file)
    file.seek(0)
    watcher.begin("verify", size)
    digest = hashlib.sha256()
    check = _Check()
    for name, data in _members(_Hashing(file, digest, size - TAIL_BYTES)):
        check.take(name, data)
        watcher.advance(len(data))
    if check.manifest is None:
        raise BadArchive(_CUT_OFF)
    if file.read(TAIL_BYTES + 1) != tail_of(digest.hexdigest()):
        raise BadArchive("the file is damaged: its SHA-256 is not the one that it was sealed with; use another backup")
    return Archive(head, check.manifest, size)


_CUT_OFF = "the file is cut off: its end is not there; copy it again, or use another backup"
_NO_BACKUP = "the file is no backup of Duly; give one that 'duly backup' made"


def _read_head(file: BinaryIO) -> Head:
    """Raises `BadArchive`."""
    try:
        name, data = next(_members(file))
        found = orjson.loads(data) if name == HEAD else None
    except (StopIteration, ValueError):
        raise BadArchive(_NO_BACKUP) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BadArchive(_NO_BACKUP)
    if found.get("version") != VERSION:
        made = f"its form is version {found.get('version')}, made by Duly {found.get('duly')}"
        raise BadArchive(f"this Duly cannot read the backup: {made}; install that version, or a newer one")
    try:
        return _heads.validate_python(found)
    except ValidationError:
        raise BadArchive("the file is damaged: its head cannot be read; use another backup") from None


class _Check:
    """Compares what comes by with the manifest, which comes last."""

    def __init__(self) -> None:
        self.manifest: Manifest | None = None
        self._members: list[tuple[str, int, str]] = []
        self._file: tuple[str, Any, int] | None = None
        self._files = hashlib.sha256()
        self._count = self._bytes = 0

    def take(self, name: str, data: bytes) -> None:
        """The next member. Raises `BadArchive`."""
        if self.manifest is not None:
            raise BadArchive(f"the file is damaged: {name} follows the manifest; use another backup")
        if match := file_name(name):
            self._take_file(match[1], data)
            return
        self._end_file()
        if table_name(name):
            self._members.append((name, len(data), hashlib.sha256(data).hexdigest()))
        elif name == MANIFEST:
            self._compare(data)
        elif name != HEAD:
            raise BadArchive(f"the file is damaged: {name!r} is no member of a backup; use another backup")

    def _take_file(self, key: str, data: bytes) -> None:
        if self._file is not None and self._file[0] != key:
            self._end_file()
        _, digest, size = self._file or (key, hashlib.sha256(), 0)
        digest.update(data)
        self._file = (key, digest, size + len(data))

    def _end_file(self) -> None:
        if self._file is not None:
            key, digest, size = self._file
            self._files.update(file_line(key, size, digest.hexdigest()))
            self._count, self._bytes, self._file = self._count + 1, self._bytes + size, None

    def _compare(self, data: bytes) -> None:
        try:
            manifest = self.manifest = _manifests.validate_python(orjson.loads(data))
        except (ValueError, ValidationError):
            raise BadArchive("the file is damaged: its manifest cannot be read; use another backup") from None
        for wanted, found in zip(manifest.members, self._members, strict=False):
            if tuple(wanted) != found:
                raise BadArchive(f"the file is damaged: {wanted[0]} is not as it was written; use another backup")
        files = (manifest.files, manifest.file_bytes, manifest.files_sha256)
        if len(manifest.members) != len(self._members) or files != (self._count, self._bytes, self._files.hexdigest()):
            raise BadArchive(
                "the file is damaged: a member is missing, or is not as it was written; use another backup"
            )


class _Hashing:
    """Reads up to a limit and hashes what it gives."""

    def __init__(self, file: BinaryIO, digest: Any, limit: int) -> None:
        self._file, self._digest, self._left = file, digest, limit

    def read(self, size: int) -> bytes:
        data = self._file.read(max(0, min(size, self._left)))
        self._left -= len(data)
        self._digest.update(data)
        return data


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _members(file: _Readable) -> Iterator[tuple[str, bytes]]:
    """Each member up to the seal. Raises `BadArchive`."""
    while header := file.read(BLOCK):
        try:
            info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
            raise BadArchive("the file is damaged or cut off: a member's header cannot be read; use another backup") \
                from None  # fmt: skip
        if info.name == SEAL:
            return
        if not info.isreg() or not 0 <= info.size <= MOST_PART_BYTES:
            raise BadArchive(f"the file is damaged: {info.name!r} is no member of a backup; use another backup")
        data = file.read(info.size)
        if len(data) != info.size or len(file.read(-info.size % BLOCK)) != -info.size % BLOCK:
            raise BadArchive(_CUT_OFF)
        yield info.name, data


def read_rows(file: BinaryIO, archive: Archive) -> Iterator[tuple[TableHead, list[tuple[Any, ...]]]]:
    """The rows of a verified archive, a part at a time, each table as it stands in the file."""
    tables = {table.name: table for table in archive.head.tables}
    for name, data in _from_start(file):
        if match := table_name(name):
            table = tables[match[1]]
            yield table, _read_part(table, data)


def _read_part(table: TableHead, data: bytes) -> list[tuple[Any, ...]]:
    readers = [(place, read) for place, kind in enumerate(table.kinds) if (read := _READERS.get(kind))]
    rows = []
    for line in zlib.decompress(data, 31).splitlines():
        row = orjson.loads(line)
        for place, read in readers:
            if row[place] is not None:
                row[place] = read(row[place])
        rows.append(tuple(row))
    return rows


_READERS: dict[str, Callable[[Any], Any]] = {"time": parse_rfc3339, "bytes": base64.b64decode}


def read_files(file: BinaryIO) -> Iterator[tuple[str, "FileSource"]]:
    """Each attachment of a verified archive: its key, and its bytes, to be read before the next one is asked for."""
    members = _from_start(file)
    held: tuple[str, bytes] | None = None
    while True:
        held = held or next(((name, data) for name, data in members if file_name(name)), None)
        if held is None:
            return
        match = file_name(held[0])
        key = match[1] if match else ""
        source = FileSource(key, held[1], members)
        yield key, source
        while source.read(FILE_PART_BYTES):
            pass
        held = source.next


def _from_start(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    file.seek(0)
    return _members(file)


class FileSource:
    """One attachment's bytes; `next` is the first piece of the one after it, once this one is read."""

    def __init__(self, key: str, first: bytes, members: Iterator[tuple[str, bytes]]) -> None:
        self._key, self._data, self._members = key, memoryview(first), members
        self.next: tuple[str, bytes] | None = None
        self._ended = False

    def read(self, size: int, /) -> bytes:
        """The next bytes; empty at the end."""
        if not self._data and not self._ended:
            self._take()
        piece, self._data = bytes(self._data[:size]), self._data[size:]
        return piece

    def _take(self) -> None:
        name, data = next(self._members, ("", b""))
        match = file_name(name)
        if match and match[1] == self._key:
            self._data = memoryview(data)
            return
        self._ended = True
        self.next = (name, data) if match else None
