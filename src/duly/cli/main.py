"""The list of commands, with those too short for a file of their own."""

import asyncio
import ipaddress
import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from duly import __version__
from duly.cli import (
    auditing,
    backing_up,
    caching,
    checking,
    copying,
    mailing,
    migrating,
    people,
    rotating,
    serving,
    sweeping,
    top,
    working,
)
from duly.cli.faults import stop
from duly.operations import doctor
from duly.settings import Settings, SettingsFault, load_settings

commands = typer.Typer(
    name="duly", help="Duly, the task backend.", no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    pretty_exceptions_enable=False,
)  # fmt: skip
commands.add_typer(migrating.commands, name="migrate")
commands.add_typer(mailing.commands, name="mail")
commands.add_typer(auditing.commands, name="audit")
commands.add_typer(caching.commands, name="cache")
commands.command("create-admin")(people.create_admin)
commands.command("unlock")(people.unlock)
commands.command("rotate-keys")(rotating.rotate_keys)
commands.command("worker")(working.work)
commands.command("sweep")(sweeping.sweep)
commands.command("top")(top.top)
commands.command("copy")(copying.copy)
commands.command("backup")(backing_up.backup)
commands.command("restore")(backing_up.restore_backup)
commands.command("health")(checking.health)


def run() -> NoReturn:
    """The console script: faults of the settings are lines on standard error and exit code 1."""
    # A command says in its own lines what went wrong; the server sets its log up itself.
    logging.getLogger("duly").addHandler(logging.NullHandler())
    try:
        commands()
    except SettingsFault as fault:
        stop(*fault.faults)
    sys.exit(0)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"duly {__version__}")
        raise typer.Exit


@commands.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Duly, the task backend: accounts and tasks behind any frontend."""


@commands.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes; PostgreSQL only.")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Restart when a file changes.")] = False,
) -> None:
    """Migrate and serve."""
    given = {"host": host, "port": port, "web_concurrency": workers}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    address = serving.prepare(settings)
    if sys.stdout.isatty() or settings.environment == "development":
        _welcome(settings)
    sys.exit(serving.serve(settings, address, reload=reload))


def _is_every_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _welcome(settings: Settings) -> None:
    shown = "127.0.0.1" if _is_every_address(settings.host) else settings.host
    scheme = "http" if settings.tls_certificate is None else "https"
    base = settings.public_url or f"{scheme}://{shown}:{settings.port}"
    typer.echo(f"Duly {__version__} ({settings.environment})")
    if settings.docs_enabled:
        typer.echo(f"  Try it:    {base}/docs")
        typer.echo(f"  Read it:   {base}/redoc")
    typer.echo(f"  Health:    {base}/health")
    typer.echo("  Stop with Ctrl-C.")
    sys.stdout.flush()


@commands.command("doctor")
def examine(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every attachment, and compare every index of SQLite.")
    ] = False,
) -> None:
    """Report versions, database, schema and integrity; exit code 1 when something is wrong."""
    report = asyncio.run(doctor.examine(load_settings(), deep=deep))
    if as_json:
        typer.echo(json.dumps({**report.facts, "ok": not report.faults, "faults": report.faults}, indent=2))
    else:
        _print_facts(report.facts)
        typer.echo("All is well." if not report.faults else "")
    if report.faults:
        stop(*report.faults)


def _print_facts(facts: dict[str, Any], indent: str = "") -> None:
    for name, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{indent}{name}:")
            _print_facts(value, indent + "  ")
        else:
            typer.echo(f"{indent}{name}: {value}")


@commands.command("export-openapi")
def export_openapi(
    file: Annotated[Path | None, typer.Argument(help="Where to write it; standard output without.")] = None,
) -> None:
    """Write the OpenAPI document."""
    from duly.app import create_app  # noqa: PLC0415 - the other commands start quicker without it

    document = json.dumps(create_app(load_settings()).openapi(), indent=2, ensure_ascii=False) + "\n"
    if file is None:
        typer.echo(document, nl=False)
    else:
        file.write_text(document, encoding="utf-8")
