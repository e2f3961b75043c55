"""`duly cache`: filling the shared cache before anybody asks."""

from typing import Annotated

import typer

from duly.cli.faults import stop
from duly.cli.opening import House, run_in_house
from duly.operations import assembly, warming
from duly.settings import load_settings
from duly.tasks.stats import SHARED_FROM

commands = typer.Typer(help="Fill the cache that servers share in Redis.", no_args_is_help=True)
MOST_SECONDS = 600.0
REDIS_SECONDS = 1.0  # nobody waits for an answer


@commands.callback()
def _group() -> None:
    """Fill the cache that servers share in Redis."""


@commands.command()
def warm(
    users: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many users, the latest first.")] = 10_000,
) -> None:
    """Count what the most recently active users will ask for. Small accounts are counted faster than Redis answers."""
    settings = load_settings()
    if settings.redis_url is None:
        typer.echo("Nothing to do: without REDIS_URL each server warms its own cache when it starts.")
        return
    found = run_in_house(lambda house: _warm(house, users), settings)
    if found is None:
        stop("Redis at REDIS_URL keeps nothing; see that it answers and may be written.")
    warmed, held = found
    typer.echo(f"Cache warmed: {warmed}; Redis holds {held}, those with {SHARED_FROM:,} tasks or more.")


async def _warm(house: House, users: int) -> tuple[warming.Warmed, int] | None:
    cache = assembly.make_cache(house.settings, house.parts.secrets, redis_seconds=REDIS_SECONDS)
    try:
        if cache.redis is None or not await cache.redis.is_up():
            return None
        warmed = await warming.warm(house.database, cache, users=users, seconds=MOST_SECONDS)
        await cache.redis.settle()
        return warmed, cache.redis.kept + cache.hits["redis"]
    finally:
        await cache.close()
