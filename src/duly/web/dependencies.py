"""What routes ask for by name: the services, the caller, and the transaction."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from duly.audit.events import Actor, Event
from duly.db.unit import Database, Unit
from duly.errors import Forbidden
from duly.identity.accounts import Account
from duly.identity.principals import Principal
from duly.identity.users import find_admin
from duly.web.devices import origin_of
from duly.web.idempotency import HEADER
from duly.web.raw_headers import find_header
from duly.web.services import Services


async def get_services(request: Request) -> Services:
    """The process's tools."""
    services: Services = request.app.state.services
    return services


async def get_database(request: Request) -> Database:
    """For reads that need no transaction."""
    database: Database = request.app.state.services.database
    return database


async def get_current_user(request: Request) -> Principal:
    """The verified caller, whose token may do this. Raises `Unauthenticated` or `Forbidden`."""
    principal: Principal | None = getattr(request.state, "principal", None)
    if principal is None:
        services: Services = request.app.state.services
        principal = await services.guard.authenticate(request.scope)
        request.state.principal = principal
    return principal


async def open_unit(request: Request) -> AsyncIterator[Unit]:
    """The request's transaction.

    `scope="function"` in the annotations below makes it commit before the response is sent: a plain yield dependency
    commits after the 201 is out, and a failed commit would look like success.
    """
    services: Services = request.app.state.services
    async with services.database.unit() as unit:
        yield unit


async def open_single_unit(request: Request) -> AsyncIterator[Unit]:
    """The transaction of a route that makes one write; an Idempotency-Key adds two, and so takes a whole unit."""
    database: Database = request.app.state.services.database
    is_keyed = find_header(request.scope, HEADER) is not None
    async with database.unit() if is_keyed else database.single() as unit:
        yield unit


async def get_admin(request: Request) -> Account:
    """The caller's account, read this moment. Raises `Forbidden` unless it is an administrator's, and audits that."""
    services: Services = request.app.state.services
    caller = await get_current_user(request)
    try:
        return await find_admin(services.database, caller)
    except Forbidden:
        async with services.database.unit() as unit:
            await services.identity.audit.record(
                unit, Event.ACCESS_DENIED, origin=origin_of(request), actor=Actor(caller.user_id), outcome="failure",
                method=request.method, path=request.url.path[:200],
            )  # fmt: skip
        raise


Tools = Annotated[Services, Depends(get_services)]
Reading = Annotated[Database, Depends(get_database)]
Caller = Annotated[Principal, Depends(get_current_user)]
Admin = Annotated[Account, Depends(get_admin)]
ADMINS_ONLY = Depends(get_admin)
Transaction = Annotated[Unit, Depends(open_unit, scope="function")]
SingleWrite = Annotated[Unit, Depends(open_single_unit, scope="function")]
