"""The doctor's report: versions, database, durability, schema; everything that an operator asks first."""

import asyncio
import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from duly import __version__
from duly.db import migrate
from duly.db.database import open_database
from duly.db.shapes import CarryFault
from duly.errors import DulyError
from duly.files.local import LocalFiles
from duly.files.opening import open_files
from duly.files.scanning import open_scanner
from duly.operations import integrity
from duly.operations.health import CHECK_SECONDS, check_redis
from duly.operations.startup import check_settings, unreachable
from duly.settings import Settings, SettingsFault

LIBRARIES = ("fastapi", "starlette", "uvicorn", "sqlmodel", "sqlalchemy", "asyncpg", "apsw", "pyjwt", "pydantic")


@dataclass(frozen=True, slots=True)
class Report:
    """`facts` for people and programs; `faults` has one line each with its remedy, and is empty when all is well."""

    facts: dict[str, Any]
    faults: list[str]


async def examine(settings: Settings, *, deep: bool = False) -> Report:
    """Look at everything, change nothing; `deep` as for `integrity.examine`.

    Never raises for what it finds: that is what `faults` is for.
    """
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
    else:
        facts["integrity"], found = await _integrity_facts(settings, deep=deep)
        faults += found
    facts["files"], refused = await _files_facts(settings)
    faults += refused
    facts["scanner"], silent = await _scanner_facts(settings)
    faults += silent
    redis = settings.redis_url.get_secret_value() if settings.redis_url else None
    check = await check_redis(redis)
    facts["redis"] = check.detail
    if not check.ok:
        faults.append("REDIS_URL: Redis does not answer; start it or correct the address")
    return Report(facts, faults)


async def _integrity_facts(settings: Settings, *, deep: bool) -> tuple[dict[str, Any], list[str]]:
    try:
        found = await integrity.examine(settings, deep=deep)
    except (CarryFault, DulyError) as error:
        return {}, [f"The contents could not be examined: {error}"]
    return found.facts, [finding.line for finding in found.findings]


async def _files_facts(settings: Settings) -> tuple[str, list[str]]:
    """Whether the store of attachments takes a file: a bucket is tried with one, a folder must only be looked at."""
    store = open_files(settings)
    if store is None:
        return "not configured", []
    if isinstance(store, LocalFiles):
        folder = next(path for path in (store.root.absolute(), *store.root.absolute().parents) if path.exists())
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return "ok", []
        return "takes no files", [f"FILES_DIR: {folder} cannot be written; give a folder that can, or change its owner"]
    try:
        await store.check()
    except DulyError:
        return "takes no files", ["FILES_URL: the object store takes no files; start it or correct the address"]
    return "ok", []


async def _scanner_facts(settings: Settings) -> tuple[str, list[str]]:
    """What the virus scanner says of itself: its version, and that and the age of its signatures."""
    scanner = open_scanner(settings, seconds=CHECK_SECONDS)
    if scanner is None:
        return "not configured", []
    try:
        return f"ok ({await scanner.version()})", []
    except DulyError:
        return "does not answer", ["CLAMD_URL: the virus scanner does not answer; start it or correct the address"]


async def _database_facts(settings: Settings) -> dict[str, Any]:
    database = await open_database(settings)
    try:
        return await database.report()
    finally:
        await database.close()
