"""Opens what a command works on, and turns what is refused into one line."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from duly.cli.faults import stop
from duly.db.unit import Database
from duly.errors import DulyError, Invalid
from duly.operations import assembly, startup
from duly.operations.assembly import Parts
from duly.settings import Settings

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class House:
    """What a command works on."""

    settings: Settings
    database: Database
    parts: Parts


@contextlib.asynccontextmanager
async def open_house(settings: Settings, *, migrates: bool = False) -> AsyncIterator[House]:
    """From the settings to the parts, closed at the end. Raises `SettingsFault`, also for an old schema that is not
    to be upgraded.
    """  # noqa: D205 - one sentence
    address = startup.check_settings(settings)
    wanted = settings if migrates else settings.model_copy(update={"auto_migrate": False})
    await startup.migrate_at_start(wanted, address)
    database = await startup.connect_at_start(settings, address)
    try:
        parts = await assembly.assemble(settings, database)
        try:
            yield House(settings, database, parts)
        finally:
            parts.identity.hasher.close()
            if parts.files is not None:
                parts.files.close()
    finally:
        await database.close()


def run_in_house(work: Callable[[House], Awaitable[Result]], settings: Settings, *, migrates: bool = False) -> Result:
    """Do `work`; what it refuses is said in one line, or in one for each wrong field, and ends the program with 1."""

    async def run() -> Result:
        async with open_house(settings, migrates=migrates) as house:
            return await work(house)

    try:
        return asyncio.run(run())
    except Invalid as error:
        stop(*(f"{fault.field}: {fault.message}" for fault in error.faults))
    except (DulyError, OSError) as error:
        stop(error.message if isinstance(error, DulyError) else str(error))
