"""Tasks: /tasks…, and the change feed: /changes."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response

from duly.contracts.v1.changes import spell_change
from duly.contracts.v1.declarations import SIGNED_IN, problems
from duly.contracts.v1.task_models import (
    ChangeListResponse,
    ChangeQuery,
    CompletionUpdate,
    TaskCreate,
    TaskListResponse,
    TaskQuery,
    TaskResponse,
    TaskUpdate,
)  # fmt: skip
from duly.contracts.v1.task_routes import TaskId, TaskRoute
from duly.errors import NotFound
from duly.identity.principals import Principal
from duly.tasks import feed, lists, tasks
from duly.tasks.drafts import TaskPatch
from duly.tasks.tasks import StoredTask
from duly.web.dependencies import Caller, Reading, SingleWrite, Tools
from duly.web.idempotency import answer_once
from duly.web.lane import direct
from duly.web.preconditions import expected_version, is_unmodified
from duly.web.replies import Document, Empty, etag

router = APIRouter(tags=["v1: tasks"], route_class=TaskRoute)


MAY_BE_STALE = problems(401, 404, 412, 413, 415)


def _task(task: StoredTask) -> Response:
    return Document(task.document.encode(), headers=[(b"etag", etag(task.version))])


@router.get(
    "/tasks", operation_id="list_tasks", summary="List tasks", response_model=TaskListResponse, responses=SIGNED_IN
)
@direct
async def list_tasks(query: Annotated[TaskQuery, Query()], caller: Caller, database: Reading, tools: Tools) -> Response:
    """The caller's tasks, newest first unless `sort` says otherwise; the trash is apart."""
    return await _page(query, caller, database, tools, trashed=False)


@router.get(
    "/tasks/trash",
    operation_id="list_trash",
    summary="List the trash",
    response_model=TaskListResponse,
    responses=SIGNED_IN,
)
async def list_trash(query: Annotated[TaskQuery, Query()], caller: Caller, database: Reading, tools: Tools) -> Response:
    """Deleted tasks, which can be restored until they are purged."""
    return await _page(query, caller, database, tools, trashed=True)


async def _page(query: TaskQuery, caller: Principal, database: Reading, tools: Tools, *, trashed: bool) -> Response:
    page = await lists.list_tasks(database, tools.cursors, tools.cache, caller, query.to_filter(trashed=trashed))
    cursor = "null" if page.next_cursor is None else f'"{page.next_cursor}"'
    body = (
        f'{{"items":[{",".join(page.documents)}],"total":{page.total},"limit":{query.limit},'
        f'"offset":{query.offset},"next_cursor":{cursor}}}'
    )
    return Document(body.encode())


@router.post(
    "/tasks",
    operation_id="create_task",
    summary="Create a task",
    status_code=201,
    response_model=TaskResponse,
    responses=problems(401, 409, 413, 415),
)
@direct
async def create_task(body: TaskCreate, caller: Caller, unit: SingleWrite, request: Request) -> Response:
    """Create a task for the caller. With an `Idempotency-Key` a retry gets the first answer again."""

    async def effect() -> Response:
        task = await tasks.create_task(unit, caller, body.to_draft())
        headers = [(b"location", b"/api/v1/tasks/" + task.id.encode()), (b"etag", etag(task.version))]
        return Document(task.document.encode(), 201, headers)

    return await answer_once(request, unit, caller, effect)


@router.get(
    "/tasks/{task_id}",
    operation_id="read_task",
    summary="Read a task",
    response_model=TaskResponse,
    responses={**problems(401, 404), 304: {"description": "The version in If-None-Match is the current one."}},
)
@direct
async def read_task(task_id: TaskId, caller: Caller, database: Reading, request: Request) -> Response:
    """One of the caller's tasks, with its version as `ETag`."""
    task = await tasks.find_task(database, caller, task_id)
    if is_unmodified(request, task.version):
        return Empty(304, [(b"etag", etag(task.version))])
    return _task(task)


@router.put(
    "/tasks/{task_id}",
    operation_id="replace_task",
    summary="Update a task",
    response_model=TaskResponse,
    responses=MAY_BE_STALE,
)
async def put_task(task_id: TaskId, body: TaskUpdate, caller: Caller, unit: SingleWrite, request: Request) -> Response:
    """Merge the fields that are sent; an absent field stays as it is, so an older client erases nothing."""
    return await _merge(task_id, body, caller, unit, request)


@router.patch(
    "/tasks/{task_id}",
    operation_id="update_task",
    summary="Update some fields of a task",
    response_model=TaskResponse,
    responses=MAY_BE_STALE,
)
async def patch_task(
    task_id: TaskId, body: TaskUpdate, caller: Caller, unit: SingleWrite, request: Request
) -> Response:
    """Merge the fields that are sent; `null` clears one, an absent one stays."""
    return await _merge(task_id, body, caller, unit, request)


async def _merge(task_id: str, body: TaskUpdate, caller: Principal, unit: SingleWrite, request: Request) -> Response:
    expected = expected_version(request, body.version)
    return _task(await tasks.update_task(unit, caller, task_id, body.to_patch(), expected=expected))


@router.patch(
    "/tasks/{task_id}/complete",
    operation_id="complete_task",
    summary="Complete or reopen a task",
    response_model=TaskResponse,
    responses=MAY_BE_STALE,
)
async def complete_task(
    task_id: TaskId,
    caller: Caller,
    unit: SingleWrite,
    request: Request,
    body: Annotated[CompletionUpdate | None, Body()] = None,
) -> Response:
    """Set the state that the body names; without a body, turn it over."""
    expected = expected_version(request)
    if body is None:
        return _task(await tasks.toggle_task(unit, caller, task_id, expected=expected))
    patch = TaskPatch(completed=body.completed)
    return _task(await tasks.update_task(unit, caller, task_id, patch, expected=expected))


@router.delete(
    "/tasks/{task_id}",
    operation_id="delete_task",
    summary="Move a task to the trash",
    status_code=204,
    response_class=Response,
    responses=problems(401, 404, 412),
)
async def delete_task(task_id: TaskId, caller: Caller, unit: SingleWrite, request: Request) -> Response:
    """It can be restored from there."""
    await tasks.trash_task(unit, caller, task_id, expected=expected_version(request))
    return Empty()


@router.post(
    "/tasks/{task_id}/restore",
    operation_id="restore_task",
    summary="Take a task out of the trash",
    response_model=TaskResponse,
    responses=problems(401, 404),
)
async def restore_task(task_id: TaskId, caller: Caller, unit: SingleWrite) -> Response:
    """It is as it was, with a new version; one that does not lie there is answered as it is, so a retry is safe."""
    try:
        return _task(await tasks.restore_task(unit, caller, task_id))
    except NotFound:
        return _task(await tasks.find_task(unit, caller, task_id))


@router.get(
    "/changes",
    operation_id="list_changes",
    summary="Read the change feed",
    response_model=ChangeListResponse,
    responses=SIGNED_IN,
)
async def list_changes(
    query: Annotated[ChangeQuery, Query()], caller: Caller, database: Reading, tools: Tools
) -> Response:
    """Every change of the caller's tasks, in order and without a gap, from the beginning or after `since`."""
    page = await feed.list_changes(database, tools.cursors, caller, since=query.since, limit=query.limit)
    items = ",".join(spell_change(change) for change in page.changes)
    more = "true" if page.has_more else "false"
    return Document(f'{{"items":[{items}],"next_cursor":"{page.next_cursor}","has_more":{more}}}'.encode())
