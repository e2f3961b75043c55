"""The wire models of attachments."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from duly.contracts.v1.declarations import upload_body
from duly.contracts.v1.models import Output

_EXAMPLE: dict[str, Any] = {
    "id": "019aa0c4-7b1e-7d02-8a4f-3c5d9e6f1a20",
    "task_id": "019aa0c4-5a3e-7c31-9d5e-0f1b6f0c2a11",
    "name": "receipt.pdf",
    "content_type": "application/pdf",
    "size": 48213,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "created_at": "2026-11-20T09:12:44.120311Z",
}


class AttachmentResponse(Output):
    """A file of a task. `content_type` was told from its bytes; `sha256` is their checksum in hexadecimal."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    task_id: str
    name: str
    content_type: str
    size: Annotated[int, Field(description="In bytes.")]
    sha256: str
    created_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class AttachmentListResponse(Output):
    """A page of a task's files, oldest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"items": [_EXAMPLE], "total": 1, "limit": 50, "offset": 0, "next_cursor": None}]
        }
    )

    items: list[AttachmentResponse]
    total: int
    limit: int
    offset: int
    next_cursor: str | None


UPLOAD = upload_body("The file, with its name.")
# OpenAPI 3.1: a body that is no text has no schema; it is of the type that was found out.
DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {"*/*": {}},
    },
    206: {
        "description": "The part that `Range` asked for.",
        "content": {"*/*": {}},
    },
    304: {"description": "The file in If-None-Match is the current one."},
}
