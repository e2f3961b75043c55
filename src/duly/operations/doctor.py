"""The doctor's report: versions, database, durability, schema; everything that an operator asks first."""

import asyncio
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from duly import __version__
from duly.db import migrate
from duly.db.database import open_database
from duly.errors import DulyError
from duly.operations.health import check_redis
from duly.operations.startup import check_settings, unreachable
from duly.settings import Settings, SettingsFault

LIBRARIES = ("fastapi", "starlette", "uvicorn", "sqlmodel", "sqlalchemy", "asyncpg", "apsw", "pyjwt", "pydantic")


@dataclass(frozen=True, slots=True)
class Report:
    """`facts` for people and programs; `faults` has one line each with its remedy, and is empty when all is well."""

    facts: dict[str, Any]
    faults: list[str]


async def examine(settings: Settings) -> Report:
    """Look at everything, change nothing. Never raises for what it finds: that is what `faults` is for."""
    facts: dict[str, Any] = {
        "duly": __version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "environment": settings.environment,
        "libraries": {name: version(name) for name in LIBRARIES},
    }
    try:
        address = check_settings(settings)
    except SettingsFault as fault:
        return Report(facts, list(fault.faults))
    faults: list[str] = []
    exists = address.path is None or address.path.exists()
    if not exists:
        facts["database"] = {"dialect": address.dialect, "path": address.safe_text, "exists": False}
        faults.append(f"DATABASE_URL: {address.safe_text} does not exist yet; run 'duly migrate upgrade'")
        return Report(facts, faults)
    try:
        async with asyncio.timeout(settings.startup_timeout_seconds + 5):
            facts["database"] = await _database_facts(settings)
            facts["schema"] = {"revision": await migrate.current(address), "head": migrate.head()}
    except (DulyError, *migrate.FAULTS) as error:
        faults.append(unreachable(address, error))
        return Report(facts, faults)
    schema = facts["schema"]
    if schema["revision"] != schema["head"]:
        faults.append(f"The schema is at {schema['revision'] or 'nothing'}, not {schema['head']}; "
                      "run 'duly migrate upgrade'")  # fmt: skip
    redis = settings.redis_url.get_secret_value() if settings.redis_url else None
    check = await check_redis(redis)
    facts["redis"] = check.detail
    if not check.ok:
        faults.append("REDIS_URL: Redis does not answer; start it or correct the address")
    return Report(facts, faults)


async def _database_facts(settings: Settings) -> dict[str, Any]:
    database = await open_database(settings)
    try:
        return await database.report()
    finally:
        await database.close()
