"""What all of v1's wire models share, and the errors on the wire."""

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Identifier = Annotated[str, Field(max_length=255, description="Opaque.")]
Cursor = Annotated[str | None, Field(max_length=2048, description="Where to go on, as a page before gave it.")]


_DIGITS = re.compile(r"-?[0-9]{1,15}")


def _whole(value: object) -> object:
    """In a query a number has one spelling; left to itself pydantic also reads `1_0`, ` 10` and `10.0`."""
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise ValueError("must be a whole number")
    return value


# It stands behind the bounds in an annotation: before them it would hide them from the OpenAPI document.
QueryNumber = BeforeValidator(_whole)


class Input(BaseModel):
    """What a client sends: an unknown field is refused."""

    model_config = ConfigDict(extra="forbid")


class Output(BaseModel):
    """What a client gets: every field is always there."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class PageQuery(Input):
    """Which part of a list."""

    limit: Annotated[int, Field(ge=1, le=100), QueryNumber] = 50
    offset: Annotated[int, Field(ge=0, le=1_000_000), QueryNumber] = 0


class MessageResponse(Output):
    """What happened, in words for a person."""

    message: str


class FieldProblem(Output):
    """One wrong field."""

    field: str
    message: str
    type: str


class Problem(Output):
    """RFC 9457 problem details; `code` is stable, `request_id` finds the request in the log."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:duly:problem:not-found",
                    "title": "Not found",
                    "status": 404,
                    "detail": "There is no such task.",
                    "instance": "/api/v1/tasks/019aa0c4-5a3e-7c31-9d5e-0f1b6f0c2a11",
                    "code": "NOT_FOUND",
                    "request_id": "9b2f6f5e-3a0c-4f5e-8d38-5f0c4f6f4f10",
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str


class ValidationProblem(Problem):
    """A problem with one entry for each wrong field."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:duly:problem:validation-error",
                    "title": "The request is not valid",
                    "status": 422,
                    "detail": "The request has a field that is not valid. See `errors` for each.",
                    "instance": "/api/v1/tasks",
                    "code": "VALIDATION_ERROR",
                    "request_id": "9b2f6f5e-3a0c-4f5e-8d38-5f0c4f6f4f10",
                    "errors": [
                        {
                            "field": "title",
                            "message": "String should have at least 1 character.",
                            "type": "string_too_short",
                        }
                    ],
                }
            ]
        }
    )

    errors: list[FieldProblem]
