"""Runs the server: one process, or several workers on PostgreSQL, and an orderly end at SIGTERM."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn
from uvicorn.supervisors import ChangeReload, Multiprocess

from duly.cli.connections import Connection
from duly.cli.faults import stop
from duly.db.url import DatabaseAddress
from duly.kit.ciphers import FieldCipher
from duly.operations import startup
from duly.settings import Settings

DRAIN_SECONDS = 8
KEEP_ALIVE_SECONDS = 75


def prepare(settings: Settings) -> DatabaseAddress:
    """Check, make the development key, migrate, and try the keys. Raises `SettingsFault` before anything listens."""
    address = startup.check_settings(settings)
    _try_port(settings)
    startup.find_secret(settings)
    asyncio.run(_prepare_database(settings, address))
    # Done once here, so the workers only look whether it was.
    os.environ["AUTO_MIGRATE"] = "false"
    return address


async def _prepare_database(settings: Settings, address: DatabaseAddress) -> None:
    await startup.migrate_at_start(settings, address)
    database = await startup.connect_at_start(settings, address)
    try:
        await startup.check_field_keys(settings, database, FieldCipher(startup.field_keys(settings)))
    finally:
        await database.close()


def _try_port(settings: Settings) -> None:
    """End with one line when nobody can listen there; the server itself would start everything first."""
    try:
        places = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        stop(f"HOST: {settings.host} is no address of this machine ({error.strerror}); give one, such as 127.0.0.1")
    for family, kind, protocol, _, place in places:
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(place)
            except OSError as error:
                stop(f"PORT: cannot listen on {settings.host}:{settings.port} ({error.strerror}); stop what listens "
                     "there, or give another port")  # fmt: skip


def serve(settings: Settings, address: DatabaseAddress, *, reload: bool) -> int:
    """Serve until told to end; the exit code."""
    workers = settings.web_concurrency
    if address.dialect == "sqlite" and workers > 1:
        print("duly: SQLite has one writer, so one worker serves; use PostgreSQL for more.", file=sys.stderr)
        workers = 1
    config = uvicorn.Config(
        "duly.main:app",
        http=Connection,
        host=settings.host,
        port=settings.port,
        workers=workers,
        reload=reload,
        reload_dirs=["src"] if reload and Path("src").is_dir() else None,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    if workers > 1:
        Multiprocess(config, sockets=[config.bind_socket()]).run()
        return 0
    server = uvicorn.Server(config)
    # uvicorn raises the signal that ended it once more when all is finished; that is an orderly end, not a death.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with contextlib.suppress(KeyboardInterrupt):
        if reload:
            ChangeReload(config, target=server.run, sockets=[config.bind_socket()]).run()
            return 0
        server.run()
    return 0 if server.started else 1
