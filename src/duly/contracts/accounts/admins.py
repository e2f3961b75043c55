"""Administrators of the accounts contract, below /admins."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from duly.audit.events import Event
from duly.contracts.accounts import answers
from duly.contracts.accounts.admission import AdmissionRoute, Registrar
from duly.contracts.accounts.errors import refusals
from duly.contracts.accounts.models import (
    AccountsAdminSession,
    AccountsLoginRequest,
    AccountsPageQuery,
    AccountsRefreshRequest,
    AccountsRegisterRequest,
    AccountsTokens,
    AccountsUser,
    AccountsUserPage,
)
from duly.identity import admins, logins, users
from duly.identity.accounts import AccountDraft
from duly.identity.users import UserFilter
from duly.web.dependencies import Admin, Tools, Transaction
from duly.web.devices import origin_of
from duly.web.limits import limited
from duly.web.replies import Document, dump_json

ROLE = "admin"
router = APIRouter(prefix="/admins", tags=["accounts: administrators"], route_class=AdmissionRoute)


@router.post(
    "/register",
    operation_id="accounts_register_admin",
    summary="Register an administrator",
    status_code=201,
    response_model=AccountsAdminSession,
    responses=refusals(401, 403, 409),
)
@limited("register")
async def register(
    body: AccountsRegisterRequest, registrar: Registrar, request: Request, tools: Tools, unit: Transaction
) -> Response:
    """Create an administrator and their first session.

    Needs an administrator's access token; or, while there is no administrator, `ADMIN_REGISTRATION_TOKEN` in the header
    `X-Admin-Registration-Token`, which works once.
    """
    draft = AccountDraft(body.email, body.username, body.name, role=ROLE)
    made = await admins.register_admin(
        tools.identity, unit, draft, body.password, registrar=registrar, origin=origin_of(request)
    )
    return answers.session("admin", *made, status=201)


@router.post(
    "/login",
    operation_id="accounts_login_admin",
    summary="Log in as an administrator",
    response_model=AccountsAdminSession,
    responses=refusals(401, 403, 423),
)
@limited("login")
async def log_in(body: AccountsLoginRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """Open a session with an e-mail address or a username and the password; refused for whoever is no administrator."""
    opened = await logins.log_in(
        tools.identity, unit, body.login_name, body.password, origin=origin_of(request), role=ROLE
    )
    return answers.session("admin", *opened)


@router.post(
    "/refresh",
    operation_id="accounts_refresh_admin",
    summary="Exchange an administrator's refresh token",
    response_model=AccountsTokens,
    responses=refusals(401),
)
@limited("refresh")
async def refresh(body: AccountsRefreshRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """Get a new pair of tokens; a user's refresh token is refused here, and stays good where it belongs."""
    return answers.tokens(
        await tools.identity.sessions.rotate(unit, body.refresh_token, origin=origin_of(request), role=ROLE)
    )


@router.get(
    "/me",
    operation_id="accounts_read_admin",
    summary="Read the calling administrator",
    response_model=AccountsUser,
    responses=refusals(401, 403, body=False),
)
async def read_me(admin: Admin) -> Response:
    """The administrator that the token belongs to."""
    return answers.one(admin)


@router.get(
    "/users",
    operation_id="accounts_list_users",
    summary="List all users",
    response_model=AccountsUserPage,
    responses=refusals(401, 403, body=False),
)
async def list_users(
    query: Annotated[AccountsPageQuery, Query()], admin: Admin, request: Request, tools: Tools, unit: Transaction
) -> Response:
    """Everybody with an account, administrators too, newest first; a page beyond the last is empty."""
    wanted = UserFilter(is_active=query.is_active, limit=query.page_size, offset=(query.page - 1) * query.page_size)
    found = await users.list_users(unit, tools.cursors, wanted)
    await tools.identity.audit.record(
        unit, Event.USERS_LISTED, origin=origin_of(request), actor=admin.actor, page=query.page,
        page_size=query.page_size, is_active=query.is_active,
    )  # fmt: skip
    page = {
        "items": [asdict(account) for account in found.users],
        "total": found.total,
        "page": query.page,
        "page_size": query.page_size,
        "pages": -(-found.total // query.page_size),
    }
    return Document(dump_json(page))
