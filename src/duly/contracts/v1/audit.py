"""The audit log: /audit-log, for administrators, and everybody's own events."""

from dataclasses import asdict, replace
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from duly.audit.events import Entry, Event
from duly.audit.log import EntryFilter, EntryPage
from duly.contracts.v1.audit_models import (
    AuditListResponse,
    EntryQuery,
    OwnEntryQuery,
    VerificationResponse,
    VerifyQuery,
)  # fmt: skip
from duly.contracts.v1.declarations import SIGNED_IN, problems
from duly.web.dependencies import ADMINS_ONLY, Admin, Caller, Tools, Transaction
from duly.web.devices import origin_of
from duly.web.replies import Document, dump_json
from duly.web.route import ContractRoute

router = APIRouter(tags=["v1: audit log"], route_class=ContractRoute)


@router.get(
    "/audit-log",
    operation_id="list_audit_log",
    summary="Read the audit log",
    response_model=AuditListResponse,
    responses=problems(401, 403),
)
async def list_audit_log(
    query: Annotated[EntryQuery, Query()], admin: Admin, request: Request, tools: Tools, unit: Transaction
) -> Response:
    """For administrators. Reading it is an event too."""
    await tools.chain.seal(tools.database)
    page = await tools.identity.audit.list_entries(tools.database, tools.cursors, query.to_filter())
    await tools.identity.audit.record(unit, Event.AUDIT_READ, origin=origin_of(request), actor=admin.actor)
    return _page(page, query)


@router.get(
    "/audit-log/verify",
    operation_id="verify_audit_log",
    summary="Verify the audit log",
    response_model=VerificationResponse,
    responses=problems(401, 403),
    dependencies=[ADMINS_ONLY],
)
async def verify_audit_log(query: Annotated[VerifyQuery, Query()], request: Request, tools: Tools) -> Response:
    """For administrators: reads the whole chain, and says where it is broken. Keep `head` elsewhere, as an anchor."""
    request.scope["state"]["no_timeout"] = True
    return Document(dump_json(asdict(await tools.chain.verify(tools.database, anchor=query.anchor))))


@router.get(
    "/users/me/security-events",
    operation_id="list_security_events",
    summary="Read the caller's own security events",
    response_model=AuditListResponse,
    responses=SIGNED_IN,
)
async def list_security_events(query: Annotated[OwnEntryQuery, Query()], caller: Caller, tools: Tools) -> Response:
    """What the caller did, and what was done to their account, newest first."""
    wanted = EntryFilter(about=caller.user_id, limit=query.limit, offset=query.offset, cursor=query.cursor)
    await tools.chain.seal(tools.database)
    page = await tools.identity.audit.list_entries(tools.database, tools.cursors, wanted)
    return _page(replace(page, entries=[_shown_to(caller.user_id, entry) for entry in page.entries]), query)


def _shown_to(user_id: str, entry: Entry) -> Entry:
    """Where an administrator sat who changed something is not the user's to know."""
    if entry.actor_id in {None, user_id}:
        return entry
    return replace(entry, ip_address=None, user_agent=None)


def _page(page: EntryPage, query: OwnEntryQuery) -> Response:
    items = [asdict(entry) for entry in page.entries]
    body = {"items": items, "total": page.total, "limit": query.limit, "offset": query.offset}
    return Document(dump_json({**body, "next_cursor": page.next_cursor}))
