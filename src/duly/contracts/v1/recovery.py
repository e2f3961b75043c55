"""Passwords and addresses: forgotten, reset, changed, verified; below /auth."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from duly.contracts.v1.declarations import MAILED, problems
from duly.contracts.v1.models import MessageResponse
from duly.contracts.v1.recovery_models import (
    ChangePasswordRequest,
    EmailRequest,
    ResetPasswordRequest,
    TokenRequest,
)  # fmt: skip
from duly.identity import recovery
from duly.web.dependencies import Caller, Tools, Transaction
from duly.web.devices import origin_of
from duly.web.limits import limited
from duly.web.replies import Document, Empty, dump_json
from duly.web.route import ContractRoute

router = APIRouter(prefix="/auth", tags=["v1: accounts and sessions"], route_class=ContractRoute)

MAIL_PROMISED = dump_json({"message": "If the address is somebody's here, a mail is on its way."})
_READS = problems(413, 415, 429)


@router.post(
    "/change-password",
    operation_id="change_password",
    summary="Change the password",
    status_code=204,
    response_class=Response,
    responses=problems(401, 403, 413, 415, 423),
)
async def change_password(
    body: ChangePasswordRequest, caller: Caller, request: Request, tools: Tools, unit: Transaction
) -> Response:
    """Needs the current one; the caller's other sessions end."""
    await recovery.change_password(
        tools.identity, unit, caller, current=body.current_password, new=body.new_password, origin=origin_of(request)
    )
    return Empty()


@router.post(
    "/forgot-password",
    operation_id="forgot_password",
    summary="Ask for a mail to reset the password",
    status_code=202,
    response_model=MessageResponse,
    responses={**_READS, 202: MAILED},
)
@limited("mail")
async def forgot_password(body: EmailRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """The answer is the same for every address. The link in the mail is good once, for an hour."""
    await recovery.request_reset(tools.identity, unit, body.email, origin=origin_of(request))
    return Document(MAIL_PROMISED, 202)


@router.post(
    "/reset-password",
    operation_id="reset_password",
    summary="Set a new password with the mailed token",
    status_code=204,
    response_class=Response,
    responses=_READS,
)
@limited("mail")
async def reset_password(body: ResetPasswordRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """Ends every session and lifts a lock. The token is good once."""
    await recovery.reset_password(tools.identity, unit, body.token, body.new_password, origin=origin_of(request))
    return Empty()


@router.post(
    "/verify-email",
    operation_id="verify_email",
    summary="Prove the e-mail address",
    status_code=204,
    response_class=Response,
    responses=_READS,
)
@limited("mail")
async def verify_email(body: TokenRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """With the token of the mail, once, within 24 hours."""
    await recovery.verify_email(tools.identity, unit, body.token, origin=origin_of(request))
    return Empty()


@router.post(
    "/resend-verification",
    operation_id="resend_verification",
    summary="Ask for the verification mail again",
    status_code=202,
    response_model=MessageResponse,
    responses={**_READS, 202: MAILED},
)
@limited("mail")
async def resend_verification(body: EmailRequest, tools: Tools, unit: Transaction) -> Response:
    """The answer is the same for every address."""
    await recovery.request_verification(tools.identity, unit, body.email)
    return Document(MAIL_PROMISED, 202)


@router.post(
    "/confirm-email",
    operation_id="confirm_email",
    summary="Prove a new e-mail address",
    status_code=204,
    response_class=Response,
    responses=problems(409, 413, 415, 429),
)
@limited("mail")
async def confirm_email(body: TokenRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """The address becomes the account's, and the old one is told."""
    await recovery.confirm_email(tools.identity, unit, body.token, origin=origin_of(request))
    return Empty()
