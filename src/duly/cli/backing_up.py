"""`duly backup` and `duly restore`; as a program of its own it makes the scheduled backup of a server."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

# The tables of every room, so that none is left out.
from duly.cli import migrating as _tables  # noqa: F401
from duly.cli.faults import stop
from duly.db.shapes import CarryFault
from duly.errors import DulyError
from duly.operations import integrity
from duly.operations.archive import Archive, BadArchive, Watcher
from duly.operations.backup import BackupFault, Made, write_file, write_stream
from duly.operations.restoring import Restored, check_archive, check_target, restore
from duly.operations.startup import check_settings
from duly.settings import Settings, SettingsFault, load_settings

_FAULTS = (BackupFault, BadArchive, CarryFault, OSError)
NICE = 10


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = TaskID(0)

    def begin(self, step: str, total: int) -> None:
        self._task = self._progress.add_task(step, total=total)

    def advance(self, done: int) -> None:
        self._progress.advance(self._task, done)


class _Lines:
    def begin(self, step: str, total: int) -> None:
        print(f"{step}: {total}", file=sys.stderr)

    def advance(self, done: int) -> None:
        """A log is not to be filled."""


class Silence:
    """Nobody watches."""

    def begin(self, step: str, total: int) -> None:
        """Nothing."""

    def advance(self, done: int) -> None:
        """Nothing."""


@contextlib.contextmanager
def _watching(*, quiet: bool) -> Iterator[Watcher]:
    if quiet:
        yield Silence()
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield _Bar(progress)


@contextlib.contextmanager
def _explained(interrupted: str) -> Iterator[None]:
    try:
        yield
    except DulyError as error:
        stop(error.message)
    except _FAULTS as error:
        stop(str(error))
    except KeyboardInterrupt:
        stop(interrupted)


def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; - is standard output.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE once the new backup is whole.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Write the database and the attachments into one file, while servers go on; it is not encrypted.

    Keep SECRET_KEY and FIELD_ENCRYPTION_KEY elsewhere: they are not in it. To encrypt: duly backup - | age -r KEY >FILE
    """
    settings = load_settings()
    with _explained("interrupted; nothing was written"), _watching(quiet=quiet) as watcher:
        if file == "-":
            if sys.stdout.isatty():
                stop("standard output is a terminal; send it to a file or a program")
            made = asyncio.run(write_stream(settings, sys.stdout.buffer, watcher))
        else:
            made = asyncio.run(write_file(settings, Path(file), watcher, overwrite=overwrite))
    print(f"{file}: {_told(made)}.", file=sys.stderr if file == "-" else sys.stdout)
    if made.missing:
        stop(*_missing_lines(made))


def _told(made: Made) -> str:
    return f"{made.bytes} bytes, {made.rows} rows and {made.files} files in {made.seconds:.1f} s"


def _missing_lines(made: Made) -> list[str]:
    return [
        f"attachment {name} has not the bytes that its row names; it is in the backup without them. Attach it again, "
        "or restore its file from an older backup"
        for name in made.missing
    ]


def restore_backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file of 'duly backup'; - is standard input.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    any_key: Annotated[
        bool, typer.Option("--any-key", help="Also a backup made under keys that are not here.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Fill the empty database of DATABASE_URL, SQLite or PostgreSQL, and the store of attachments from a backup.

    All of it is checked first. It never deletes anything: a database that is not empty is refused. Stop the servers.
    """
    settings = load_settings()
    interrupted = "interrupted; the database was left as it was"
    with _explained(interrupted), _opened(file) as opened:
        with _watching(quiet=quiet) as watcher:
            address = check_settings(settings)
            asyncio.run(check_target(address))
            archive = asyncio.run(check_archive(settings, opened, watcher, any_key=any_key))
        _ask(archive, address.safe_text, yes=yes, is_stream=file == "-")
        with _watching(quiet=quiet) as watcher:
            done = asyncio.run(restore(settings, opened, archive, watcher))
    _report(done, asyncio.run(integrity.examine(settings)).findings, address.safe_text)


@contextlib.contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file != "-":
        with Path(file).open("rb") as opened:
            yield opened
        return
    # It is read twice: checked from end to end, and only then loaded.
    with tempfile.TemporaryFile(prefix="duly-restore-") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy, 1024 * 1024)
        yield copy


def _ask(archive: Archive, target: str, *, yes: bool, is_stream: bool) -> None:
    head, manifest = archive.head, archive.manifest
    print(
        f"The backup of {head.created_at} (Duly {head.duly}, {head.dialect}) holds "
        f"{manifest.rows.get('users', 0)} users, {manifest.rows.get('tasks', 0)} tasks and {manifest.files} files."
    )
    if yes:
        return
    if is_stream or not sys.stdin.isatty():
        stop("there is nobody to ask; give --yes")
    if not typer.confirm(f"Restore it into {target}?"):
        stop("nothing was changed")


def _report(done: Restored, findings: list[integrity.Finding], target: str) -> None:
    print(f"Restored {done.rows} rows and {done.files} files into {target}. Start, or restart, the servers now.")
    lines = [*done.remarks, *(finding.line for finding in findings if finding.kind not in integrity.TOLD_BEFORE)]
    if lines:
        stop(*lines)


def run_scheduled(settings: Settings, path: Path) -> dict[str, Any]:
    """One backup for a server, out of its way: what became of it, as JSON."""
    try:
        made = asyncio.run(write_file(settings, path, Silence()))
    except DulyError as error:
        return {"fault": error.message}
    except SettingsFault as fault:
        return {"fault": "; ".join(fault.faults)}
    except _FAULTS as error:
        return {"fault": str(error)}
    return {"bytes": made.bytes, "seconds": made.seconds, "missing": list(made.missing)}


if __name__ == "__main__":
    os.nice(NICE)
    given = json.load(sys.stdin)
    # Every setting is given, so that none is taken from this process's environment.
    print(json.dumps(run_scheduled(Settings(**given["settings"]), Path(given["path"]))))
