"""Users of the accounts contract, below /users."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from duly.contracts.accounts import answers
from duly.contracts.accounts.errors import refusals
from duly.contracts.accounts.models import (
    AccountsLoginRequest,
    AccountsMessage,
    AccountsPasswordChange,
    AccountsRefreshRequest,
    AccountsRegisterRequest,
    AccountsTokens,
    AccountsUser,
    AccountsUserSession,
    AccountsUserUpdate,
)
from duly.db.unit import Unit
from duly.errors import FieldFault, Invalid
from duly.identity import accounts, logins, recovery
from duly.identity import users as verbs
from duly.identity.accounts import AccountDraft
from duly.identity.principals import Principal
from duly.identity.users import UserPatch
from duly.web.dependencies import Caller, Reading, Tools, Transaction
from duly.web.devices import origin_of
from duly.web.limits import limited
from duly.web.route import ContractRoute
from duly.web.services import Services

router = APIRouter(prefix="/users", tags=["accounts: users"], route_class=ContractRoute)

_ANSWER_THE_MAIL = {
    "model": AccountsMessage,
    "description": "With `REGISTRATION=verified`: a mail was sent, and its link opens the account.",
}


@router.post(
    "/register",
    operation_id="accounts_register",
    summary="Register a user",
    status_code=201,
    response_model=AccountsUserSession,
    responses={202: _ANSWER_THE_MAIL, **refusals(403, 409)},
)
@limited("register")
async def register(body: AccountsRegisterRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """Create an account and its first session."""
    draft = AccountDraft(body.email, body.username, body.name)
    made = await logins.register(tools.identity, unit, draft, body.password, origin=origin_of(request))
    if made is None:
        return answers.message("A mail is on its way. Follow its link to finish.", 202)
    return answers.session("user", *made, status=201)


@router.post(
    "/login",
    operation_id="accounts_login",
    summary="Log in",
    response_model=AccountsUserSession,
    responses=refusals(401, 403, 423),
)
@limited("login")
async def log_in(body: AccountsLoginRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """Open a session with an e-mail address or a username and the password."""
    opened = await logins.log_in(tools.identity, unit, body.login_name, body.password, origin=origin_of(request))
    return answers.session("user", *opened)


@router.post(
    "/refresh",
    operation_id="accounts_refresh",
    summary="Exchange a refresh token",
    response_model=AccountsTokens,
    responses=refusals(401),
)
@limited("refresh")
async def refresh(body: AccountsRefreshRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """Get a new pair of tokens; the refresh token that was sent is spent.

    Sent again within ten seconds it brings the same new pair. Later it is taken for stolen, and its session ends.
    """
    return answers.tokens(await tools.identity.sessions.rotate(unit, body.refresh_token, origin=origin_of(request)))


@router.post(
    "/change-password",
    operation_id="accounts_change_password",
    summary="Change the password",
    response_model=AccountsMessage,
    responses=refusals(401, 403, 423),
)
async def change_password(
    body: AccountsPasswordChange, request: Request, caller: Caller, tools: Tools, unit: Transaction
) -> Response:
    """Replace the password; the caller's other sessions end."""
    await recovery.change_password(
        tools.identity, unit, caller, current=body.current_password, new=body.new_password,
        origin=origin_of(request),
    )  # fmt: skip
    return answers.message("The password was changed, and every other session has ended.")


@router.get(
    "/me",
    operation_id="accounts_read_me",
    summary="Read the caller's account",
    response_model=AccountsUser,
    responses=refusals(401, body=False),
)
async def read_me(caller: Caller, database: Reading) -> Response:
    """The account that the token belongs to."""
    return answers.one(await accounts.find_account(database, caller.user_id))


@router.put(
    "/me",
    operation_id="accounts_update_me",
    summary="Change the caller's account",
    response_model=AccountsUser,
    responses=refusals(401, 403, 409, 423),
)
async def update_me(
    body: AccountsUserUpdate, request: Request, caller: Caller, tools: Tools, unit: Transaction
) -> Response:
    """Change name, username or address; the answer is the user as it is now.

    A new address needs `current_password`. A mail goes to it, and it is the account's once that is answered.
    """
    # The address first: a wrong password is counted, and what was written before it would be kept with the count.
    if "email" in body.model_fields_set:
        await _change_email(body, request, caller, tools, unit)
    sent = {name: getattr(body, name) for name in ("name", "username") if name in body.model_fields_set}
    stored = await verbs.update_user(
        tools.identity, unit, caller, caller.user_id, UserPatch(**sent), origin=origin_of(request)
    )
    return answers.one(stored.account)


async def _change_email(
    body: AccountsUserUpdate, request: Request, caller: Principal, tools: Services, unit: Unit
) -> None:
    account = await accounts.find_account(unit, caller.user_id)
    wanted = None if body.email is None else accounts.fold_email(body.email)
    if wanted == account.email:
        return
    if wanted is None:
        raise _refused("email", "Give another address; an account is not left without one.", "address_needed")
    if body.current_password is None:
        raise _refused("current_password", "Send your current password.", "password_needed")
    await recovery.request_email_change(
        tools.identity, unit, caller, new_email=wanted, current_password=body.current_password,
        origin=origin_of(request), tells_taken=True,
    )  # fmt: skip


def _refused(field: str, text: str, kind: str) -> Invalid:
    return Invalid("The address cannot be changed like this.", faults=[FieldFault(field, text, kind)])
