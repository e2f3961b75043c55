"""`duly create-admin` and `duly unlock`: what an operator does for people who cannot get in."""

import getpass
import sys
from typing import Annotated

import typer

from duly.audit.events import NOWHERE, Event
from duly.cli.faults import stop
from duly.cli.opening import House, run_in_house
from duly.errors import NotFound
from duly.identity import accounts, logins
from duly.identity.accounts import Account, AccountDraft
from duly.settings import load_settings


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
    draft = AccountDraft(email, username, role="admin")
    account = run_in_house(lambda house: _add_admin(house, draft, password), settings, migrates=True)
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


async def _add_admin(house: House, draft: AccountDraft, password: str) -> Account:
    identity = house.parts.identity
    draft = accounts.check_draft(draft)
    await logins.check_draft_password(identity, draft, password)
    async with house.database.unit() as unit:
        account = await logins.add_account(identity, unit, draft, password)
        await identity.audit.record(unit, Event.ADMIN_REGISTERED, origin=NOWHERE, target=("user", account.id))
    return account


def unlock(name: Annotated[str, typer.Argument(help="E-mail address or username.", show_default=False)]) -> None:
    """Let somebody sign in again at once, after too many wrong passwords."""
    was_locked = run_in_house(lambda house: _lift_lock(house, name), load_settings())
    typer.echo(f"{name} can sign in again." if was_locked else f"{name} was not locked; failed attempts are forgotten.")


async def _lift_lock(house: House, name: str) -> bool:
    identity = house.parts.identity
    async with house.database.unit() as unit:
        _, account = await accounts.find_credentials(unit, name)
        if account is None:
            raise NotFound(f"There is no account with the e-mail address or username {name!r}; check the spelling.")
        was_locked = await identity.lockout.lift(unit, identity.lockout.name_key(account.id, ""))
        if was_locked:
            await identity.audit.record(unit, Event.USER_UNLOCKED, origin=NOWHERE, target=("user", account.id))
    return was_locked
