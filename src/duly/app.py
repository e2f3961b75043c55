"""Puts the house together: the door, the contracts, and what lives from start to stop."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from duly import __version__
from duly.contracts import openapi, utility
from duly.contracts.accounts import admins, password
from duly.contracts.accounts import users as account_users
from duly.contracts.owner import tasks as owner_tasks
from duly.contracts.rendering import render_error
from duly.contracts.v1 import (
    attachments,
    audit,
    auth,
    live,
    recovery,
    task_bulk,
    task_history,
    task_stats,
    tasks,
    transfer,
    users,
)
from duly.contracts.v1.problems import from_http, from_validation
from duly.db.conflicts import TransactionAborted
from duly.db.unit import Database
from duly.errors import DulyError
from duly.identity.issuers import TrustedIssuers
from duly.kit.logs import configure_logging, flush_logs
from duly.kit.paging import Cursors
from duly.kit.secrets import derive_keys
from duly.limits.limiter import Limiter
from duly.live.hub import Hub
from duly.operations import assembly, extras, start_report, startup, warming
from duly.operations.draining import announce_end
from duly.operations.health import HealthChecks
from duly.operations.upkeep import Upkeep
from duly.settings import Settings, load_settings
from duly.tasks.feed import find_positions
from duly.web.access_log import access_log
from duly.web.account_pages import account_routes
from duly.web.addresses import ClientAddresses
from duly.web.backup_figures import backup_figures
from duly.web.cross_origin import CrossOrigin
from duly.web.crowd import crowd
from duly.web.docs_pages import docs_routes
from duly.web.door import Door
from duly.web.downloads import Compression
from duly.web.figures import make_metrics
from duly.web.guard import Guard
from duly.web.lane import COMPRESSED_FROM, Lane
from duly.web.limits import RateLimits, RequestLimits, find_limited
from duly.web.retry import RunAgain, may_run_again
from duly.web.services import Services
from duly.web.streams import Streams
from duly.web.tracing import Traced, traced_access_log
from duly.web.traffic import Traffic
from duly.web.turnstile import Turnstile
from duly.web.uploads import upload_limit

PREFIXES = ("/api/v1", "/api")
ACCOUNTS = (account_users.router, admins.router, password.router)
SHOWN_UNVERSIONED = (*ACCOUNTS, owner_tasks.router)


class Application(FastAPI):
    """FastAPI, entered through the door and, for hot routes, the lane."""

    figures_folder: Path | None = None
    """Where the workers of one server find each other's figures."""

    def enclose(self, routers: Sequence[tuple[str, APIRouter]], **door: Any) -> None:
        """Put the door around everything, and a lane on either side of the middlewares."""
        # Starlette runs the middleware added first as the outermost: this one comes right before the router.
        inner = Middleware(Lane, application=self, routers=routers, render=_respond, is_outer=False)
        self.user_middleware.append(inner)
        counted = RateLimits(super().__call__, application=self, kinds=find_limited(routers))
        outer = Lane(Turnstile(counted), application=self, routers=routers, render=_respond, is_outer=True)
        self.traffic = Traffic()
        entrance = Door(outer, count=self.traffic.count, **door)
        self.traffic.watch(entrance.inside)
        self._entrance: ASGIApp = entrance

    def learn_routes(self, routers: Sequence[tuple[str, APIRouter]]) -> None:
        """What the figures name requests by: each operation's template."""
        for prefix, router in routers:
            for route in router.routes:
                if isinstance(route, APIRoute):
                    is_stream = isinstance(route, live.StreamRoute)
                    self.traffic.learn(prefix + route.path, route.methods or (), is_stream=is_stream)
                elif isinstance(route, APIWebSocketRoute):
                    self.traffic.learn(prefix + route.path, ("GET",), is_stream=True)
        for page in self.router.routes:
            if isinstance(page, Route):
                self.traffic.learn(page.path, page.methods or ())

    def trace_requests(self, telemetry: extras.Observer | None) -> None:
        """Put a span around the door: what the door, the limits and the lane answer is to be seen too."""
        if telemetry is not None:
            self._entrance = Traced(self._entrance, self._native_telemetry, self.traffic.route_of)

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
    telemetry = extras.make_telemetry(settings)
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
        telemetry=telemetry.config if telemetry else extras.OFF,
        lifespan=lambda app: _live(app, settings, telemetry),
        middleware=[
            Middleware(CrossOrigin, **rules),
            Middleware(Compression, minimum_size=COMPRESSED_FROM, compresslevel=5),
        ],
    )
    app.enclose(
        placed,
        render=render_error,
        max_body_bytes=settings.max_body_bytes,
        request_timeout_seconds=settings.request_timeout_seconds,
        allowed_hosts=settings.allowed_hosts,
        addresses=ClientAddresses(settings.trusted_proxies),
        access_log=traced_access_log(lines, telemetry.logs) if telemetry else access_log(lines),
        upload_limit=upload_limit(settings),
        origin_headers=CrossOrigin(app, **rules).headers_for,
    )
    for prefix, router in placed:
        # Both addresses of an operation are the same handler; the document shows each operation once.
        is_shown = prefix == (PREFIXES[1] if router in SHOWN_UNVERSIONED else PREFIXES[0])
        app.include_router(router, prefix=prefix, include_in_schema=is_shown)
    app.include_router(utility.router)
    if settings.local_accounts:
        app.router.routes.extend(account_routes(least_password=settings.password_min_length))
    if settings.docs_enabled:
        app.router.routes.extend(docs_routes("/openapi.json", "Duly"))
    app.learn_routes([*placed, ("", utility.router)])
    _handle_errors(app)
    openapi.install(app, settings)
    app.trace_requests(telemetry)
    return app


def _place(settings: Settings) -> list[tuple[str, APIRouter]]:
    """Which router stands where. Below /api/users is the accounts contract, so v1's users have one address."""
    everywhere = [tasks.router, task_stats.router, task_bulk.router, task_history.router, transfer.router, audit.router]
    if settings.attachments_enabled:
        everywhere.append(attachments.router)
    if settings.live_enabled:
        everywhere.append(live.router)
    if settings.local_accounts:
        everywhere += [auth.router, recovery.router]
    placed = [(prefix, router) for prefix in PREFIXES for router in everywhere]
    placed.append((PREFIXES[0], users.router))
    if settings.local_accounts:
        placed.append((PREFIXES[0], users.mail_router))
        placed += [(PREFIXES[1], router) for router in ACCOUNTS]
    # Last, because fixed paths win over an owner's id.
    placed += [(prefix, owner_tasks.router) for prefix in PREFIXES]
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
        "expose_headers": ["Content-Disposition", "Content-Range", "ETag", "Location", "Idempotency-Replayed",
                           "RateLimit", "RateLimit-Policy", "Retry-After", "WWW-Authenticate", "X-Request-ID"],
        "max_age": 600,
    }  # fmt: skip


@contextlib.asynccontextmanager
async def _live(app: FastAPI, settings: Settings, telemetry: extras.Observer | None) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(extras.observe(settings, telemetry))
        address = startup.check_settings(settings)
        await startup.migrate_at_start(settings, address)
        database = await startup.connect_at_start(settings, address)
        stack.push_async_callback(database.close)
        services, upkeep = await _build(settings, database, stack)
        app.state.services = services
        crowd.open(settings.max_connections)
        services.metrics.add(crowd.figures)
        assert isinstance(app, Application)  # noqa: S101 - made by `create_app`
        services.metrics.add(app.traffic.figures)
        await services.metrics.meet(app.figures_folder)
        stack.push_async_callback(services.metrics.close)
        warm_up = warming.warm_at_start(database, services.cache)
        report = start_report.report_checks(settings, services.health)
        works = [services.revocations.follow(database), upkeep.run(), warm_up, report]
        if services.streams is not None:
            works.append(services.streams.run())
        for work in works:
            stack.push_async_callback(_stop, asyncio.create_task(work))
        with announce_end(services.health, settings.drain_notice_seconds):
            yield
        services.health.draining = True
    flush_logs()


async def _build(settings: Settings, database: Database, stack: contextlib.AsyncExitStack) -> tuple[Services, Upkeep]:
    parts = await assembly.assemble(settings, database)
    stack.callback(parts.identity.hasher.close)
    if parts.files is not None:
        stack.callback(parts.files.close)
        await startup.check_files(settings, parts.files)
    issuers = startup.trusted_issuers(settings)
    outside = TrustedIssuers(issuers, least_rsa_bits=settings.min_rsa_bits) if issuers else None
    if outside is not None:
        stack.push_async_callback(outside.close)
        await outside.start()
    redis = settings.redis_url.get_secret_value() if settings.redis_url else None
    limiter = Limiter(redis)
    stack.push_async_callback(limiter.close)
    cache = assembly.make_cache(settings, parts.secrets)
    stack.push_async_callback(cache.close)
    audit = parts.identity.audit
    guard = Guard(
        database=database,
        access=parts.access if settings.local_accounts else None,
        issuer=assembly.ISSUER,
        outside=outside,
        audit=audit,
        revocations=parts.revocations,
    )
    cursors = Cursors(*derive_keys(parts.secrets, "cursor"))
    health = HealthChecks(database, redis, parts.postman.check if settings.local_accounts else None)
    streams = _make_streams(settings, database, cursors, guard, health)
    limits = RequestLimits.build(settings, limiter, audit, database)
    services = Services(
        settings=settings,
        database=database,
        guard=guard,
        identity=parts.identity,
        chain=parts.chain,
        postman=parts.postman,
        limits=limits,
        revocations=parts.revocations,
        cache=cache,
        files=parts.files,
        scanner=parts.scanner,
        metrics=make_metrics(database, parts.identity.hasher, limits, cache, streams),
        cursors=cursors,
        health=health,
        streams=streams,
    )
    if parts.backups is not None:
        services.metrics.add(backup_figures(parts.backups))
    return services, parts.upkeep


def _make_streams(
    settings: Settings, database: Database, cursors: Cursors, guard: Guard, health: HealthChecks
) -> Streams | None:
    if not settings.live_enabled:
        return None
    hub = Hub(partial(find_positions, database), assembly.make_signals(settings))
    origins = _cross_origin_rules(settings)["allow_origins"]
    return Streams(database=database, cursors=cursors, guard=guard, health=health, hub=hub, origins=origins)


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
