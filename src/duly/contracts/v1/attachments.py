"""Files of tasks: /tasks/{task_id}/attachments…."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import AfterValidator
from starlette.background import BackgroundTask
from starlette.responses import Response

from duly.contracts.v1.attachment_models import DOWNLOAD, UPLOAD, AttachmentListResponse, AttachmentResponse
from duly.contracts.v1.declarations import problems
from duly.contracts.v1.models import PageQuery
from duly.contracts.v1.task_routes import TaskId, TaskRoute
from duly.errors import Conflict, Invalid, NotFound, TooLarge
from duly.files.extensions import ExtensionRule
from duly.files.store import FileStore
from duly.identity.principals import Principal
from duly.tasks import attachments
from duly.tasks.attachments import Room, TakenFile
from duly.web.dependencies import Caller, Reading, Tools, Transaction
from duly.web.downloads import Download, file_headers, find_range, is_held, part_headers
from duly.web.idempotency import REPLAYED, answer_once, read_key
from duly.web.replies import Document, Empty
from duly.web.retry import run_transaction
from duly.web.route import asked_by_head
from duly.web.scans import refuse_infected
from duly.web.services import Services
from duly.web.uploads import ENVELOPE_BYTES, read_upload

router = APIRouter(tags=["v1: attachments"], route_class=TaskRoute)


def _storable(attachment_id: str) -> str:
    # What no id can be is answered like an id that nobody has, and never reaches the database.
    if len(attachment_id) > 64 or not attachment_id.isascii() or not attachment_id.isprintable():
        raise attachments.missing()
    return attachment_id


AttachmentId = Annotated[str, Path(description="The attachment's id.", json_schema_extra={"maxLength": 64}),
                         AfterValidator(_storable)]  # fmt: skip


@router.get(
    "/tasks/{task_id}/attachments",
    operation_id="list_attachments",
    summary="List a task's files",
    response_model=AttachmentListResponse,
    responses=problems(401, 404),
)
async def list_attachments(
    task_id: TaskId, query: Annotated[PageQuery, Query()], caller: Caller, database: Reading
) -> Response:
    """Oldest first. A task has at most 50."""
    found = await attachments.list_attachments(database, caller, task_id)
    page = ",".join(found[query.offset : query.offset + query.limit])
    rest = f'"total":{len(found)},"limit":{query.limit},"offset":{query.offset},"next_cursor":null'
    return Document(f'{{"items":[{page}],{rest}}}'.encode())


@router.post(
    "/tasks/{task_id}/attachments",
    operation_id="create_attachment",
    summary="Attach a file",
    status_code=201,
    response_model=AttachmentResponse,
    responses=problems(401, 404, 409, 413, 415),
    openapi_extra=UPLOAD,
)
async def create_attachment(task_id: TaskId, caller: Caller, tools: Tools, request: Request) -> Response:
    """Attach one file, which never changes again. Its name is cleaned of folders and controls; its type is found out.

    The task's version and the change feed stay as they are. Too large a file, one too many for the task, and one that
    does not fit into the quota are refused, mostly before they are sent. 422 `FILE_CONTENT_MISMATCH`: the content is
    not of the kind that the name ends in; `FILE_TYPE_NOT_ALLOWED`: such names are not accepted; `FILE_INFECTED`: the
    virus scanner found something. With an `Idempotency-Key` a retry with the same file under the same name gets the
    first answer again.
    """
    files, room = _files(tools), _room(tools)
    attachments.check_size(_least_size(request), room)
    # A retry is answered as it was, however little room the first attempt has left.
    is_first = read_key(request) is None
    if is_first:
        await attachments.check_room(tools.database, caller, task_id, _least_size(request), room)
    async with read_upload(request, ExtensionRule.of(tools.settings.attachment_extensions)) as upload:
        attachments.check_size(upload.size, room)
        if is_first:
            await attachments.check_room(tools.database, caller, task_id, upload.size, room)
        # Of a retry nobody knows yet whose task it names, or whether that is a task at all.
        await refuse_infected(request, tools, caller, upload, target=("task", task_id) if is_first else None)
        taken = await attachments.take_in(files, upload.file, upload.name)
    return await _give(request, tools, caller, task_id, taken)


@router.get(
    "/tasks/{task_id}/attachments/{attachment_id}",
    operation_id="download_attachment",
    summary="Download a file",
    response_class=Response,
    responses={**problems(401, 404), **DOWNLOAD},
)
async def download_attachment(
    *, task_id: TaskId, attachment_id: AttachmentId, caller: Caller, database: Reading, tools: Tools, request: Request
) -> Response:
    """The bytes, to be saved and never shown by a browser. `ETag` is their SHA-256; one part can be asked for."""
    found = await attachments.find_attachment(database, caller, task_id, attachment_id)
    headers = file_headers(found.name, found.content_type, found.sha256)
    if is_held(request, found.sha256):
        return Empty(304, [pair for pair in headers if pair[0] == b"etag"])
    start, end = find_range(request, found.size, found.sha256)
    status, more = part_headers(start, end, found.size)
    headers += more
    if asked_by_head(request.scope):
        return Empty(status, headers)
    pieces = await attachments.open_attachment(database, _files(tools), caller, found, start=start, end=end)
    return Download(pieces, status, headers)


@router.delete(
    "/tasks/{task_id}/attachments/{attachment_id}",
    operation_id="delete_attachment",
    summary="Delete a file",
    status_code=204,
    response_class=Response,
    responses=problems(401, 404),
)
async def delete_attachment(
    task_id: TaskId, attachment_id: AttachmentId, caller: Caller, unit: Transaction, tools: Tools
) -> Response:
    """For good, and at once; there is no trash for files."""
    key = await attachments.remove_attachment(unit, caller, task_id, attachment_id)
    response = Empty()
    # Behind the answer, which is sent after the commit: until then the row may stay.
    response.background = BackgroundTask(attachments.discard, _files(tools), key)
    return response


async def _give(request: Request, tools: Services, caller: Principal, task_id: str, taken: TakenFile) -> Response:
    """Commit the row of a file that lies in the store; a file that gets none is removed again.

    Only after a refusal is that sure: when the database goes away in the middle, the row may be there or not, and the
    sweep finds out.
    """
    try:
        response = await _commit(request, tools, caller, task_id, taken)
    except (NotFound, Conflict, TooLarge, Invalid):
        await attachments.discard(_files(tools), taken.key)
        raise
    if REPLAYED in response.raw_headers:
        await attachments.discard(_files(tools), taken.key)
    return response


async def _commit(request: Request, tools: Services, caller: Principal, task_id: str, taken: TakenFile) -> Response:
    async def work() -> Response:
        async with tools.database.unit() as unit:

            async def effect() -> Response:
                new_id, document = await attachments.add_attachment(unit, caller, task_id, taken, _room(tools))
                address = f"/api/v1/tasks/{task_id}/attachments/{new_id}"
                return Document(document.encode(), 201, [(b"location", address.encode())])

            return await answer_once(request, unit, caller, effect, digest=f"{taken.sha256} {taken.name}")

    return await run_transaction(work)


def _files(tools: Services) -> FileStore:
    assert tools.files is not None  # noqa: S101 - these routes are there only with a store
    return tools.files


def _room(tools: Services) -> Room:
    return Room(tools.settings.attachment_max_bytes, tools.settings.attachment_quota_bytes)


def _least_size(request: Request) -> int:
    """What the file has at least, of a body whose length is announced: it saves sending what cannot be taken."""
    announced = request.headers.get("content-length", "")
    return max(0, int(announced) - ENVELOPE_BYTES) if announced.isdigit() else 0
