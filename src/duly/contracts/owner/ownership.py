"""Whose address it is: the user in the path against the user of the token, before anything else is looked at."""

import re
from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import Depends, Path, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from duly.errors import Forbidden
from duly.identity.outside_users import NO_USER_IDS
from duly.identity.principals import Principal
from duly.web.dependencies import Caller, get_current_user
from duly.web.route import ContractRoute, Handler

UserId = Annotated[
    str,
    Path(
        description="The caller's id, or the `sub` of their issuer. No id is one of "
        f"{', '.join(f'`{word}`' for word in sorted(NO_USER_IDS))}: with such a word it is another address.",
        json_schema_extra={"maxLength": 255},
    ),
]
# What `%2F` is while a path is taken apart; no path that was decoded has half of a surrogate pair.
_SLASH = "\udc2f"
_ENCODED_SLASH = re.compile(rb"%2[fF]")


async def validate_user_ownership(user_id: UserId, caller: Caller) -> Principal:
    """The caller, when the path names them. Raises `Forbidden` (`USER_MISMATCH`), and asks nobody who the other is."""
    if user_id not in {caller.user_id, caller.subject}:
        raise Forbidden("The address names a user who is not the token's. Put your own id there.", code="USER_MISMATCH")
    return caller


Owner = Annotated[Principal, Depends(validate_user_ownership)]


class OwnerRoute(ContractRoute):
    """Refuses in this contract's order: 401, then 403 for another's address, and only then whatever else is wrong."""

    def get_route_handler(self) -> Handler:
        """The handler of every contract, behind the comparison."""
        handle = super().get_route_handler()

        async def owned(request: Request) -> Response:
            if get_current_user not in request.app.dependency_overrides:
                await validate_user_ownership(request.path_params["user_id"], await get_current_user(request))
            return await handle(request)

        return owned

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """An id may have a slash, sent as `%2F`; a word that stands for something else in an address is no id."""
        match, found = super().matches(_slashes_kept(scope))
        if match is Match.NONE:
            return match, found
        values = {name: value.replace(_SLASH, "/") for name, value in found["path_params"].items()}
        if values["user_id"].partition("/")[0] in NO_USER_IDS:
            return Match.NONE, {}
        return match, {**found, "path_params": values}


def is_owner_path(path: str) -> bool:
    """Whether this contract answers below `path`, which is decoded: an id with a slash looks like several parts."""
    start, *parts = path.removeprefix("/").split("/")
    if parts[:1] == ["v1"]:
        del parts[0]
    return start == "api" and "tasks" in parts[1:] and parts[0] not in NO_USER_IDS


def _slashes_kept(scope: Scope) -> Scope:
    raw: bytes = scope.get("raw_path") or b""
    if scope["type"] != "http" or not _ENCODED_SLASH.search(raw):
        return scope
    parts = [unquote_to_bytes(part).decode("utf-8", "replace") for part in _ENCODED_SLASH.split(raw)]
    return {**scope, "path": _SLASH.join(parts)}
