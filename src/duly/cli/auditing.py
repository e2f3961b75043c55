"""`duly audit`: the audit log as a file, and whether such a file is whole."""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from duly.audit import offline
from duly.cli.faults import stop
from duly.cli.opening import House, run_in_house
from duly.settings import load_settings

commands = typer.Typer(help="Export the audit log, and verify an export.", no_args_is_help=True)
Tick = Callable[[int], None]


@commands.command()
def export(
    file: Annotated[Path | None, typer.Argument(help="Where to write it; standard output without.")] = None,
) -> None:
    """Write every entry as a line of JSON, in a form that 'duly audit verify' can check without a database."""
    settings = load_settings()
    if file is None:
        run_in_house(lambda house: _write(house, sys.stdout.buffer), settings)
        sys.stdout.buffer.flush()
        return
    with _replaced(file) as stream:
        entries = run_in_house(lambda house: _write(house, stream, shows_progress=sys.stderr.isatty()), settings)
    typer.echo(f"{entries} entries exported to {file}.")


async def _write(house: House, stream: BinaryIO, *, shows_progress: bool = False) -> int:
    entries = -1  # the first line is the head
    with contextlib.ExitStack() as stack:
        bar = None
        async for line in house.parts.chain.export(house.database):
            if entries < 0 and shows_progress:
                total = json.loads(line)["entries"]
                bar = stack.enter_context(typer.progressbar(length=total, label="Exporting", file=sys.stderr))
            elif bar is not None:
                bar.update(1)
            stream.write(line.encode() + b"\n")
            entries += 1
    return entries


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """The file appears, or changes, when it is whole; nobody but its owner reads it."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        stop(f"{path} cannot be written ({error.strerror}); give another place.")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as error:
        stop(f"{path} cannot be written ({error.strerror}); give another place.")
    finally:
        draft.unlink(missing_ok=True)


@commands.command()
def verify(
    file: Annotated[Path, typer.Argument(help="An export.", show_default=False)],
    anchor: Annotated[
        str | None, typer.Option(help="A hash noted earlier outside of the database, which must be in the chain.")
    ] = None,
) -> None:
    """Check that an export is whole and unchanged; needs neither the database nor the settings."""
    try:
        verdict = offline.verify_file(file, anchor.strip().lower() if anchor else None)
    except OSError as error:
        stop(f"{file} cannot be read ({error.strerror}); give the file that 'duly audit export' wrote.")
    if verdict.fault is not None:
        stop(f"{file}: {verdict.fault}")
    typer.echo(f"valid: yes\nentries: {verdict.entries}\nhead: {verdict.head}")
    if anchor is None:
        typer.echo(
            "Note the head elsewhere, and give it as --anchor next time: it shows that nothing was written anew."
        )
