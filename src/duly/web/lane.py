"""Answers hot routes without the framework in between, from the very declarations that the framework has.

A route marked `@direct` stays declared, documented and validated like any other. From its signature the lane makes a
plan: where each argument comes from. The lane serves a request only when everything about it is in order; whatever is
not, an unknown parameter, a body that is not valid, a token not seen before, goes on to the framework's own route,
untouched. So every refusal is made in one place, and the lane only has to be right about success.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi import APIRouter, FastAPI, Request
from fastapi.params import Body, Depends, Path, Query
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from duly.db.conflicts import TransactionAborted
from duly.db.unit import Unit
from duly.errors import DulyError
from duly.identity.principals import Principal
from duly.kit.strict_json import parse_json
from duly.web import dependencies
from duly.web.replies import WHOLE
from duly.web.retry import note_abort, replay
from duly.web.services import Services

Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[Response]])
RenderResponse = Callable[[Request, DulyError], Response]

_MARK = "__duly_direct__"
_REMEMBERED_QUERIES = 1024
_REMEMBERED_LENGTH = 256
_JSON_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})


COMPRESSED_FROM = 1000
"""Bytes from which a body is compressed for those who accept it."""
# What the middlewares for compression and cross-origin calls say of a response that they leave alone.
_VARY = (b"vary", b"Origin")
_VARY_LARGE = (b"vary", b"Accept-Encoding, Origin")


class _NotPlain(Exception):
    """This request is not for the lane."""


def direct(endpoint: Endpoint) -> Endpoint:
    """Let the lane serve this endpoint; it must be a coroutine that returns a `Response` with a ready body."""
    setattr(endpoint, _MARK, True)
    return endpoint


class _Call:
    """What is known about one request while its arguments are put together."""

    __slots__ = (
        "authorization", "body", "content_type", "encoded", "keyed", "needs_middleware", "path_value", "principal",
        "request", "scope", "services",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, path_value: str) -> None:
        self.scope = scope
        self.path_value = path_value
        self.services: Services = scope["app"].state.services
        self.request = Request(scope, receive)
        self.body: bytes | None = None
        self.principal: Principal | None = None
        self.authorization: bytes | None = None
        self.content_type: bytes | None = None
        self.keyed = self.encoded = self.needs_middleware = False
        for name, value in scope["headers"]:
            if name == b"authorization":
                if self.authorization is not None:
                    raise _NotPlain
                self.authorization = value
            elif name == b"content-type":
                if self.content_type is not None:
                    raise _NotPlain
                self.content_type = value
            elif name == b"idempotency-key":
                self.keyed = True
            elif name == b"content-encoding":
                self.encoded = True
            elif name == b"origin" or (name == b"accept-encoding" and b"gzip" in value):
                self.needs_middleware = True


Source = Callable[[_Call], Any]


def _caller(call: _Call) -> Any:
    principal = call.services.guard.recall(call.authorization, call.scope)
    if principal is None:
        raise _NotPlain
    # Where `request.state` keeps it.
    call.scope["state"]["principal"] = call.principal = principal
    return principal


def _path_source(annotation: Any) -> Source:
    validate = TypeAdapter(annotation).validator.validate_python
    return lambda call: validate(call.path_value)


def _query_source(model: type[BaseModel]) -> Source:
    remembered: dict[bytes, BaseModel] = {}

    def read(call: _Call) -> BaseModel:
        text: bytes = call.scope["query_string"]
        found = remembered.get(text)
        if found is None:
            pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True)
            found = model.model_validate(dict(pairs))
            if len(text) <= _REMEMBERED_LENGTH:
                if len(remembered) >= _REMEMBERED_QUERIES:
                    remembered.clear()
                remembered[text] = found
        return found

    return read


def _body_source(model: type[BaseModel]) -> Source:
    validate = model.__pydantic_validator__.validate_python

    def read(call: _Call) -> Any:
        if call.body is None or call.content_type not in _JSON_TYPES or call.encoded:
            raise _NotPlain
        return validate(parse_json(call.body))

    return read


class _Plan:
    """One endpoint, and where each of its arguments comes from; the caller is always asked for first."""

    __slots__ = ("_endpoint", "_sources", "_takes_query", "_unit_name", "reads_body")

    def __init__(self, endpoint: Callable[..., Awaitable[Response]]) -> None:
        self._endpoint = endpoint
        self._unit_name: str | None = None
        self.reads_body = self._takes_query = False
        sources: list[tuple[str, Source]] = []
        for name, parameter in inspect.signature(endpoint).parameters.items():
            source = self._source(name, parameter.annotation)
            if source is not None:
                sources.append((name, source))
        self._sources = sorted(sources, key=lambda pair: pair[1] is not _caller)

    def _source(self, name: str, annotation: Any) -> Source | None:
        if annotation is Request:
            return lambda call: call.request
        bare, marks = _unwrap(annotation)
        for mark in marks:
            if isinstance(mark, Depends):
                if mark.dependency in {dependencies.open_single_unit, dependencies.open_unit}:
                    self._unit_name = name
                    return None
                return _GIVEN[mark.dependency]
            if isinstance(mark, Path):
                return _path_source(annotation)
            if isinstance(mark, Query):
                self._takes_query = True
                return _query_source(bare)
        if isinstance(bare, type) and issubclass(bare, BaseModel) and not any(isinstance(m, Body) for m in marks):
            self.reads_body = True
            return _body_source(bare)
        raise TypeError(f"{self._endpoint.__qualname__}: the lane has no source for the parameter {name}")

    def arguments(self, call: _Call) -> dict[str, Any]:
        """Raises `_NotPlain` or a validation error; nothing has happened by then."""
        if call.scope["query_string"] and not self._takes_query:
            raise _NotPlain
        return {name: source(call) for name, source in self._sources}

    async def run(self, call: _Call, arguments: dict[str, Any]) -> Response:
        """The endpoint within its unit, which is committed when this returns."""
        if self._unit_name is None:
            return await self._endpoint(**arguments)
        database = call.services.database
        unit: Unit
        async with database.unit() if call.keyed else database.single() as unit:
            arguments[self._unit_name] = unit
            return await self._endpoint(**arguments)


_GIVEN: dict[Any, Source] = {
    dependencies.get_current_user: _caller,
    dependencies.get_services: lambda call: call.services,
    dependencies.get_database: lambda call: call.services.database,
}


def _unwrap(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(annotation) is Annotated:
        bare, *marks = get_args(annotation)
        return bare, tuple(marks)
    return annotation, ()


class Lane:
    """Plain ASGI, used twice.

    Outside of the framework it serves requests that none of the middlewares has to touch; inside of them those of
    browsers, which need cross-origin headers or compression.
    """

    __slots__ = ("_app", "_application", "_by_parent", "_fixed", "_is_outer", "_render", "_taken")

    def __init__(
        self,
        app: ASGIApp,
        *,
        application: FastAPI,
        routers: Iterable[tuple[str, APIRouter]],
        render: RenderResponse,
        is_outer: bool,
    ) -> None:
        self._app = app
        self._is_outer = is_outer
        self._application = application
        self._render = render
        self._fixed: dict[tuple[str, str], _Plan] = {}
        self._by_parent: dict[tuple[str, str], _Plan] = {}
        self._taken: set[str] = set()
        plans: dict[Any, _Plan] = {}
        for prefix, router in routers:
            for route in router.routes:
                if isinstance(route, APIRoute):
                    self._add(prefix + route.path, route, plans)

    def _add(self, path: str, route: APIRoute, plans: dict[Any, _Plan]) -> None:
        if "{" not in path:
            self._taken.add(path)
        if not getattr(route.endpoint, _MARK, False):
            return
        plan = plans.get(route.endpoint) or _Plan(route.endpoint)
        plans[route.endpoint] = plan
        parent, _, last = path.rpartition("/")
        table, key = (self._by_parent, parent) if last.startswith("{") else (self._fixed, path)
        for method in route.methods or ():
            table[method, key] = plan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what is plain, and pass on everything else."""
        if scope["type"] == "http" and not self._application.dependency_overrides:
            path: str = scope["path"]
            plan, value = self._fixed.get((scope["method"], path)), ""
            if plan is None and path not in self._taken:
                parent, _, value = path.rpartition("/")
                plan = self._by_parent.get((scope["method"], parent)) if value else None
            if plan is not None:
                unread = await self._serve(plan, value, scope, receive, send)
                if unread is None:
                    return
                receive = unread
        await self._app(scope, receive, send)

    async def _serve(self, plan: _Plan, value: str, scope: Scope, receive: Receive, send: Send) -> Receive | None:
        """None when it was answered; else the `receive` with which the framework sees the request as it came."""
        again = receive
        scope["app"] = self._application
        try:
            call = _Call(scope, receive, value)
            if call.needs_middleware and self._is_outer:
                return again
            if plan.reads_body:
                if call.services.guard.recall(call.authorization, scope) is None:
                    return again  # who may not come in is told so before anything of the body is read
                message = await receive()
                again = _untouched(message, receive)
                if message["type"] != "http.request" or message.get("more_body", False):
                    return again
                call.body = call.request._body = message.get("body", b"")  # noqa: SLF001 - where body() keeps it
            arguments = plan.arguments(call)
            counted = await self._count(call)
        except (_NotPlain, ValidationError, DulyError):
            return again
        try:
            response = await plan.run(call, arguments)
        except TransactionAborted:
            note_abort()
            return again
        except DulyError as error:
            response = self._render(call.request, error)
        if self._is_outer:
            response.raw_headers += counted
            response.raw_headers.append(_VARY_LARGE if len(response.body) >= COMPRESSED_FROM else _VARY)
        status, headers, body = response.status_code, response.raw_headers, response.body
        if self._is_outer and WHOLE in scope.get("extensions", ()):
            await send({"type": WHOLE, "status": status, "headers": headers, "body": body})
            return None
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return None

    async def _count(self, call: _Call) -> Sequence[tuple[bytes, bytes]]:
        """Raises `_NotPlain` for who is to be turned away; whoever comes in from the inner side was counted."""
        if not self._is_outer:
            return ()
        if call.principal is None:
            raise _NotPlain
        limits = call.services.limits
        headers = limits.take(call.principal)
        if headers is None:
            headers = await limits.top_up(call.principal)
        if headers is None:
            raise _NotPlain
        return headers


def _untouched(message: Any, receive: Receive) -> Receive:
    if message["type"] == "http.request" and not message.get("more_body", False):
        return replay(message.get("body", b""), receive)
    first = [message]

    async def again() -> Any:
        return first.pop() if first else await receive()

    return again
