"""`duly migrate`: the schema's revisions."""

import asyncio
from collections.abc import Awaitable
from typing import Annotated, TypeVar

import typer

# The tables of every room, so that `check` compares with all of them.
from duly.audit import tables as _audit  # noqa: F401
from duly.cli.faults import stop
from duly.db import migrate
from duly.db.url import DatabaseAddress
from duly.operations.startup import check_settings
from duly.outbox import tables as _outbox  # noqa: F401
from duly.settings import load_settings
from duly.tasks import attachment_tables as _attachments  # noqa: F401
from duly.tasks import search_tables as _search  # noqa: F401
from duly.tasks import tables as _tasks  # noqa: F401
from duly.web import idempotency as _idempotency  # noqa: F401

commands = typer.Typer(help="Upgrade, downgrade or compare the database's schema.", no_args_is_help=True)
Result = TypeVar("Result")
Revision = Annotated[str, typer.Argument(help="A revision's number.")]


def _address() -> DatabaseAddress:
    return check_settings(load_settings())


def _run(work: Awaitable[Result], address: DatabaseAddress) -> Result:
    async def wait() -> Result:
        return await work

    try:
        return asyncio.run(wait())
    except migrate.FAULTS as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        stop(f"The schema of {address.safe_text} was left as it was: {reason or type(error).__name__}")


@commands.command()
def upgrade(revision: Revision = "head") -> None:
    """Apply the revisions that are missing, all or none."""
    address = _address()
    before, after = _run(migrate.upgrade(address, revision), address)
    typer.echo(f"Schema is at {after}" + ("." if before == after else f", was {before or 'empty'}."))


@commands.command()
def downgrade(revision: Revision) -> None:
    """Undo revisions down to the one named; 'base' removes every table."""
    address = _address()
    before, after = _run(migrate.downgrade(address, revision), address)
    typer.echo(f"Schema is at {after or 'nothing'}, was {before or 'empty'}.")


@commands.command()
def current() -> None:
    """Print the revision that the database is at."""
    address = _address()
    typer.echo(_run(migrate.current(address), address) or "empty")


@commands.command()
def check() -> None:
    """Compare the database's schema with the tables of this version."""
    address = _address()
    revision = _run(migrate.current(address), address)
    if revision != migrate.head():
        stop(f"The schema is at {revision or 'nothing'}, not {migrate.head()}; run 'duly migrate upgrade'.")
    differences = _run(migrate.differences(address), address)
    if differences:
        stop("The schema differs from this version's tables:", *differences)
    typer.echo(f"Schema is at {revision} and equals this version's tables.")


@commands.command()
def sql(
    revision: Revision = "head",
    dialect: Annotated[str, typer.Option(help="postgresql or sqlite.")] = "postgresql",
) -> None:
    """Print the SQL that takes an empty database to a revision."""
    if dialect not in {"postgresql", "sqlite"}:
        stop("--dialect is postgresql or sqlite.")
    typer.echo(migrate.upgrade_sql(dialect, revision), nl=False)
