"""Forgotten passwords and the test mail of the accounts contract, below /password."""

import asyncio
import logging

from fastapi import APIRouter, Request
from starlette.responses import Response

from duly.contracts.accounts import answers
from duly.contracts.accounts.errors import refusals
from duly.contracts.accounts.models import (
    AccountsForgotRequest,
    AccountsMessage,
    AccountsResetRequest,
    AccountsTestMailRequest,
)
from duly.errors import DeliveryRefused, FieldFault, Invalid
from duly.identity import recovery
from duly.kit.ids import new_id
from duly.outbox.relay import DeliveryFailed, Undeliverable
from duly.web.dependencies import Admin, Tools, Transaction
from duly.web.devices import origin_of
from duly.web.limits import limited
from duly.web.route import ContractRoute

log = logging.getLogger(__name__)
router = APIRouter(prefix="/password", tags=["accounts: passwords"], route_class=ContractRoute)

# Less than the request may take, so that a mail server that hangs is told apart from one of ours that does.
TEST_SECONDS = 15.0


@router.post(
    "/forgot-password",
    operation_id="accounts_forgot_password",
    summary="Ask for a mail that resets the password",
    status_code=202,
    response_model=AccountsMessage,
    responses=refusals(),
)
@limited("mail")
async def forgot_password(body: AccountsForgotRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """The answer is the same whether or not anybody has the address."""
    await recovery.request_reset(tools.identity, unit, body.email, origin=origin_of(request))
    return answers.message("If an account has this address, a mail with a link is on its way.", 202)


@router.post(
    "/reset-password",
    operation_id="accounts_reset_password",
    summary="Reset the password",
    response_model=AccountsMessage,
    responses=refusals(),
)
@limited("mail")
async def reset_password(body: AccountsResetRequest, request: Request, tools: Tools, unit: Transaction) -> Response:
    """Set a new password with the mailed token, which works once; every session ends, and a lock is lifted."""
    await recovery.reset_password(tools.identity, unit, body.token, body.new_password, origin=origin_of(request))
    return answers.message("The password was reset. Sign in with the new one.")


@router.post(
    "/test-email",
    operation_id="accounts_send_test_email",
    summary="Send a test mail",
    response_model=AccountsMessage,
    responses=refusals(401, 403, 502),
)
@limited("mail")
async def send_test_email(admin: Admin, tools: Tools, body: AccountsTestMailRequest | None = None) -> Response:
    """Send a mail at once, to the administrator unless `to` is given, and say what the mail server said."""
    recipient = (body and body.to) or admin.email
    if recipient is None:
        fault = FieldFault("to", "Give an address; your account has none.", "missing")
        raise Invalid("There is no address to send the mail to.", faults=[fault])
    try:
        async with asyncio.timeout(TEST_SECONDS):
            await tools.postman.send_test(recipient, letter_id=new_id())
    except (DeliveryFailed, Undeliverable, TimeoutError) as error:
        reason = str(error) or f"the mail server did not answer within {TEST_SECONDS:.0f} seconds"
        log.warning("The test mail was not sent: %s", reason)
        raise DeliveryRefused(f"The test mail was not sent: {reason}. Check the SMTP settings.") from error
    return answers.message("The test mail was sent.")
