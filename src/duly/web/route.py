"""The route class of every contract: who calls, before what was sent; and what was sent, read strictly."""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.params import Form
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from duly.errors import FieldFault, Invalid, Malformed, UnsupportedMedia
from duly.kit.strict_json import parse_json
from duly.web.dependencies import get_admin, get_current_user

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
_HEAD = "duly.head"


class ContractRoute(APIRoute):
    """Refuses in the contract's order: 401, then unknown query parameters, then 415, then 400, then 422."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler behind the checks that must come before it reads the body."""
        handle = super().get_route_handler()
        dependant = self.dependant
        is_protected = any(part.call in {get_current_user, get_admin} for part in _walk(dependant))
        allowed = frozenset(_query_names(dependant))
        is_form = self.body_field is not None and isinstance(self.body_field.field_info, Form)
        reads_json = self.body_field is not None and not is_form

        async def checked(request: Request) -> Response:
            if is_protected and get_current_user not in request.app.dependency_overrides:
                await get_current_user(request)
            if request.scope["query_string"]:
                _refuse_unknown(request, allowed)
            if reads_json:
                await _read_json(request)
            return await handle(request)

        return checked

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """HEAD finds what GET finds (RFC 9110 §9.3.2); the server leaves the body out."""
        return super().matches(self._as_get(scope))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer HEAD as GET."""
        await super().handle(self._as_get(scope), receive, send)

    def _as_get(self, scope: Scope) -> Scope:
        is_head = scope["type"] == "http" and scope["method"] == "HEAD" and "GET" in (self.methods or ())
        return {**scope, "method": "GET", _HEAD: True} if is_head else scope


def asked_by_head(scope: Scope) -> bool:
    """Whether this GET was a HEAD, for which a long body need not be made."""
    return _HEAD in scope


async def _read_json(request: Request) -> None:
    """Parse the body here, so that duplicate keys and the like are refused, and hand the value to FastAPI."""
    body = await request.body()
    if not body:
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMedia("The body must be JSON. Send it with Content-Type: application/json.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("The body must not be compressed. Send it without Content-Encoding.")
    request._json = parse_json(body)  # noqa: SLF001 - where Request.json() keeps what it parsed


def _refuse_unknown(request: Request, allowed: frozenset[str]) -> None:
    try:
        names = request.query_params.keys()
    except ValueError:
        raise Malformed("The query string cannot be read. Percent-encode it as UTF-8.") from None
    unknown = [name for name in names if name not in allowed]
    if unknown:
        known = ", ".join(sorted(allowed)) or "none"
        fault = FieldFault("query", f"Unknown parameter. This address takes: {known}.", "unknown_parameter")
        raise Invalid("The query has a parameter that does not exist here. Remove it.", faults=[fault])


def _walk(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for part in dependant.dependencies:
        yield from _walk(part)


def _query_names(dependant: Dependant) -> Iterator[str]:
    for part in _walk(dependant):
        for field in part.query_params:
            annotation = field.field_info.annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                for name, inner in annotation.model_fields.items():
                    yield inner.alias or name
            else:
                yield field.alias
