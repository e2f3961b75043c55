"""The owner's tasks, below /{user_id}/tasks."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from duly.contracts.owner.errors import refusals
from duly.contracts.owner.models import (
    OwnerCompletion,
    OwnerSuccess,
    OwnerTask,
    OwnerTaskCreate,
    OwnerTaskPage,
    OwnerTaskQuery,
    OwnerTaskUpdate,
)
from duly.contracts.owner.ownership import Owner, OwnerRoute
from duly.contracts.v1.task_routes import TaskId
from duly.tasks import lists, tasks
from duly.tasks.drafts import TaskPatch
from duly.tasks.tasks import StoredTask
from duly.web.dependencies import Reading, SingleWrite, Tools
from duly.web.idempotency import answer_once
from duly.web.preconditions import expected_version, is_unmodified
from duly.web.replies import Document, Empty, dump_json, etag

router = APIRouter(prefix="/{user_id}/tasks", tags=["owner: tasks"], route_class=OwnerRoute)


def _task(task: StoredTask) -> Response:
    return Document(task.document.encode(), headers=[(b"etag", etag(task.version))])


@router.get(
    "",
    operation_id="owner_list_tasks",
    summary="List the owner's tasks",
    response_model=OwnerTaskPage,
    responses=refusals(),
)
async def list_tasks(
    query: Annotated[OwnerTaskQuery, Query()], owner: Owner, database: Reading, tools: Tools
) -> Response:
    """The owner's tasks, newest first, without those in the trash."""
    page = await lists.list_tasks(database, tools.cursors, tools.cache, owner, query.to_filter())
    more = "false" if page.next_cursor is None else "true"
    body = (
        f'{{"tasks":[{",".join(page.documents)}],"pagination":{{"total":{page.total},'
        f'"limit":{query.limit},"offset":{query.offset},"has_more":{more}}}}}'
    )
    return Document(body.encode())


@router.post(
    "",
    operation_id="owner_create_task",
    summary="Create a task for the owner",
    status_code=201,
    response_model=OwnerTask,
    responses=refusals(409, 413, 415),
)
async def create_task(body: OwnerTaskCreate, owner: Owner, unit: SingleWrite, request: Request) -> Response:
    """Create a task. It is the caller's, whatever `user_id` the body has; an `Idempotency-Key` makes a retry safe."""

    async def effect() -> Response:
        task = await tasks.create_task(unit, owner, body.to_draft())
        place = f"/api/{quote(owner.user_id, safe='')}/tasks/{task.id}"
        return Document(task.document.encode(), 201, [(b"location", place.encode()), (b"etag", etag(task.version))])

    return await answer_once(request, unit, owner, effect)


@router.get(
    "/{task_id}",
    operation_id="owner_read_task",
    summary="Read a task of the owner",
    response_model=OwnerTask,
    responses={**refusals(404), 304: {"description": "The version in If-None-Match is the current one."}},
)
async def read_task(task_id: TaskId, owner: Owner, database: Reading, request: Request) -> Response:
    """One task, with its version as `ETag`."""
    task = await tasks.find_task(database, owner, task_id)
    if is_unmodified(request, task.version):
        return Empty(304, [(b"etag", etag(task.version))])
    return _task(task)


@router.put(
    "/{task_id}",
    operation_id="owner_update_task",
    summary="Update a task of the owner",
    response_model=OwnerTask,
    responses=refusals(404, 412, 413, 415),
)
async def update_task(
    task_id: TaskId, body: OwnerTaskUpdate, owner: Owner, unit: SingleWrite, request: Request
) -> Response:
    """Merge the fields that are sent, all of them in one go if need be; an absent field stays as it is."""
    expected = expected_version(request, body.version)
    return _task(await tasks.update_task(unit, owner, task_id, body.to_patch(), expected=expected))


@router.patch(
    "/{task_id}/complete",
    operation_id="owner_complete_task",
    summary="Complete or reopen a task of the owner",
    response_model=OwnerTask,
    responses=refusals(404, 412, 413, 415),
)
async def complete_task(
    task_id: TaskId, body: OwnerCompletion, owner: Owner, unit: SingleWrite, request: Request
) -> Response:
    """Set the state that the body names, which it keeps when that is sent again."""
    patch = TaskPatch(completed=body.completed)
    return _task(await tasks.update_task(unit, owner, task_id, patch, expected=expected_version(request)))


@router.delete(
    "/{task_id}",
    operation_id="owner_delete_task",
    summary="Move a task of the owner to the trash",
    response_model=OwnerSuccess,
    responses=refusals(404, 412),
)
async def delete_task(task_id: TaskId, owner: Owner, unit: SingleWrite, request: Request) -> Response:
    """It is gone from here; `POST /api/v1/tasks/{task_id}/restore` brings it back."""
    await tasks.trash_task(unit, owner, task_id, expected=expected_version(request))
    return Document(dump_json({"success": True, "message": "The task was moved to the trash."}))
