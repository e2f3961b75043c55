"""Task statistics: /tasks/stats."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from duly.contracts.v1.declarations import SIGNED_IN
from duly.contracts.v1.task_routes import TaskRoute
from duly.contracts.v1.task_stats_models import TaskStatsQuery, TaskStatsResponse
from duly.tasks import stats
from duly.web.dependencies import Caller, Reading, Tools
from duly.web.lane import direct
from duly.web.replies import Document, dump_json

router = APIRouter(tags=["v1: tasks"], route_class=TaskRoute)


@router.get(
    "/tasks/stats",
    operation_id="read_task_stats",
    summary="Count tasks",
    response_model=TaskStatsResponse,
    responses=SIGNED_IN,
)
@direct
async def read_task_stats(
    query: Annotated[TaskStatsQuery, Query()], caller: Caller, database: Reading, tools: Tools
) -> Response:
    """How many of the caller's tasks there are: in all, by state, overdue, due today, and by priority."""
    return Document(dump_json(await stats.read_stats(database, tools.cache, caller, zone=query.time_zone)))
