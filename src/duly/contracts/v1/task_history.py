"""What happened to a task: GET /tasks/{task_id}/history."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from duly.contracts.v1.declarations import problems
from duly.contracts.v1.task_history_models import HistoryQuery, HistoryResponse
from duly.contracts.v1.task_routes import TaskId, TaskRoute
from duly.kit.clock import rfc3339
from duly.tasks import history
from duly.tasks.history import HistoryEntry
from duly.web.dependencies import Caller, Reading, Tools
from duly.web.replies import Document, dump_json

router = APIRouter(tags=["v1: tasks"], route_class=TaskRoute)


@router.get(
    "/tasks/{task_id}/history",
    operation_id="list_task_history",
    summary="List the changes of a task",
    response_model=HistoryResponse,
    responses=problems(401, 404),
)
async def list_task_history(
    task_id: TaskId, query: Annotated[HistoryQuery, Query()], caller: Caller, database: Reading, tools: Tools
) -> Response:
    """Newest first: when, what from, what to, and which session. Also of a task in the trash, until it is purged."""
    page = await history.list_history(
        database, tools.cursors, caller, task_id, limit=query.limit, offset=query.offset, cursor=query.cursor
    )
    items = [_item(entry) for entry in page.entries]
    body = {"items": items, "total": page.total, "limit": query.limit, "offset": query.offset}
    return Document(dump_json({**body, "next_cursor": page.next_cursor}))


def _item(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "type": entry.type,
        "at": rfc3339(entry.at),
        "version": entry.version,
        "session_id": entry.session_id,
        "changes": {name: {"from": before, "to": after} for name, (before, after) in entry.fields.items()},
    }
