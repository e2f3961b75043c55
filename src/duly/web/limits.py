"""Rate limits: who is counted under which policy, what they are told, and when they are turned away."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from limits import RateLimitItemPerSecond
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from duly.audit.events import Actor, Event
from duly.audit.log import AuditLog
from duly.db.unit import Database
from duly.errors import DulyError, Forbidden, TooMany, Unauthenticated
from duly.identity.principals import Principal
from duly.kit.addresses import network_of
from duly.limits.limiter import Allowances, Limiter, Policy, Standing, read_policy
from duly.settings import Settings
from duly.web.devices import origin_of
from duly.web.guard import Guard

log = logging.getLogger(__name__)
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_MARK = "__duly_limit__"
_EXEMPT = frozenset({"/health", "/metrics"})
_TOLD_AT_MOST = 10_000
KINDS = ("login", "register", "refresh", "mail")


def limited(kind: str) -> Callable[[Endpoint], Endpoint]:
    """Count this endpoint's calls by address under a policy of its own, one of `KINDS`, instead of the general one."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _MARK, kind)
        return endpoint

    return mark


def find_limited(routers: Iterable[tuple[str, APIRouter]]) -> dict[tuple[str, str], str]:
    """Method and path of every marked endpoint, and its policy."""
    found: dict[tuple[str, str], str] = {}
    for prefix, router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and (kind := getattr(route.endpoint, _MARK, None)):
                found |= {(method, prefix + route.path): kind for method in route.methods or ()}
    return found


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The counters of one process and the policies of the settings."""

    limiter: Limiter
    allowances: Allowances
    policies: Mapping[str, Policy]
    audit: AuditLog
    database: Database
    enabled: bool
    told: dict[str, float]
    refused: Counter[str]

    @classmethod
    def build(cls, settings: Settings, limiter: Limiter, audit: AuditLog, database: Database) -> "RequestLimits":
        """Raises ValueError for a rate that cannot be read."""
        policies = read_policies(settings)
        allowances = Allowances(limiter, policies["user"])
        return cls(limiter, allowances, policies, audit, database, settings.rate_limit_enabled, {}, Counter())

    def take(self, principal: Principal) -> Sequence[tuple[bytes, bytes]] | None:
        """The headers of one more request of a signed-in caller; None when that has to be asked for."""
        return self.allowances.take(principal.user_id) if self.enabled else ()

    async def top_up(self, principal: Principal) -> Sequence[tuple[bytes, bytes]] | None:
        """The same when that had to be asked for; None for somebody who is to be turned away."""
        return self.take(principal) if await self.allowances.refill(principal.user_id) is None else None

    async def count_user(self, request: Request, principal: Principal) -> Sequence[tuple[bytes, bytes]]:
        """The same, and ask. Raises `TooMany`."""
        headers = self.take(principal)
        while headers is None:
            standing = await self.allowances.refill(principal.user_id)
            if standing is not None:
                raise await self._refuse(request, standing, f"user:{principal.user_id}", Actor(principal.user_id))
            headers = self.take(principal)
        return headers

    async def count_address(self, request: Request, kind: str) -> Sequence[tuple[bytes, bytes]]:
        """Count one request of an address. Raises `TooMany`."""
        network = network_of(request.client.host if request.client else None)
        standing = await self.limiter.hit(self.policies[kind], network)
        if not standing.allowed:
            raise await self._refuse(request, standing, f"{kind}:{network}", None)
        return _headers(standing)

    async def _refuse(self, request: Request, standing: Standing, key: str, actor: Actor | None) -> TooMany:
        self.refused[standing.policy.name] += 1
        if await self._is_first(key, standing.window_seconds):
            await self._record(request, standing, actor)
        return TooMany(
            "Too many requests. Wait as long as Retry-After says.",
            retry_after=standing.reset_seconds,
            headers=_headers(standing),
        )

    async def _is_first(self, key: str, seconds: int) -> bool:
        """The first refusal in a window is an event; the thousand after it would only fill the table.

        The counters know what the other processes told; what this one knows itself it does not ask them.
        """
        moment = monotonic()
        if self.told.get(key, 0.0) > moment:
            return False
        if len(self.told) >= _TOLD_AT_MOST:
            del self.told[next(iter(self.told))]
        self.told.pop(key, None)
        self.told[key] = moment + seconds
        return (await self.limiter.hit(Policy("told", (RateLimitItemPerSecond(1, seconds),)), key)).allowed

    async def _record(self, request: Request, standing: Standing, actor: Actor | None) -> None:
        try:
            async with self.database.unit() as unit:
                await self.audit.record(
                    unit, Event.RATE_LIMITED, origin=origin_of(request), actor=actor, outcome="failure",
                    policy=standing.policy.name,
                )  # fmt: skip
        except DulyError:
            log.warning("A caller was turned away by the policy %s", standing.policy.name)


def read_policies(settings: Settings) -> dict[str, Policy]:
    """Every policy. Raises ValueError naming the setting."""
    found = {}
    for name in ("anonymous", "user", *KINDS):
        try:
            found[name] = read_policy(name, getattr(settings, f"rate_limit_{name}"))
        except ValueError as error:
            raise ValueError(f"RATE_LIMIT_{name.upper()}: {error}") from None
    return found


def _is_exempt(path: str) -> bool:
    return path in _EXEMPT or path.startswith("/health/")


def _headers(standing: Standing) -> Sequence[tuple[bytes, bytes]]:
    return (b"ratelimit-policy", standing.policy.spell()), (b"ratelimit", standing.spell())


class RateLimits:
    """Plain ASGI. Signed-in callers are counted as users, all others by their address, before anything is routed.

    Health checks and preflights are free: a monitor must not be turned away, and a browser cannot help asking.
    """

    __slots__ = ("_app", "_application", "_kinds")

    def __init__(self, app: ASGIApp, *, application: Any, kinds: Mapping[tuple[str, str], str]) -> None:
        self._app = app
        self._application = application
        self._kinds = kinds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises `TooMany`, which the door renders."""
        if scope["type"] != "http" or scope["method"] == "OPTIONS" or _is_exempt(scope["path"]):
            await self._app(scope, receive, send)
            return
        services = self._application.state.services
        limits: RequestLimits = services.limits
        if not limits.enabled:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        kind = self._kinds.get((scope["method"], scope["path"]))
        if kind is not None:
            headers = await limits.count_address(request, kind)
        else:
            headers = await _count(services.guard, limits, request)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        await self._app(scope, receive, send_counted)


async def _count(guard: Guard, limits: RequestLimits, request: Request) -> Sequence[tuple[bytes, bytes]]:
    try:
        principal = await guard.identify(request.scope)
    except (Unauthenticated, Forbidden):
        return await limits.count_address(request, "anonymous")
    except DulyError:
        return ()  # what is wrong is said by whoever needs to know the caller
    if principal.rights is None:  # else the route asks anew, and then for the rights too
        request.state.principal = principal
    return await limits.count_user(request, principal)
