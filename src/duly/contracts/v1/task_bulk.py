"""Many task changes in one request: POST /tasks/bulk."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from duly.contracts.v1.declarations import problems
from duly.contracts.v1.problems import listed_faults
from duly.contracts.v1.task_bulk_models import TaskBulkRequest, TaskBulkResponse
from duly.contracts.v1.task_routes import TaskRoute
from duly.errors import DulyError, Invalid
from duly.tasks import bulk
from duly.tasks.bulk import NotApplied, Outcome
from duly.tasks.tasks import StoredTask
from duly.web.dependencies import Caller, Tools
from duly.web.idempotency import answer_once
from duly.web.replies import Document, dump_json

router = APIRouter(tags=["v1: tasks"], route_class=TaskRoute)

_STATUSES = {"create": 201, "delete": 204}
_NOT_APPLIED = {
    "code": "NOT_APPLIED",
    "message": "Not done, because another operation of this atomic batch was refused.",
    "errors": None,
}


@router.post(
    "/tasks/bulk",
    operation_id="change_tasks",
    summary="Change many tasks",
    response_model=TaskBulkResponse,
    responses=problems(401, 409, 413, 415),
)
async def change_tasks(body: TaskBulkRequest, caller: Caller, tools: Tools, request: Request) -> Response:
    """Do up to 100 operations in order, in one transaction, with a result for each.

    The answer is 200 also when operations were refused: read `failed`, and the `status` of each result. With `atomic`
    one refusal undoes everything; the others then have 424 `NOT_APPLIED`. With an `Idempotency-Key` a retry gets the
    first answer again, unless that was an atomic batch of which nothing was done.
    """
    operations = body.to_operations()
    try:
        # A unit of its own: what an atomic batch did is rolled back, and all the same answered with a 200.
        async with tools.database.unit() as unit:

            async def effect() -> Response:
                return _answer(body, await bulk.change_tasks(unit, caller, operations, atomic=body.atomic))

            return await answer_once(request, unit, caller, effect)
    except bulk.NothingApplied as refusal:
        return _answer(body, refusal.outcomes)


def _answer(body: TaskBulkRequest, outcomes: Sequence[Outcome]) -> Response:
    results = ",".join(
        _result(index, operation.op, outcome)
        for index, (operation, outcome) in enumerate(zip(body.operations, outcomes, strict=True))
    )
    failed = sum(isinstance(outcome, (DulyError, NotApplied)) for outcome in outcomes)
    return Document(f'{{"results":[{results}],"succeeded":{len(outcomes) - failed},"failed":{failed}}}'.encode())


def _result(index: int, op: str, outcome: Outcome) -> str:
    status, task, error = _STATUSES.get(op, 200), "null", "null"
    if isinstance(outcome, StoredTask):
        task = outcome.document
    elif isinstance(outcome, NotApplied):
        status, error = 424, _dump(_NOT_APPLIED)
    elif outcome is not None:
        faults = listed_faults(outcome.faults) if isinstance(outcome, Invalid) else None
        status, error = outcome.kind.value, _dump({"code": outcome.code, "message": outcome.message, "errors": faults})
    return f'{{"index":{index},"op":"{op}","status":{status},"task":{task},"error":{error}}}'


def _dump(value: dict[str, Any]) -> str:
    return dump_json(value).decode()
