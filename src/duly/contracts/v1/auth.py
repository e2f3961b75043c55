"""Accounts and sessions, below /auth."""

import contextlib
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from duly.audit.events import Event
from duly.contracts.v1.auth_models import (
    AuthResponse,
    LogoutRequest,
    RefreshRequest,
    RegisterRequest,
    SessionListResponse,
    TokenResponse,
    UserResponse,
)  # fmt: skip
from duly.contracts.v1.credentials import read_credentials
from duly.contracts.v1.declarations import MAILED, READS_BODY, SIGNED_IN, problems
from duly.contracts.v1.models import PageQuery
from duly.errors import NotFound
from duly.identity import accounts, logins
from duly.identity.accounts import Account, AccountDraft
from duly.identity.sessions import TokenPair
from duly.web.dependencies import Caller, Reading, Tools, Transaction
from duly.web.devices import origin_of
from duly.web.limits import limited
from duly.web.replies import Document, Empty, dump_json
from duly.web.route import ContractRoute

router = APIRouter(prefix="/auth", tags=["v1: accounts and sessions"], route_class=ContractRoute)


def _tokens(pair: TokenPair) -> dict[str, object]:
    return {**asdict(pair), "token_type": "bearer"}


def _signed_in(account: Account, pair: TokenPair, status: int) -> Response:
    return Document(dump_json({"user": asdict(account), **_tokens(pair)}), status)


@router.post(
    "/register",
    operation_id="register",
    summary="Register",
    status_code=201,
    response_model=AuthResponse,
    responses={**problems(403, 409, 413, 415, 429), 202: MAILED},
)
@limited("register")
async def register(body: RegisterRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """Create an account and its first session.

    With `REGISTRATION=verified` the answer is 202 for every address, and a mail says the rest.
    """
    draft = AccountDraft(body.email, body.username, body.name)
    opened = await logins.register(tools.identity, unit, draft, body.password, origin=origin_of(request))
    if opened is None:
        return Document(dump_json({"message": "Look into your mail, and follow the link that is in it."}), 202)
    return _signed_in(*opened, 201)


@router.post(
    "/login",
    operation_id="login",
    summary="Log in",
    response_model=AuthResponse,
    responses=problems(401, 403, 413, 415, 423, 429),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/LoginRequest"}},
                "application/x-www-form-urlencoded": {"schema": {"$ref": "#/components/schemas/LoginForm"}},
            },
        }
    },
)
@limited("login")
async def login(request: Request, tools: Tools, unit: Transaction) -> Response:
    """Open a session with an e-mail address or a username and the password.

    JSON, or the form of the OAuth2 password grant (RFC 6749 §4.3.2), which is what Swagger's Authorize sends.
    """
    body = await read_credentials(request)
    opened = await logins.log_in(tools.identity, unit, body.name, body.password, origin=origin_of(request))
    return _signed_in(*opened, 200)


@router.post(
    "/refresh",
    operation_id="refresh",
    summary="Exchange a refresh token",
    response_model=TokenResponse,
    responses=problems(401, 413, 415, 429),
)
@limited("refresh")
async def refresh(body: RefreshRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """Get a new pair of tokens; the refresh token that was sent is spent.

    Sent again within ten seconds it brings the same new pair, so a lost answer logs nobody out. Later it is taken for
    stolen, and its session ends.
    """
    pair = await tools.identity.sessions.rotate(unit, body.refresh_token, origin=origin_of(request))
    return Document(dump_json(_tokens(pair)))


@router.post(
    "/logout", operation_id="logout", summary="Log out", status_code=204, response_class=Response, responses=READS_BODY
)
async def logout(
    caller: Caller, request: Request, tools: Tools, unit: Transaction, body: LogoutRequest | None = None
) -> Response:
    """End this session, or all of the caller's; their access tokens fail at once."""
    origin = origin_of(request)
    if body is not None and body.all_sessions:
        await logins.log_out_everywhere(tools.identity, unit, caller, origin=origin)
    elif caller.session_id is not None:
        # Two logouts at once: the second finds the session ended, which is what it asked for.
        with contextlib.suppress(NotFound):
            await tools.identity.sessions.end(
                unit, caller.user_id, caller.session_id, reason="logged_out", origin=origin, event=Event.USER_LOGGED_OUT
            )
    return Empty()


@router.get(
    "/me", operation_id="read_me", summary="Read the caller's account", response_model=UserResponse, responses=SIGNED_IN
)
async def read_me(caller: Caller, database: Reading) -> Response:
    """The account that the token belongs to."""
    return Document(dump_json(asdict(await accounts.find_account(database, caller.user_id))))


@router.get(
    "/sessions",
    operation_id="list_sessions",
    summary="List the caller's sessions",
    response_model=SessionListResponse,
    responses=SIGNED_IN,
)
async def list_sessions(
    query: Annotated[PageQuery, Query()], caller: Caller, database: Reading, tools: Tools
) -> Response:
    """Live sessions, newest first, with the device that each was opened on."""
    found, total = await tools.identity.sessions.list_sessions(
        database, caller.user_id, limit=query.limit, offset=query.offset
    )
    items = [{**asdict(session), "current": session.id == caller.session_id} for session in found]
    page = {"items": items, "total": total, "limit": query.limit, "offset": query.offset, "next_cursor": None}
    return Document(dump_json(page))


@router.delete(
    "/sessions/{session_id}",
    operation_id="end_session",
    summary="End one session",
    status_code=204,
    response_class=Response,
    responses=problems(401, 404),
)
async def end_session(session_id: str, caller: Caller, request: Request, tools: Tools, unit: Transaction) -> Response:
    """Its tokens fail at once; another user's session is not found."""
    if len(session_id) > 64 or not session_id.isascii() or not session_id.isprintable():
        raise NotFound("There is no such session.")
    await tools.identity.sessions.end(
        unit, caller.user_id, session_id, reason="revoked", origin=origin_of(request), event=Event.SESSION_REVOKED
    )
    return Empty()
