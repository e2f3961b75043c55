"""Errors in the shape of the owner contract, and what its routes declare of them."""

from typing import Any

import orjson

from duly import errors
from duly.contracts.owner.models import OwnerError, OwnerValidationError
from duly.contracts.v1.problems import Rendered, extra_headers, listed_faults
from duly.errors import DulyError

_DESCRIPTIONS = {
    400: "The request cannot be read.",
    401: "No token, or one that is bad, expired or revoked.",
    403: "The `user_id` of the address is not the caller's, whether or not it is anybody's.",
    404: "The caller has no such task.",
    409: "The first request with this Idempotency-Key still runs.",
    412: "The version that the client holds is stale.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "A field is not valid.",
    429: "Too many requests; wait.",
    500: "A fault of the server.",
    503: "A dependency does not answer; try again.",
    504: "It took too long and was given up; nothing was changed.",
    507: "The disk is full; nothing was changed.",
}
_ALWAYS = (400, 401, 403, 422, 429, 500, 503, 504, 507)


def render_owner_error(error: DulyError, request_id: str) -> Rendered:
    """Status, headers and body; never more than 8 KiB, and never what the client sent but the names of fields."""
    details: dict[str, Any] = {"request_id": request_id}
    if isinstance(error, errors.Invalid):
        details["errors"] = listed_faults(error.faults)
    said = {"code": error.code, "message": error.message, "details": details}
    body = orjson.dumps({"success": False, "error": said})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *extra_headers(error),
    ]
    return error.kind.value, headers, body


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: the given statuses and those that every route may answer."""
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_shape(status).__name__}"}}},
        }
        for status in sorted({*_ALWAYS, *statuses})
    }


def _shape(status: int) -> type[OwnerError]:
    return OwnerValidationError if status == 422 else OwnerError
