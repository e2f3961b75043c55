"""Runs the server: one process, or several workers on PostgreSQL, and an orderly end at SIGTERM."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.supervisors import ChangeReload, Multiprocess

from duly.cli.certificates import certificate_files, check_certificate
from duly.cli.connections import Connection
from duly.cli.faults import stop
from duly.cli.handshakes import Handshake
from duly.cli.sockets import Socket
from duly.db.url import DatabaseAddress
from duly.kit.ciphers import FieldCipher
from duly.operations import startup
from duly.settings import Settings

if TYPE_CHECKING:
    from duly.app import Application

# With the notice before it and the clean-up behind it, ten seconds in all.
DRAIN_SECONDS = 7
KEEP_ALIVE_SECONDS = 75
# A client has a token and a cursor to say.
SOCKET_BYTES = 16 * 1024


def prepare(settings: Settings) -> DatabaseAddress:
    """Check, make the development key, migrate, and try the keys. Raises `SettingsFault` before anything listens."""
    address = startup.check_settings(settings)
    check_certificate(settings)
    _try_port(settings)
    startup.find_secret(settings)
    asyncio.run(_prepare_stores(settings, address))
    # Done once here, so the workers only look whether it was.
    os.environ["AUTO_MIGRATE"] = "false"
    return address


async def _prepare_stores(settings: Settings, address: DatabaseAddress) -> None:
    await startup.check_folder(settings)
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


@contextlib.contextmanager
def _figures_folder() -> Iterator[Path | None]:
    """Where the workers find each other to answer for their figures; None where nothing can be written."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="duly-", ignore_cleanup_errors=True)
    except OSError as error:
        print(f"duly: /metrics shows the worker that is asked alone ({error}); set TMPDIR to a folder that can be "
              "written.", file=sys.stderr)  # fmt: skip
        yield None
        return
    with folder as name:
        yield Path(name)


def make_worker(folder: Path | None) -> "Application":
    """The application of one worker among several."""
    from duly.main import app  # noqa: PLC0415 - made in the worker, not in the supervisor

    app.figures_folder = folder
    return app


def _say_https(record: logging.LogRecord) -> bool:
    """Correct the address that uvicorn writes: it takes a server whose TLS is ours for one in clear."""
    if record.msg.startswith("Uvicorn running on ") and isinstance(record.args, tuple):
        record.args = ("https", *record.args[1:])
    return True


def serve(settings: Settings, address: DatabaseAddress, *, reload: bool) -> int:
    """Serve until told to end; the exit code."""
    workers = settings.web_concurrency
    if address.dialect == "sqlite" and workers > 1:
        print("duly: SQLite has one writer, so one worker serves; use PostgreSQL for more.", file=sys.stderr)
        workers = 1
    files = certificate_files(settings)
    if files is not None:
        logging.getLogger("uvicorn.error").addFilter(_say_https)
    config = uvicorn.Config(
        "duly.main:app",
        http=Connection if files is None else partial(Handshake, files=files),  # type: ignore[arg-type]  # is called
        ws=Socket,
        ws_max_size=SOCKET_BYTES,
        ws_per_message_deflate=False,  # 32 KiB of memory for each of them, for messages that are small
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
        with _figures_folder() as folder:
            config.app, config.factory = partial(make_worker, folder), True
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
