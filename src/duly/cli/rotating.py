"""`duly rotate-keys`: every encrypted field under the newest key, or a new key that signs."""

import sys
from contextlib import nullcontext
from typing import Annotated

import typer

from duly.cli.faults import stop
from duly.cli.opening import House, run_in_house
from duly.operations import keys
from duly.operations.keys import Rotation
from duly.operations.startup import KEY_FILE
from duly.settings import load_settings


def rotate_keys(
    signing_key: Annotated[
        bool, typer.Option("--signing-key", help="Make a new signing key in DATA_DIR instead; nobody is logged out.")
    ] = False,
) -> None:
    """Encrypt every field under the newest FIELD_ENCRYPTION_KEY. Restart the servers with it before."""
    settings = load_settings()
    if signing_key:
        run_in_house(lambda house: keys.rotate_signing_key(settings, house.database, house.parts), settings)
        typer.echo(f"A new signing key is in {settings.data_dir / KEY_FILE}; restart every server and worker.")
        typer.echo("What the old one signed stays good. Run 'duly rotate-keys' after the restart.")
        return
    try:
        rotation, lines = run_in_house(_reencrypt, settings)
    except keys.Unopened as error:
        stop(f"FIELD_ENCRYPTION_KEY: {error}; add the key that it needs behind the newest one, and run this again")
    typer.echo(f"{rotation.resealed} fields were encrypted under the newest key; all of them are now.")
    for line in lines:
        typer.echo(line)


async def _reencrypt(house: House) -> tuple[Rotation, list[str]]:
    total = await keys.count_fields(house.database, house.parts)
    shown = sys.stderr.isatty()
    progress = typer.progressbar(length=total, label="Encrypting", file=sys.stderr) if shown else nullcontext()
    with progress as bar:
        tick = bar.update if bar is not None else lambda _: None
        rotation = await keys.reencrypt_fields(house.database, house.parts, on_progress=tick)
    return rotation, keys.removable_keys(house.settings, house.parts)
