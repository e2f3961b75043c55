"""`duly sweep`: removes now what the server or worker would remove within the hour."""

import typer

from duly.cli.opening import House, run_in_house
from duly.settings import load_settings


def sweep() -> None:
    """Remove what has expired: old tokens, mails and answers, and tasks that lay in the trash for 30 days."""
    for kind, count in run_in_house(_sweep, load_settings()).items():
        typer.echo(f"{kind}: {count}")


async def _sweep(house: House) -> dict[str, int]:
    return await house.parts.upkeep.sweep()
