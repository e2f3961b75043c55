"""The command line: `duly serve | migrate | create-admin | doctor | export-openapi`."""

import asyncio
import getpass
import ipaddress
import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from duly import __version__
from duly.cli import migrating, serving
from duly.cli.faults import stop
from duly.db.database import open_database
from duly.errors import DulyError, Invalid
from duly.identity import accounts
from duly.identity.accounts import Account, AccountDraft
from duly.kit.passwords import PasswordHasher
from duly.operations import doctor, startup
from duly.settings import Settings, SettingsFault, load_settings

commands = typer.Typer(
    name="duly", help="Duly, the task backend.", no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    pretty_exceptions_enable=False,
)  # fmt: skip
commands.add_typer(migrating.commands, name="migrate")


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
    base = settings.public_url or f"http://{shown}:{settings.port}"
    typer.echo(f"Duly {__version__} ({settings.environment})")
    if settings.docs_enabled:
        typer.echo(f"  Try it:    {base}/docs")
        typer.echo(f"  Read it:   {base}/redoc")
    typer.echo(f"  Health:    {base}/health")
    typer.echo("  Stop with Ctrl-C.")
    sys.stdout.flush()


@commands.command("create-admin")
def create_admin(
    email: Annotated[str, typer.Option(help="E-mail address of the administrator.")],
    username: Annotated[str | None, typer.Option(help="A name to sign in with as well.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
) -> None:
    """Create an administrator; asks for the password on a terminal."""
    settings = load_settings()
    password = _read_password(password_stdin)
    try:
        account = asyncio.run(_add_admin(settings, AccountDraft(email, username, role="admin"), password))
    except Invalid as error:
        stop(*(f"{fault.field}: {fault.message}" for fault in error.faults))
    except DulyError as error:
        stop(error.message)
    typer.echo(f"Administrator {account.email} created ({account.id}).")


def _read_password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        stop("There is no terminal to ask for the password; use --password-stdin.")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        stop("The two passwords differ; start again.")
    return password


async def _add_admin(settings: Settings, draft: AccountDraft, password: str) -> Account:
    draft = accounts.check_draft(draft)
    accounts.check_password(password, email=draft.email, minimum=settings.password_min_length)
    address = startup.check_settings(settings)
    await startup.migrate_at_start(settings, address)
    database = await open_database(settings)
    hasher = PasswordHasher(settings.password_hasher, settings.bcrypt_rounds)
    try:
        async with database.unit() as unit:
            await accounts.refuse_taken(unit, draft)
            hashed = await hasher.hash(password)
            return await accounts.add_account(unit, draft, hashed_password=hashed)
    finally:
        hasher.close()
        await database.close()


@commands.command("doctor")
def examine(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Report versions, database, durability and schema; exit code 1 when something is wrong."""
    report = asyncio.run(doctor.examine(load_settings()))
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
