"""What belongs to no contract: the welcome page and the health checks."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from duly import __version__
from duly.contracts.v1.declarations import problems
from duly.operations.health import Check, check_redis
from duly.web.dependencies import Tools
from duly.web.metrics import MEDIA_TYPE, check_reader
from duly.web.replies import Document, dump_json
from duly.web.route import ContractRoute

router = APIRouter(tags=["utility"], route_class=ContractRoute)


def _object(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": {"type": "object"}}}}


def _down(description: str) -> dict[int | str, dict[str, Any]]:
    return {**problems(), 200: _object("It works."), 503: _object(description)}


@router.get("/", operation_id="read_welcome", summary="Where to go", responses={**problems(), 200: _object("Links.")})
async def read_welcome(tools: Tools) -> Response:
    """Name, version and links."""
    links = {"health": "/health"}
    if tools.settings.docs_enabled:
        links |= {"docs": "/docs", "redoc": "/redoc", "openapi": "/openapi.json"}
    content = {"name": "Duly", "version": __version__, "message": "Welcome to Duly, the task backend.", "links": links}
    return Document(dump_json(content))


@router.get(
    "/health", operation_id="read_health", summary="Health of everything", responses=_down("The database is gone.")
)
async def read_health(tools: Tools) -> Response:
    """`healthy`, `degraded` without an optional dependency, `unhealthy` without the database."""
    status, checks = await tools.health.summary()
    content = {
        "status": status,
        "version": __version__,
        "environment": tools.settings.environment,
        "uptime_seconds": tools.health.uptime_seconds(),
        "checks": {name: _shown(check) for name, check in checks.items()},
    }
    return Document(dump_json(content), 503 if status == "unhealthy" else 200)


@router.get("/health/live", operation_id="read_liveness", summary="Is the process alive", responses=problems())
async def read_liveness() -> Response:
    """Always 200 while the event loop turns; asks nobody."""
    return Document(b'{"status":"alive"}')


@router.get(
    "/health/ready",
    operation_id="read_readiness",
    summary="Should requests be sent here",
    responses=_down("Draining, or the database is gone."),
)
async def read_readiness(tools: Tools) -> Response:
    """503 while the process drains or the database does not answer."""
    if tools.health.draining:
        return Document(b'{"status":"draining"}', 503)
    return _answer(await tools.health.check_database())


@router.get(
    "/health/db",
    operation_id="read_database_health",
    summary="Does the database answer",
    responses=_down("It does not."),
)
async def read_database_health(tools: Tools) -> Response:
    """One round trip to the database."""
    return _answer(await tools.health.check_database())


@router.get(
    "/health/redis", operation_id="read_redis_health", summary="Does Redis answer", responses=_down("It does not.")
)
async def read_redis_health(tools: Tools) -> Response:
    """One round trip to Redis; 200 and `not configured` without one."""
    return _answer(await check_redis(tools.health.redis_url))


_TEXT = {"description": "Prometheus's text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}


@router.get(
    "/metrics",
    operation_id="read_metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={**problems(401, 403), 200: _TEXT},
)
async def read_metrics(request: Request, tools: Tools) -> Response:
    """Figures of this server. For who has `METRICS_TOKEN`; where none is set, for this machine alone."""
    check_reader(request, tools.settings)
    return Response(await tools.metrics.render(), media_type=MEDIA_TYPE)


def _answer(check: Check) -> Response:
    return Document(dump_json(_shown(check)), 200 if check.ok else 503)


def _shown(check: Check) -> dict[str, object]:
    status = check.detail if not check.configured else ("healthy" if check.ok else "unhealthy")
    return {"status": status, **{k: v for k, v in asdict(check).items() if k in {"configured", "milliseconds"}}}
