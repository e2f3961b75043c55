"""A disk that forgets: an SQLite VFS that knows which writes were not synced, and what a power cut may leave of them.

The process sees its files as an operating system's cache shows them. Beside them stands what the disk is sure to hold:
a file's bytes as they were at its last sync, a name as it was at the folder's last sync. At the cut each 512-byte
sector of every write since then is kept or dropped by itself, so writes are lost, torn and overtaken by later ones; a
file may have grown without its bytes, and a file that was created or deleted may be as it was before.
"""

import os
import random
import threading
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512
SYSTEM = "unix"
"""SQLite's own VFS, beneath this one."""
_PASSING = apsw.SQLITE_OPEN_DELETEONCLOSE | apsw.SQLITE_OPEN_TEMP_DB | apsw.SQLITE_OPEN_TRANSIENT_DB
# SQLite syncs the folder together with the first sync of these.
_WITH_FOLDER = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL


@dataclass(eq=False)
class Inode:
    """One file: the bytes that are sure, and what was done to it since, in order (a truncation has no bytes)."""

    sure: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        """Everything so far is sure."""
        for offset, data in self.since:
            _apply(self.sure, offset, data, b"\0")
        self.since.clear()

    def after_cut(self, chance: random.Random) -> bytes:
        """What is found when the power is back."""
        found = bytearray(self.sure)
        share = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        filler = chance.choice((b"\0", bytes([chance.randrange(256)])))
        for offset, data in self.since:
            if data is None:
                if chance.random() < share:
                    _apply(found, offset, None, filler)
                continue
            for start, piece in _sectors(offset, data):
                if chance.random() < share:
                    _apply(found, start, piece, filler)
        return bytes(found)


def _sectors(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    """A write, cut where sectors begin."""
    edges = [offset, *range(offset - offset % SECTOR + SECTOR, offset + len(data), SECTOR), offset + len(data)]
    return [(begin, data[begin - offset : end - offset]) for begin, end in pairwise(edges)]


def _apply(content: bytearray, offset: int, data: bytes | None, filler: bytes) -> None:
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(filler * (offset - len(content)))
    content[offset : offset + len(data)] = data


class Disk:
    """The files of one folder from one power cut to the next.

    The cut comes right after operation number `cut_at` was asked for and before it is answered; `operations` counts.
    One that `lies` says of every sync that it is done, and does nothing.
    """

    def __init__(self, folder: Path, chance: random.Random, cut_at: int, *, lies: bool = False) -> None:
        self.folder = folder
        self.chance = chance
        self.cut_at = cut_at
        self.lies = lies
        self.operations = 0
        self.unsynced = 0
        """Writes that were at the disk's mercy when the power went."""
        self.left: dict[str, bytes] | None = None
        """The files as the cut left them; None while there is power."""
        self._lock = threading.Lock()
        self._shutting = False
        self._now = {path.name: Inode(bytearray(path.read_bytes())) for path in folder.iterdir()}
        self._sure: dict[str, Inode | None] = dict(self._now)
        self._renamed: list[tuple[str, Inode | None]] = []

    def opened(self, name: str) -> Inode:
        """The file of that name, created if it is not there."""
        with self._lock:
            if name not in self._now:
                self._now[name] = Inode()
                self._renamed.append((name, self._now[name]))
            return self._now[name]

    def wrote(self, inode: Inode, offset: int, data: bytes | None) -> None:
        """A write, or without data a truncation."""
        with self._lock:
            inode.since.append((offset, data))
            self._count()

    def synced(self, inode: Inode, *, folder: bool) -> None:
        """A sync; one that the cut meets has not happened."""
        with self._lock:
            self._count()
            if self.lies:
                return
            inode.sync()
            if folder:
                self._sync_folder()

    def deleted(self, name: str, *, synced: bool) -> None:
        """A name is gone, for sure when the folder was synced."""
        with self._lock:
            self._count()
            self._now.pop(name, None)
            self._renamed.append((name, None))
            if synced:
                self._sync_folder()

    def cut(self) -> dict[str, bytes]:
        """Cut the power now, unless it is gone already; what is left."""
        with self._lock:
            if self.left is None:
                self._cut()
            assert self.left is not None
            return self.left

    def let_go(self) -> None:
        """From now on the dead process may close its files without being told that there is no power."""
        self._shutting = True

    def _sync_folder(self) -> None:
        self._sure.update(self._renamed)
        self._renamed.clear()

    def _count(self) -> None:
        if self.left is not None:
            if self._shutting:
                return
            raise apsw.IOError("the power is gone")
        self.operations += 1
        if self.operations >= self.cut_at:
            self._cut()
            raise apsw.IOError("the power is gone")

    def _cut(self) -> None:
        found = dict(self._sure)
        for name in dict(self._renamed):
            steps = [inode for other, inode in self._renamed if other == name]
            kept = self.chance.randrange(len(steps) + 1)
            if kept:
                found[name] = steps[kept - 1]
        inodes = {name: inode for name, inode in found.items() if inode is not None}
        self.unsynced = sum(len(inode.since) for inode in inodes.values())
        self.left = {name: inode.after_cut(self.chance) for name, inode in inodes.items()}


class ForgetfulVFS(apsw.VFS):
    """The operating system's files, with `disk` looking on; nothing is synced for real, so it is quick."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        super().__init__("forgetful", SYSTEM, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - apsw names it
        """Open for real; the disk knows of the file from now on."""
        path = None if name is None else Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        if path is None or path.parent != self.disk.folder or flags[0] & _PASSING:
            return apsw.VFSFile(SYSTEM, name, flags)
        inode = self.disk.opened(path.name)
        return ForgetfulFile(self.disk, inode, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - apsw's signature
        """Delete, and sync nothing for real."""
        path = Path(filename)
        if path.exists() and path.parent == self.disk.folder:
            self.disk.deleted(path.name, synced=syncdir)
        super().xDelete(filename, False)


class ForgetfulFile(apsw.VFSFile):
    """A file whose every change is told to the disk first."""

    def __init__(self, disk: Disk, inode: Inode, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._inode = inode
        self._owes_folder = bool(flags[0] & _WITH_FOLDER)
        super().__init__(SYSTEM, name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - apsw names it
        """Write into the cache."""
        self._disk.wrote(self._inode, offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - apsw names it
        """Cut the file in the cache."""
        self._disk.wrote(self._inode, newsize, None)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw names it
        """Make sure of what was written so far, and of the name of a new journal."""
        self._disk.synced(self._inode, folder=self._owes_folder)
        self._owes_folder = False


def write_files(folder: Path, files: dict[str, bytes], chance: random.Random) -> None:
    """Lay down what a cut left. The index of the log is shared memory, so of that one anything may be there."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
        if name.endswith(".db") and chance.random() < 0.5:
            (folder / f"{name}-shm").write_bytes(os.urandom(32768))
