"""The file of a backup: a tar in the form of POSIX.1-1988, which any `tar` reads, sealed so that no damage goes unseen.

Members, in this order; each is at most a few MiB, so that neither writing nor reading holds more than that:

- `duly-backup.json`: format, version, Duly's version, dialect, schema revision, moment, tables with their columns.
- `tables/NAME/NNNNNN.jsonl.gz`: rows, one JSON array to a line, in the order of the primary key.
- `files/AB/CD/KEY.NNNN`: an attachment's bytes in pieces of 4 MiB, to be put one after the other.
- `manifest.json`: name, size and SHA-256 of every member of a table, the number of rows, and one digest over the keys,
  sizes and SHA-256 of all files.
- `sha256`: the SHA-256 of every byte before it. What follows it is as the tar format says, byte for byte.
"""

import base64
import gzip
import hashlib
import re
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, Protocol

import orjson

from duly.db.shapes import Kind

FORMAT, VERSION = "duly.backup", 1
HEAD, MANIFEST, SEAL = "duly-backup.json", "manifest.json", "sha256"
BLOCK = 512
RAW_PART_BYTES = 8 * 1024**2
FILE_PART_BYTES = 4 * 1024**2
TAIL_BYTES = 4 * BLOCK  # the seal's header and content, and the two empty blocks that end a tar
table_name = re.compile(r"tables/([a-z_]+)/(\d{6})\.jsonl\.gz").fullmatch
file_name = re.compile(r"files/(([0-9a-f]{2})/([0-9a-f]{2})/\2\3[0-9a-f]{28})\.(\d{4})").fullmatch


class BadArchive(Exception):
    """A file is no backup, or no whole one; the text is one line for an operator."""


class Watcher(Protocol):
    """Is told how far something is; `done` counts up to `total` within a step."""

    def begin(self, step: str, total: int) -> None:
        """A step begins."""
        ...

    def advance(self, done: int) -> None:
        """So much more is done."""
        ...


@dataclass(frozen=True, slots=True)
class TableHead:
    """What a table of the backup looked like."""

    name: str
    columns: tuple[str, ...]
    kinds: tuple[Kind, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """What is known when a backup begins. `key_check` tells whether a SECRET_KEY is the one it was made under."""

    duly: str
    dialect: str
    revision: str
    created_at: str
    key_check: str
    field_keys: tuple[str, ...]
    tables: tuple[TableHead, ...]
    format: str = FORMAT
    version: int = VERSION


@dataclass(slots=True)
class Manifest:
    """What is known when it ends.

    `missing` are the ids of attachments whose rows are in it and whose bytes were not to be had as the rows say;
    `unused` are the keys of files that were found to be others while they were written.
    """

    members: list[tuple[str, int, str]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    files: int = 0
    file_bytes: int = 0
    files_sha256: str = ""
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Archive:
    """A backup that was verified from its first byte to its last."""

    head: Head
    manifest: Manifest
    size: int


def _member_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _padding(size: int) -> bytes:
    return bytes(-size % BLOCK)


def tail_of(digest: str) -> bytes:
    """The only end that a file with this digest can have."""
    content = f"{digest}\n".encode()
    return _member_header(SEAL, len(content)) + content + _padding(len(content)) + bytes(2 * BLOCK)


class ArchiveWriter:
    """Writes one backup to a file that takes bytes in order; it need not be able to seek."""

    def __init__(self, file: BinaryIO, head: Head) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._files = hashlib.sha256()
        self._pending = bytearray()
        self._parts = 0
        self.size = 0
        self.manifest = Manifest()
        self._add(HEAD, orjson.dumps(asdict(head), option=orjson.OPT_INDENT_2))

    def add_rows(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Rows of portable values; all of a table before the next one's."""
        count = 0
        for row in rows:
            self._pending += orjson.dumps(row, default=_spell_bytes, option=_OPTIONS)
            count += 1
            if len(self._pending) >= RAW_PART_BYTES:
                self._end_part(table)
        self.manifest.rows[table] = self.manifest.rows.get(table, 0) + count

    def end_table(self, table: str) -> None:
        """No row of the table follows."""
        self.manifest.rows.setdefault(table, 0)
        if self._pending:
            self._end_part(table)
        self._parts = 0

    def _end_part(self, table: str) -> None:
        name = f"tables/{table}/{self._parts:06}.jsonl.gz"
        packed = gzip.compress(self._pending, 1, mtime=0)
        self._pending.clear()
        self._parts += 1
        self.manifest.members.append((name, len(packed), hashlib.sha256(packed).hexdigest()))
        self._add(name, packed)

    def add_file_part(self, key: str, number: int, data: bytes) -> None:
        """The next piece of an attachment's bytes."""
        self._add(f"files/{key}.{number:04}", data)

    def end_file(self, key: str, size: int, sha256: str, *, is_right: bool) -> None:
        """No piece of the file follows; it is what its row says, or it is there and not to be used."""
        if not is_right:
            self.manifest.unused.append(key)
        self.manifest.files += 1
        self.manifest.file_bytes += size
        self._files.update(file_line(key, size, sha256))

    def finish(self) -> None:
        """Write the manifest and the seal."""
        self.manifest.files_sha256 = self._files.hexdigest()
        # SQLAlchemy's names are a kind of str that orjson refuses as a key.
        self._add(MANIFEST, orjson.dumps(asdict(self.manifest), option=orjson.OPT_NON_STR_KEYS))
        tail = tail_of(self._hash.hexdigest())
        self._file.write(tail)
        self.size += len(tail)

    def _add(self, name: str, data: bytes) -> None:
        for part in (_member_header(name, len(data)), data, _padding(len(data))):
            self._hash.update(part)
            self._file.write(part)
            self.size += len(part)


_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z


def _spell_bytes(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} is no portable value")


def file_line(key: str, size: int, sha256: str) -> bytes:
    """What an attachment adds to the digest over all of them."""
    return f"{key} {size} {sha256}\n".encode()
