"""Users: /users…, for oneself and for administrators."""

import csv
import io
from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.routing import APIRoute
from pydantic import AfterValidator
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match
from starlette.types import Scope

from duly.audit.events import Event
from duly.contracts.v1.auth_models import UserResponse
from duly.contracts.v1.declarations import MAILED, SIGNED_IN, problems
from duly.contracts.v1.models import Input, MessageResponse
from duly.contracts.v1.recovery import MAIL_PROMISED
from duly.contracts.v1.recovery_models import ChangeEmailRequest
from duly.contracts.v1.user_models import (
    DeleteUserRequest,
    UserBulkRequest,
    UserBulkResponse,
    UserListResponse,
    UserQuery,
    UserUpdate,
)  # fmt: skip
from duly.errors import FieldFault, Invalid, NotFound
from duly.identity import recovery, users
from duly.identity.accounts import Account, fold_email
from duly.identity.users import BulkResult, StoredUser
from duly.kit.clock import rfc3339
from duly.kit.tables import safe_cell
from duly.web.dependencies import ADMINS_ONLY, Admin, Caller, Reading, Tools, Transaction
from duly.web.devices import origin_of
from duly.web.limits import limited
from duly.web.preconditions import expected_version, is_unmodified
from duly.web.replies import Document, Empty, dump_json, etag
from duly.web.route import ContractRoute

ADMIN = problems(401, 403)
COLUMNS = ("id", "email", "username", "name", "role", "is_active", "email_verified", "created_at", "updated_at")


class UserRoute(ContractRoute):
    """A fixed path such as `/users/profile` is no user's, whatever the method."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Starlette tries the next route for another method; here that one must not take over."""
        match, found = super().matches(scope)
        if match is not Match.NONE and found["path_params"].get("user_id") in _fixed_names():
            return Match.NONE, {}
        return match, found


router = APIRouter(prefix="/users", tags=["v1: users"], route_class=UserRoute)
# Apart, because there is no mail without local accounts.
mail_router = APIRouter(prefix="/users", tags=["v1: users"], route_class=ContractRoute)


@cache
def _fixed_names() -> frozenset[str]:
    routes = (*router.routes, *mail_router.routes)
    paths = (route.path.removeprefix("/users/") for route in routes if isinstance(route, APIRoute))
    return frozenset(path.partition("/")[0] for path in paths if "{" not in path)


def _storable(user_id: str) -> str:
    # What no id can be is answered like an id that nobody has, and never reaches the database.
    if len(user_id) > 255 or not user_id.isprintable():
        raise NotFound("There is no such user.")
    return user_id


UserId = Annotated[str, Path(description="The user's id.", json_schema_extra={"maxLength": 255}),
                   AfterValidator(_storable)]  # fmt: skip


class ExportQuery(Input):
    """The form of the file."""

    format: Literal["csv", "json"] = "json"


def _user(stored: StoredUser) -> Response:
    return Document(dump_json(asdict(stored.account)), headers=[(b"etag", etag(stored.version))])


@router.get("", operation_id="list_users", summary="List users", response_model=UserListResponse, responses=ADMIN)
async def list_users(
    query: Annotated[UserQuery, Query()], admin: Admin, request: Request, tools: Tools, unit: Transaction
) -> Response:
    """For administrators: everybody who is not deleted, newest first unless `sort` says otherwise."""
    page = await users.list_users(unit, tools.cursors, query.to_filter(), caller_id=admin.id)
    await tools.identity.audit.record(
        unit, Event.USERS_LISTED, origin=origin_of(request), actor=admin.actor, found=page.total
    )
    items = [asdict(account) for account in page.users]
    body = {"items": items, "total": page.total, "limit": query.limit, "offset": query.offset}
    return Document(dump_json({**body, "next_cursor": page.next_cursor}))


@router.get(
    "/profile",
    operation_id="read_profile",
    summary="Read the caller's user",
    response_model=UserResponse,
    responses=SIGNED_IN,
)
async def read_profile(caller: Caller, request: Request, database: Reading) -> Response:
    """The caller, with the version for `If-Match`."""
    return _read(request, await users.find_user(database, caller, caller.user_id))


@router.get(
    "/export",
    operation_id="export_users",
    summary="Export users",
    response_class=Response,
    responses={
        **ADMIN,
        200: {"description": "A file.", "content": {"application/json": {"schema": {"type": "array", "items": {}}},
                                                    "text/csv": {"schema": {"type": "string"}}}},
    },
)  # fmt: skip
async def export_users(
    query: Annotated[ExportQuery, Query()], admin: Admin, request: Request, tools: Tools, unit: Transaction
) -> Response:
    """For administrators: everybody who is not deleted, oldest first, streamed. No cell of the CSV is a formula."""
    await tools.identity.audit.record(
        unit, Event.DATA_EXPORTED, origin=origin_of(request), actor=admin.actor, what="users", format=query.format
    )
    found = users.export_users(tools.database)
    lines = _csv(found) if query.format == "csv" else _json(found)
    kind = "text/csv; charset=utf-8" if query.format == "csv" else "application/json"
    name = f'attachment; filename="users.{query.format}"'
    return StreamingResponse(lines, media_type=kind, headers={"Content-Disposition": name})


async def _csv(found: AsyncIterator[Account]) -> AsyncIterator[bytes]:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    async for account in found:
        writer.writerow([safe_cell(_text(getattr(account, name))) for name in COLUMNS])
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue().encode()


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else rfc3339(value)


async def _json(found: AsyncIterator[Account]) -> AsyncIterator[bytes]:
    before = b"["
    async for account in found:
        yield before + dump_json(asdict(account))
        before = b",\n"
    yield b"]" if before != b"[" else b"[]"


@router.post(
    "/bulk",
    operation_id="change_users",
    summary="Change many users",
    response_model=UserBulkResponse,
    responses=problems(401, 403, 413, 415),
    dependencies=[ADMINS_ONLY],
)
async def change_users(
    *, body: UserBulkRequest, caller: Caller, request: Request, tools: Tools, unit: Transaction
) -> Response:
    """For administrators: each on its own, with the code that the single call would have had. Never oneself."""
    results = await users.change_many(
        tools.identity, unit, caller, body.action, body.ids, origin=origin_of(request), role=body.role
    )
    items = [_item(result, body) for result in results]
    failed = sum(item["error"] is not None for item in items)
    return Document(dump_json({"results": items, "succeeded": len(items) - failed, "failed": failed}))


def _item(result: BulkResult, body: UserBulkRequest) -> dict[str, Any]:
    error, status = None, 204 if body.action == "delete" else 200
    if result.error is not None:
        faults = [asdict(fault) for fault in result.error.faults] if isinstance(result.error, Invalid) else None
        error = {"code": result.error.code, "message": result.error.message, "errors": faults}
        status = result.error.kind.value
    account = asdict(result.account) if result.account else None
    return {"index": result.index, "id": body.ids[result.index], "status": status, "user": account, "error": error}


@mail_router.post(
    "/me/change-email",
    operation_id="change_email",
    summary="Ask for another e-mail address",
    status_code=202,
    response_model=MessageResponse,
    responses={**problems(401, 403, 413, 415, 423), 202: MAILED},
)
@limited("mail")
async def change_email(
    body: ChangeEmailRequest, caller: Caller, request: Request, tools: Tools, unit: Transaction
) -> Response:
    """The new address counts once the mail to it was answered; the old one is told."""
    await recovery.request_email_change(
        tools.identity, unit, caller, new_email=body.new_email, current_password=body.current_password,
        origin=origin_of(request),
    )  # fmt: skip
    return Document(MAIL_PROMISED, 202)


@router.get(
    "/{user_id}", operation_id="read_user", summary="Read a user", response_model=UserResponse,
    responses=problems(401, 404),
)  # fmt: skip
async def read_user(user_id: UserId, caller: Caller, request: Request, database: Reading) -> Response:
    """Oneself; anybody for an administrator; for everybody else there is no such user."""
    return _read(request, await users.find_user(database, caller, user_id))


def _read(request: Request, stored: StoredUser) -> Response:
    if is_unmodified(request, stored.version):
        return Empty(304, headers=[(b"etag", etag(stored.version))])
    return _user(stored)


_CHANGES = problems(401, 403, 404, 409, 412, 413, 415)


@router.put(
    "/{user_id}", operation_id="replace_user", summary="Update a user", response_model=UserResponse, responses=_CHANGES
)
async def replace_user(
    *, user_id: UserId, body: UserUpdate, caller: Caller, request: Request, tools: Tools, unit: Transaction
) -> Response:
    """The same as PATCH: a merge, so that a client that knows fewer fields destroys none."""
    return await _update(user_id=user_id, body=body, caller=caller, request=request, tools=tools, unit=unit)


@router.patch(
    "/{user_id}", operation_id="update_user", summary="Update a user", response_model=UserResponse, responses=_CHANGES
)
async def update_user(
    *, user_id: UserId, body: UserUpdate, caller: Caller, request: Request, tools: Tools, unit: Transaction
) -> Response:
    """Name and username of oneself; for an administrator also `is_active` and `role` of others."""
    return await _update(user_id=user_id, body=body, caller=caller, request=request, tools=tools, unit=unit)


async def _update(
    *, user_id: str, body: UserUpdate, caller: Caller, request: Request, tools: Tools, unit: Transaction
) -> Response:
    if "email" in body.model_fields_set:
        account = (await users.find_user(unit, caller, user_id)).account
        if (fold_email(body.email) if body.email else None) != account.email:
            fault = FieldFault("email", "Use POST /api/v1/users/me/change-email.", "email_needs_proof")
            raise Invalid("An e-mail address changes once the new one is proven.", faults=[fault])
    stored = await users.update_user(
        tools.identity, unit, caller, user_id, body.to_patch(), origin=origin_of(request),
        version=expected_version(request, body.version),
    )  # fmt: skip
    return _user(stored)


@router.delete(
    "/{user_id}",
    operation_id="delete_user",
    summary="Delete a user",
    status_code=204,
    response_class=Response,
    responses=_CHANGES | problems(423),
)
async def delete_user(
    *, user_id: UserId, caller: Caller, request: Request, tools: Tools, unit: Transaction,
    body: DeleteUserRequest | None = None,
) -> Response:  # fmt: skip
    """Their sessions end and their names are free. Oneself with `current_password` in the body; others as an admin."""
    await users.delete_user(
        tools.identity, unit, caller, user_id, origin=origin_of(request),
        current_password=body.current_password if body else None, version=expected_version(request),
    )  # fmt: skip
    return Empty()


@router.post(
    "/{user_id}/unlock",
    operation_id="unlock_user",
    summary="Lift the lock of a user",
    status_code=204,
    response_class=Response,
    responses=problems(401, 403, 404),
    dependencies=[ADMINS_ONLY],
)
async def unlock_user(
    *, user_id: UserId, caller: Caller, request: Request, tools: Tools,
                      unit: Transaction) -> Response:  # fmt: skip
    """For administrators. Nothing to lift is no error."""
    await users.unlock_user(tools.identity, unit, caller, user_id, origin=origin_of(request))
    return Empty()
