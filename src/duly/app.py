"""Puts the house together: the door, the contracts, and what lives from start to stop."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from duly import __version__
from duly.contracts import openapi, utility
from duly.contracts.accounts import admins, password
from duly.contracts.accounts import users as account_users
from duly.contracts.rendering import render_error
from duly.contracts.v1 import audit, auth, recovery, tasks, users
from duly.contracts.v1.problems import from_http, from_validation
from duly.db.conflicts import TransactionAborted
from duly.db.unit import Database
from duly.errors import DulyError
from duly.identity.issuers import TrustedIssuers
from duly.kit.logs import configure_logging, flush_logs
from duly.kit.paging import Cursors
from duly.kit.secrets import derive_keys
from duly.limits.limiter import Limiter
from duly.operations import assembly, startup
from duly.operations.draining import announce_end
from duly.operations.health import HealthChecks
from duly.operations.upkeep import Upkeep
from duly.settings import Settings, load_settings
from duly.web.access_log import access_log
from duly.web.account_pages import account_routes
from duly.web.addresses import ClientAddresses
from duly.web.cross_origin import CrossOrigin
from duly.web.docs_pages import docs_routes
from duly.web.door import Door
from duly.web.guard import Guard
from duly.web.lane import COMPRESSED_FROM, Lane
from duly.web.limits import RateLimits, RequestLimits, find_limited
from duly.web.retry import RunAgain, may_run_again
from duly.web.services import Services

PREFIXES = ("/api/v1", "/api")
ACCOUNTS = (account_users.router, admins.router, password.router)


class Application(FastAPI):
    """FastAPI, entered through the door and, for hot routes, the lane."""

    def enclose(self, routers: Sequence[tuple[str, APIRouter]], **door: Any) -> None:
        """Put the door around everything, and a lane on either side of the middlewares."""
        # Starlette runs the middleware added first as the outermost: this one comes right before the router.
        inner = Middleware(Lane, application=self, routers=routers, render=_respond, is_outer=False)
        self.user_middleware.append(inner)
        counted = RateLimits(super().__call__, application=self, kinds=find_limited(routers))
        outer = Lane(counted, application=self, routers=routers, render=_respond, is_outer=True)
        self._entrance: ASGIApp = Door(outer, **door)

    def build_middleware_stack(self) -> ASGIApp:
        """Starlette's, without the outermost layer, which would answer faults in a shape of its own."""
        stack = super().build_middleware_stack()
        return stack.app if isinstance(stack, ServerErrorMiddleware) else stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every request, and the server's start and stop, comes in here."""
        await self._entrance(scope, receive, send)


def create_app(settings: Settings | None = None) -> Application:
    """The ASGI application. Raises `SettingsFault` when the settings cannot be used."""
    settings = settings or load_settings()
    startup.check_settings(settings)
    log_form = settings.log_format or ("json" if settings.is_strict else "console")
    logging.getLogger("duly.sql").setLevel(logging.DEBUG if settings.log_sql else logging.WARNING)
    lines = configure_logging(level="debug" if settings.debug else settings.log_level, format=log_form)
    placed = _place(settings)
    rules = _cross_origin_rules(settings)
    app = Application(
        title="Duly",
        version=__version__,
        summary="The task backend that a developer puts behind any frontend.",
        openapi_url="/openapi.json" if settings.docs_enabled else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lambda app: _live(app, settings),
        middleware=[
            Middleware(CrossOrigin, **rules),
            Middleware(GZipMiddleware, minimum_size=COMPRESSED_FROM, compresslevel=5),
        ],
    )
    app.enclose(
        placed,
        render=render_error,
        max_body_bytes=settings.max_body_bytes,
        request_timeout_seconds=settings.request_timeout_seconds,
        allowed_hosts=settings.allowed_hosts,
        addresses=ClientAddresses(settings.trusted_proxies),
        access_log=access_log(lines),
        origin_headers=CrossOrigin(app, **rules).headers_for,
    )
    for prefix, router in placed:
        # The unversioned addresses are the same handlers; the document shows each operation once.
        app.include_router(router, prefix=prefix, include_in_schema=prefix == PREFIXES[0] or router in ACCOUNTS)
    app.include_router(utility.router)
    if settings.local_accounts:
        app.router.routes.extend(account_routes(least_password=settings.password_min_length))
    if settings.docs_enabled:
        app.router.routes.extend(docs_routes("/openapi.json", "Duly"))
    _handle_errors(app)
    openapi.install(app, settings)
    return app


def _place(settings: Settings) -> list[tuple[str, APIRouter]]:
    """Which router stands where. Below /api/users is the accounts contract, so v1's users have one address."""
    everywhere = [tasks.router, audit.router]
    if settings.local_accounts:
        everywhere += [auth.router, recovery.router]
    placed = [(prefix, router) for prefix in PREFIXES for router in everywhere]
    placed.append((PREFIXES[0], users.router))
    if settings.local_accounts:
        placed.append((PREFIXES[0], users.mail_router))
        placed += [(PREFIXES[1], router) for router in ACCOUNTS]
    return placed


def _cross_origin_rules(settings: Settings) -> dict[str, Any]:
    origins = list(settings.cors_origins)
    if settings.better_auth_url:
        origins += [issuer.issuer for issuer in startup.trusted_issuers(settings)[:1] if issuer.issuer]
    return {
        "allow_origins": list(dict.fromkeys(origins)),
        "allow_credentials": "*" not in origins,
        "allow_methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        "allow_headers": ["Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match",
                          "Last-Event-ID", "X-Request-ID"],
        "expose_headers": ["ETag", "Location", "Idempotency-Replayed", "RateLimit", "RateLimit-Policy", "Retry-After",
                           "WWW-Authenticate", "X-Request-ID"],
        "max_age": 600,
    }  # fmt: skip


@contextlib.asynccontextmanager
async def _live(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        address = startup.check_settings(settings)
        await startup.migrate_at_start(settings, address)
        database = await startup.connect_at_start(settings, address)
        stack.push_async_callback(database.close)
        services, upkeep = await _build(settings, database, stack)
        app.state.services = services
        for work in (services.revocations.follow(database), upkeep.run()):
            stack.push_async_callback(_stop, asyncio.create_task(work))
        with announce_end(services.health):
            yield
        services.health.draining = True
    flush_logs()


async def _build(settings: Settings, database: Database, stack: contextlib.AsyncExitStack) -> tuple[Services, Upkeep]:
    parts = await assembly.assemble(settings, database)
    stack.callback(parts.identity.hasher.close)
    issuers = startup.trusted_issuers(settings)
    outside = TrustedIssuers(issuers) if issuers else None
    if outside is not None:
        stack.push_async_callback(outside.close)
        await outside.start()
    redis = settings.redis_url.get_secret_value() if settings.redis_url else None
    limiter = Limiter(redis)
    stack.push_async_callback(limiter.close)
    audit = parts.identity.audit
    services = Services(
        settings=settings,
        database=database,
        guard=Guard(
            database=database,
            access=parts.access if settings.local_accounts else None,
            issuer=assembly.ISSUER,
            outside=outside,
            audit=audit,
            revocations=parts.revocations,
        ),
        identity=parts.identity,
        chain=parts.chain,
        postman=parts.postman,
        limits=RequestLimits.build(settings, limiter, audit, database),
        revocations=parts.revocations,
        cursors=Cursors(*derive_keys(parts.secrets, "cursor")),
        health=HealthChecks(database, redis, parts.postman.check if settings.local_accounts else None),
    )
    return services, parts.upkeep


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _respond(request: Request, error: DulyError) -> Response:
    status, headers, body = render_error(error, request.state.request_id, request.scope["path"])
    response = Response(body, status)
    response.raw_headers = headers
    return response


def _handle_errors(app: FastAPI) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, DulyError)  # noqa: S101 - registered for this class alone
        return _respond(request, error)

    async def refuse_fields(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class alone
        return _respond(request, from_validation(error))

    async def refuse_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class alone
        return _respond(request, from_http(error, _methods_of(app, request)))

    async def run_again(request: Request, error: Exception) -> Response:
        if may_run_again(request):
            return RunAgain(request, await request.body())
        return await refuse(request, error)

    app.add_exception_handler(TransactionAborted, run_again)
    app.add_exception_handler(DulyError, refuse)
    app.add_exception_handler(RequestValidationError, refuse_fields)
    app.add_exception_handler(HTTPException, refuse_http)


def _methods_of(app: FastAPI, request: Request) -> list[str]:
    """Every method that some route takes at this path (RFC 9110 §10.2.1)."""
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    found = []
    for method in known:
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in app.router.routes):
            found.append(method)
    return found
