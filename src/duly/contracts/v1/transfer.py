"""Tasks as files: GET /tasks/export and POST /tasks/import."""

import asyncio
import hashlib
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from duly.audit.events import Actor, Event
from duly.contracts.v1.declarations import problems
from duly.contracts.v1.task_routes import TaskRoute
from duly.contracts.v1.transfer_models import EXPORTED, IMPORT_BODY, ImportQuery, ImportResponse, TaskExportQuery
from duly.db.unit import Unit
from duly.errors import TooLarge
from duly.identity.principals import Principal
from duly.kit.clock import now
from duly.tasks.transfer import exporting, importing, reading
from duly.tasks.transfer.importing import ImportReport
from duly.tasks.transfer.rows import ParsedFile
from duly.web.dependencies import Caller, Tools, Transaction
from duly.web.devices import origin_of
from duly.web.downloads import Download
from duly.web.idempotency import answer_once
from duly.web.replies import Document, Empty, dump_json
from duly.web.retry import run_transaction
from duly.web.route import asked_by_head
from duly.web.scans import refuse_infected
from duly.web.services import Services
from duly.web.uploads import IMPORT_MAX_BYTES, read_upload

router = APIRouter(tags=["v1: tasks"], route_class=TaskRoute)


@router.get(
    "/tasks/export",
    operation_id="export_tasks",
    summary="Export all tasks",
    response_class=Response,
    responses={**problems(401), **EXPORTED},
)
async def export_tasks(
    query: Annotated[TaskExportQuery, Query()], caller: Caller, request: Request, tools: Tools, unit: Transaction
) -> Response:
    """The caller's tasks outside the trash, oldest first, streamed. `POST /tasks/import` reads each form back equal.

    JSON has the tasks as the API shows them. CSV has a column for each field; tags are joined by `;`, with a backslash
    before a `;` or a backslash of their own, and no cell can start a formula: an apostrophe stands before what would.
    iCalendar has a VTODO for each task, and `X-DULY-…` properties for what RFC 5545 cannot say.
    """
    moment = now()
    name = f"duly-tasks-{moment:%Y-%m-%d}.{query.format}"
    headers = [
        (b"content-type", exporting.MEDIA_TYPES[query.format].encode()),
        (b"content-disposition", f'attachment; filename="{name}"'.encode()),
    ]
    if asked_by_head(request.scope):
        return Empty(200, headers)
    found = await exporting.count_tasks(unit, caller)
    await tools.identity.audit.record(
        unit, Event.DATA_EXPORTED, origin=origin_of(request), actor=Actor(caller.user_id),
        what="tasks", format=query.format, found=found,
    )  # fmt: skip
    pieces = exporting.export_tasks(tools.database, caller, query.format, moment=moment)
    return Download(pieces, 200, headers)


@router.post(
    "/tasks/import",
    operation_id="import_tasks",
    summary="Import tasks",
    response_model=ImportResponse,
    responses=problems(401, 409, 413, 415),
    openapi_extra=IMPORT_BODY,
)
async def import_tasks(
    query: Annotated[ImportQuery, Query()], caller: Caller, request: Request, tools: Tools
) -> Response:
    """Read tasks from one file: Duly's JSON, CSV or iCalendar, or the CSV that Todoist or TickTick exports.

    What the file is, its content says. One wrong row and nothing is stored, unless `partial`: look at `applied` and
    `errors`. A row whose `id` is one of the caller's tasks updates the fields that it has, and takes it out of the
    trash; a row with another `id` gets one that follows from it, so that the same file again finds its tasks and
    changes nothing; a row without is a new task each time. With an `Idempotency-Key` a retry gets the first answer.
    422 `FILE_INFECTED`: the virus scanner found something.

    A date without a time is that day at 00:00 UTC, and so is a time without a zone in UTC. What was cancelled elsewhere
    is completed here. Recurrences, reminders, lists and subtasks are left out; a Todoist date in words that is no date
    goes into the description.
    """
    async with read_upload(request) as upload:
        if upload.size > IMPORT_MAX_BYTES:
            raise TooLarge(f"The file is larger than {IMPORT_MAX_BYTES} bytes, the most for an import. Split it.")
        await refuse_infected(request, tools, caller, upload)
        content = await asyncio.to_thread(upload.file.read)
    parsed = await reading.read_file(content, upload.name)
    if query.dry_run:
        return _answer(await importing.try_import(tools.database, caller, parsed))
    digest = f"{hashlib.sha256(content).hexdigest()} {query.partial}"
    del content
    return await _store(request, tools, caller, parsed, partial=query.partial, digest=digest)


async def _store(
    request: Request, tools: Services, caller: Principal, parsed: ParsedFile, *, partial: bool, digest: str
) -> Response:
    async def work() -> Response:
        async with tools.database.unit() as unit:

            async def effect() -> Response:
                report = await importing.import_tasks(unit, caller, parsed, partial=partial)
                if report.applied:
                    await _record(request, tools, unit, caller, report)
                return _answer(report)

            return await answer_once(request, unit, caller, effect, digest=digest)

    return await run_transaction(work)


async def _record(request: Request, tools: Services, unit: Unit, caller: Principal, report: ImportReport) -> None:
    await tools.identity.audit.record(
        unit, Event.DATA_IMPORTED, origin=origin_of(request), actor=Actor(caller.user_id),
        what="tasks", format=report.format, created=report.created, updated=report.updated, failed=report.failed,
    )  # fmt: skip


def _answer(report: ImportReport) -> Response:
    errors = [{"row": one.row, "field": one.field or None, "message": one.message} for one in report.errors]
    return Document(dump_json({**asdict(report), "errors": errors}))
