"""Scheduled backups: one of the processes that share a folder makes one when it is due, and removes the oldest."""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from duly.operations.backup import UNFINISHED
from duly.settings import Settings

log = logging.getLogger(__name__)

NAME = "duly-%Y%m%dT%H%M%SZ.tar"
LOCK = ".duly-backup.lock"
LOOK_SECONDS = 30.0
# After one that failed; the reason may be gone by then, and a log is not to be filled.
RETRY_SECONDS = 900.0
PROGRAM = "duly.cli.backing_up"
_is_ours = re.compile(r"duly-\d{8}T\d{6}Z\.tar").fullmatch
_is_unfinished = re.compile(rf"\.duly-\d{{8}}T\d{{6}}Z\.tar\.[0-9a-f]{{8}}{re.escape(UNFINISHED)}").fullmatch


class BackupSchedule:
    """Makes backups in BACKUP_DIR. What is due follows from the newest file there, so a restart changes nothing.

    Whoever holds the lock of the folder looks and makes; the others find it done. A backup is made by a program of its
    own, at a lower priority: however large the database is, no request waits for it.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self.folder = folder.absolute()
        self._every = settings.backup_every_hours * 3600
        self._tried = float("-inf")
        self.last_success: float | None = None
        """When the newest backup in the folder was begun, in seconds since 1970; None when there is none."""
        self.last_bytes = 0
        self.look()

    @property
    def pause(self) -> float:
        """How long to wait between two looks, in seconds."""
        return min(LOOK_SECONDS, self._every / 4)

    def look(self) -> None:
        """Learn of the newest backup, whoever made it."""
        newest = max(self._find(), default=None)
        if newest is None:
            self.last_success, self.last_bytes = None, 0
            return
        with contextlib.suppress(OSError):
            self.last_bytes = newest.stat().st_size
            self.last_success = datetime.strptime(newest.name, NAME).replace(tzinfo=UTC).timestamp()

    async def run_when_due(self) -> bool:
        """Make a backup if it is time and nobody else is at it. Whether one was made; what fails is logged."""
        await asyncio.to_thread(self.look)
        if not self._is_due() or time.monotonic() - self._tried < min(RETRY_SECONDS, self._every):
            return False
        try:
            with self._locked() as lock:
                # Somebody may have been quicker between the look and the lock.
                self.look()
                if lock is None or not self._is_due():
                    return False
                self._tried = time.monotonic()
                return await self._make(lock)
        except OSError as error:
            self._complain(str(error))
            return False

    def _is_due(self) -> bool:
        return self.last_success is None or time.time() - self.last_success >= self._every

    def _find(self) -> list[Path]:
        try:
            return sorted(self.folder / name for name in os.listdir(self.folder) if _is_ours(name))  # noqa: PTH208
        except OSError:
            return []

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int | None]:
        handle = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield handle
        finally:
            os.close(handle)

    async def _make(self, lock: int) -> bool:
        self._remove_unfinished()
        path = self.folder / datetime.now(UTC).strftime(NAME)
        log.info("The scheduled backup begins: %s", path)
        made = await self._run(path, lock)
        self.look()
        if fault := made.get("fault"):
            self._complain(fault)
            return False
        fields = {"event": "backup.made", "bytes": made["bytes"], "seconds": round(made["seconds"], 3)}
        log.info("Backup %s: %s bytes in %.1f s", path, made["bytes"], made["seconds"], extra={"fields": fields})
        if made["missing"]:
            named = ", ".join(made["missing"][:10])
            log.error("Backup %s lacks the bytes of attachments that are lost: %s; ask 'duly doctor'", path, named)
        self._remove_old()
        return True

    async def _run(self, path: Path, lock: int) -> dict[str, Any]:
        """The other program's word. It keeps the folder's lock, also when this process is killed meanwhile."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", PROGRAM, pass_fds=(lock,),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        given = json.dumps({"settings": plain_settings(self._settings), "path": str(path)})
        try:
            said, complained = await process.communicate(given.encode())
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            self._remove_unfinished()
            raise
        try:
            found: dict[str, Any] = json.loads(said)
        except ValueError:
            last = complained.decode("utf-8", "replace").strip().rpartition("\n")[2]
            return {"fault": f"its program ended with {process.returncode}: {last[:500]}"}
        return found

    def _remove_unfinished(self) -> None:
        """What a backup that was killed left: under the lock, nobody writes it."""
        for name in os.listdir(self.folder):  # noqa: PTH208
            if _is_unfinished(name):
                (self.folder / name).unlink(missing_ok=True)

    def _remove_old(self) -> None:
        for path in self._find()[: -self._settings.backup_keep]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.error("The old backup %s cannot be removed (%s); remove it by hand", path, error.strerror)

    def _complain(self, fault: str) -> None:
        fields = {"event": "backup.failed"}
        log.error(
            "The scheduled backup in %s failed: %s. It is tried again; make one now with 'duly backup FILE'",
            self.folder, fault, extra={"fields": fields},
        )  # fmt: skip


def plain_settings(settings: Settings) -> dict[str, Any]:
    """Every setting as JSON takes it, secrets in clear: for the pipe to another process of Duly alone."""
    return {name: _plain(value) for name, value in settings.model_dump().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return str(value.absolute()) if isinstance(value, Path) else value
