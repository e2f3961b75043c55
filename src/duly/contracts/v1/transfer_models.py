"""Export and import of tasks on the wire."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema

from duly.contracts.v1.declarations import upload_body
from duly.contracts.v1.models import Input, Output


def _word(value: object) -> object:
    # A query has no other spelling of a flag.
    if value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value == "true"


def _flag(description: str) -> Any:
    schema = {"type": "boolean", "description": description}
    return Annotated[bool, BeforeValidator(_word), WithJsonSchema(schema)]


class TaskExportQuery(Input):
    """The form of the file."""

    format: Annotated[Literal["json", "csv", "ics"], Field(description="ics is iCalendar, RFC 5545.")] = "json"


class ImportQuery(Input):
    """How to import."""

    dry_run: _flag("Only say what would happen.") = False  # type: ignore[valid-type]
    partial: _flag("Store the rows that are right although others are wrong.") = False  # type: ignore[valid-type]


class ImportFault(Output):
    """One wrong field of one row."""

    row: Annotated[int, Field(description="Which task of the file, counted from 1 below the header.")]
    field: Annotated[str | None, Field(description="null when the whole row cannot be read.")]
    message: str


_EXAMPLE: dict[str, Any] = {
    "format": "csv",
    "dry_run": False,
    "applied": False,
    "created": 0,
    "updated": 0,
    "unchanged": 0,
    "failed": 1,
    "ignored": 0,
    "errors": [{"row": 3, "field": "title", "message": "must have 1 to 200 characters and has 214"}],
}


class ImportResponse(Output):
    """What came of each row. Nothing was stored unless `applied`; a dry run counts what the right rows would do."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    format: Literal["json", "csv", "ics", "todoist", "ticktick"]
    dry_run: bool
    applied: bool
    created: int
    updated: int
    unchanged: Annotated[int, Field(description="There already, and equal.")]
    failed: int
    ignored: Annotated[int, Field(description="What is no task: appointments, notes, headings.")]
    errors: Annotated[list[ImportFault], Field(description="The first 1,000.")]


IMPORT_BODY = upload_body("JSON, CSV or iCalendar in UTF-8; up to 10 MiB and 10,000 tasks.")
EXPORTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A file.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["format", "version", "exported_at", "tasks"],
                    "properties": {
                        "format": {"const": "duly.tasks"},
                        "version": {"const": 1},
                        "exported_at": {"type": "string", "format": "date-time"},
                        "tasks": {"type": "array", "items": {"$ref": "#/components/schemas/TaskResponse"}},
                    },
                }
            },
            "text/csv": {"schema": {"type": "string"}},
            "text/calendar": {"schema": {"type": "string"}},
        },
    }
}
