"""`duly copy`: the whole database into another one, and the proof that it arrived."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# The tables of every room, so that none is left behind.
from duly.cli import migrating as _tables  # noqa: F401
from duly.cli.faults import stop
from duly.db.shapes import CarryFault
from duly.db.url import DatabaseAddress, parse_database_url
from duly.kit.clock import rfc3339
from duly.operations.copying import Copy, Watcher, copy_database
from duly.operations.startup import KEY_FILE, check_settings
from duly.settings import Settings, load_settings

LINE_SECONDS = 10.0
SHOWN_DIGITS = 16
_STEPS = {"copy": "Copying", "check": "Checking"}


def copy(
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="URL", show_default=False,
            help="Address of an empty database, as DATABASE_URL takes it; - reads it from standard input, where no "
            "list of processes shows its password.",
        ),
    ],
) -> None:  # fmt: skip
    """Copy the database of DATABASE_URL into an empty one, SQLite or PostgreSQL, and compare both row by row."""
    settings = load_settings()
    source = check_settings(settings)
    target = _read_target(to, settings)
    try:
        with _watching() as watcher:
            made = asyncio.run(copy_database(source, target, watcher))
    except CarryFault as error:
        stop(str(error))
    except KeyboardInterrupt:
        stop("interrupted; what was not finished was rolled back. Run it again: it says whether the target is empty")
    _print_proof(made)
    if not made.is_equal:
        different = ", ".join(proof.table for proof in made.proofs if not proof.is_equal)
        stop(f"the copy differs from the source ({different}); do not use {target.safe_text}, and report this")
    _print_end(settings, source, target, made)


def _read_target(to: str, settings: Settings) -> DatabaseAddress:
    url = sys.stdin.readline().strip() if to == "-" else to.strip()
    if not url:
        stop("--to: is empty; give the address of an empty database")
    try:
        return parse_database_url(url, settings.data_dir)
    except ValueError as error:
        stop(f"--to: {error}")


class _Bar:
    """One bar on a terminal, which each table begins anew."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("Connecting", total=None)

    def begin(self, step: str, table: str, total: int) -> None:
        self._progress.reset(self._task, total=total, description=f"{_STEPS[step]} {table}")

    def advance(self, rows: int) -> None:
        self._progress.advance(self._task, rows)


class _Lines:
    """A line for each table, and one every ten seconds for a long one."""

    def __init__(self) -> None:
        self._table, self._total, self._done, self._told = "", 0, 0, 0.0

    def begin(self, step: str, table: str, total: int) -> None:
        self._table, self._total, self._done, self._told = table, total, 0, time.monotonic()
        typer.echo(f"{_STEPS[step]} {table}: {total} rows")

    def advance(self, rows: int) -> None:
        self._done += rows
        if time.monotonic() - self._told > LINE_SECONDS:
            self._told = time.monotonic()
            typer.echo(f"  {self._table}: {self._done} of {self._total}")


@contextlib.contextmanager
def _watching() -> Iterator[Watcher]:
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bar(progress)


def _print_proof(made: Copy) -> None:
    """The first digits of each digest: enough to see a difference, and to compare with a later copy."""
    form = "{:<20} {:>10} {:>10}  {:<16}  {:<16}  {}"
    typer.echo(form.format("table", "rows", "copied", "digest", "of the copy", "equal"))
    for proof in made.proofs:
        digests = (proof.digest[:SHOWN_DIGITS], proof.digest_there[:SHOWN_DIGITS])
        typer.echo(form.format(proof.table, proof.rows, proof.rows_there, *digests, "yes" if proof.is_equal else "NO"))


def _print_end(settings: Settings, source: DatabaseAddress, target: DatabaseAddress, made: Copy) -> None:
    rows = sum(proof.rows for proof in made.proofs)
    typer.echo(f"{source.safe_text} was copied to {target.safe_text}: {rows} rows, and every table is equal.")
    typer.echo(f"The copy is the state of {rfc3339(made.moment)}. Nothing that was written since is in it: to move")
    typer.echo("house, stop Duly, copy, set DATABASE_URL to the new address, and start it.")
    has_file = settings.secret_key is None and settings.better_auth_secret is None
    key = f"the key in {settings.data_dir / KEY_FILE}" if has_file else "SECRET_KEY or BETTER_AUTH_SECRET"
    typer.echo(f"Keep {key}, and FIELD_ENCRYPTION_KEY where it is set: without them everybody is signed out, and")
    typer.echo("what is encrypted stays closed.")
    if settings.files_url is not None:
        place = "in the bucket of FILES_URL"
    else:
        place = f"in {settings.files_dir or settings.data_dir / 'files'}"
    typer.echo(f"Attachments were not moved: their bytes stay {place}, and the new Duly must find them there.")
