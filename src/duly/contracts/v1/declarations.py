"""What routes declare about themselves: the errors that each may answer, with the shape they have."""

from typing import Any

from duly.contracts.v1.models import Problem, ValidationProblem

_DESCRIPTIONS = {
    400: "The request cannot be read.",
    401: "No token, or one that is bad, expired or revoked.",
    403: "The caller may not do this.",
    404: "Absent, or not the caller's.",
    409: "The database already holds something that excludes this.",
    412: "The version that the client holds is stale.",
    413: "The body is too large.",
    423: "Too many wrong passwords; locked for a while.",
    429: "Too many requests; wait.",
    415: "The body is not of a type that is read here.",
    422: "A field is not valid.",
    500: "A fault of the server.",
    503: "A dependency does not answer; try again.",
    504: "It took too long and was given up; nothing was changed.",
    507: "The disk is full; nothing was changed.",
}
_ALWAYS = (400, 422, 429, 500, 503, 504, 507)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: the given statuses and those that every route may answer."""
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {
                "application/problem+json": {
                    "schema": {
                        "$ref": f"#/components/schemas/{(ValidationProblem if status == 422 else Problem).__name__}"
                    }
                }
            },
        }
        for status in sorted({*_ALWAYS, *statuses})
    }


def upload_body(description: str) -> dict[str, Any]:
    """The `openapi_extra` of a route that takes one file in the multipart field `file`."""
    file = {
        "type": "string",
        "format": "binary",
        "minLength": 1,
        "contentMediaType": "application/octet-stream",
        "description": description,
    }
    schema = {"type": "object", "required": ["file"], "additionalProperties": False, "properties": {"file": file}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


MAILED: dict[str, Any] = {
    "description": "Taken note of, whatever the address; a mail says the rest.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/MessageResponse"}}},
}
SIGNED_IN = problems(401)
READS_BODY = problems(401, 413, 415)
