"""`duly mail`: what became of the mails, and sending again what was given up."""

from collections.abc import Sequence
from typing import Annotated

import typer

from duly.cli.faults import stop
from duly.cli.opening import House, run_in_house
from duly.errors import NotFound
from duly.kit.clock import rfc3339
from duly.kit.logs import escape
from duly.outbox.outbox import STATES, StoredMessage, list_messages, retry_message
from duly.settings import load_settings

commands = typer.Typer(help="List mails by their state, and send dead ones again.", no_args_is_help=True)
AT_ONCE = 200
HEADINGS = ("ID", "KIND", "STATE", "ATTEMPTS", "CREATED", "LAST ERROR")


@commands.command("list")
def show(
    state: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(STATES)}; may be given again. Default: dead and waiting.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most mails of each state.")] = 100,
) -> None:
    """Print the mails in a state, newest first. Who a mail is for, and what is in it, is encrypted and not shown."""
    states = list(dict.fromkeys(state or ("dead", "waiting")))
    unknown = [name for name in states if name not in STATES]
    if unknown:
        stop(f"--state {unknown[0]!r} is no state of a mail; use {', '.join(STATES)}.")
    found, left = run_in_house(lambda house: _find(house, states, limit), load_settings())
    if not found:
        typer.echo(f"No mail is {' or '.join(states)}.")
        return
    _print_table([HEADINGS, *(_cells(message) for message in found)])
    if left:
        typer.echo(f"{left} more; see them with --limit.")


async def _find(house: House, states: Sequence[str], limit: int) -> tuple[list[StoredMessage], int]:
    found: list[StoredMessage] = []
    left = 0
    for state in states:
        messages, total = await list_messages(house.database, state, limit=limit, offset=0)
        found += messages
        left += total - len(messages)
    return found, left


def _cells(message: StoredMessage) -> tuple[str, ...]:
    created = rfc3339(message.created_at)[:19] + "Z"
    error = escape(message.last_error or "-")
    return message.id, message.kind, message.state, str(message.attempts), created, error


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@commands.command()
def retry(
    message_id: Annotated[str | None, typer.Argument(metavar="ID", help="A mail's id.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Every mail that is dead.")] = False,
) -> None:
    """Let the running server or worker send a mail again now."""
    if (message_id is None) == (not every):
        raise typer.BadParameter("give the ID of a mail, or --all")
    count = run_in_house(lambda house: _revive(house, message_id), load_settings())
    typer.echo(f"{count} {'mail is' if count == 1 else 'mails are'} due now.")


async def _revive(house: House, message_id: str | None) -> int:
    if message_id is not None:
        async with house.database.unit() as unit:
            await retry_message(unit, message_id)
        return 1
    # All ids first: what dies again meanwhile is not revived a second time.
    ids: list[str] = []
    while page := (await list_messages(house.database, "dead", limit=AT_ONCE, offset=len(ids)))[0]:
        ids += [message.id for message in page]
    revived = 0
    for dead in dict.fromkeys(ids):
        try:
            async with house.database.unit() as unit:
                await retry_message(unit, dead)
            revived += 1
        except NotFound:
            pass  # somebody else was first
    return revived
