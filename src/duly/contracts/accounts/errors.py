"""Errors in the shape of the accounts contract, and what its routes declare of them."""

from typing import Any
from urllib.parse import quote

import orjson

from duly import errors
from duly.contracts.accounts.models import AccountsError, AccountsValidationError
from duly.contracts.v1.problems import MAX_PATH, Rendered, extra_headers, listed_faults
from duly.errors import DulyError, Kind

NAMES = {
    Kind.MALFORMED: "BadRequestError",
    Kind.UNAUTHENTICATED: "AuthenticationError",
    Kind.FORBIDDEN: "AuthorizationError",
    Kind.NOT_FOUND: "NotFoundError",
    Kind.METHOD_NOT_ALLOWED: "MethodNotAllowedError",
    Kind.NOT_ACCEPTABLE: "NotAcceptableError",
    Kind.CONFLICT: "ConflictError",
    Kind.PRECONDITION_FAILED: "PreconditionFailedError",
    Kind.TOO_LARGE: "PayloadTooLargeError",
    Kind.UNSUPPORTED_MEDIA: "UnsupportedMediaTypeError",
    Kind.INVALID: "ValidationError",
    Kind.LOCKED: "AccountLockedError",
    Kind.TOO_MANY: "RateLimitError",
    Kind.INTERNAL: "InternalServerError",
    Kind.BAD_GATEWAY: "MailError",
    Kind.UNAVAILABLE: "ServiceUnavailableError",
    Kind.TIMED_OUT: "TimeoutError",
    Kind.STORAGE_FULL: "InsufficientStorageError",
}

_DESCRIPTIONS = {
    400: "The request cannot be read.",
    401: "No token, wrong credentials, or a token that is bad, expired or revoked.",
    403: "The caller may not do this.",
    409: "The database already holds something that excludes this.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "A field is not valid.",
    423: "Too many failed attempts; locked for a while.",
    429: "Too many requests; wait.",
    500: "A fault of the server.",
    502: "The mail server did not take the mail.",
    503: "A dependency does not answer; try again.",
    504: "It took too long and was given up; nothing was changed.",
    507: "The disk is full; nothing was changed.",
}
_ALWAYS = (400, 422, 429, 500, 503, 504, 507)
_WITH_BODY = (413, 415)


def render_accounts_error(error: DulyError, request_id: str, path: str) -> Rendered:
    """Status, headers and body; never more than 8 KiB, and never what the client sent but its path."""
    status = error.kind.value
    content: dict[str, Any] = {
        "error": NAMES[error.kind],
        "message": _say_missing(path) if error.kind is Kind.NOT_FOUND else error.message,
        "status_code": status,
        "request_id": request_id,
    }
    if isinstance(error, errors.Invalid):
        content["errors"] = listed_faults(error.faults)
    body = orjson.dumps(content)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *extra_headers(error),
    ]
    return status, headers, body


def _say_missing(path: str) -> str:
    # In the spelling of a URL it has no control character and no markup, whatever was asked for.
    return f"The requested resource '{quote(path[:MAX_PATH], safe='/:@!$&()*+,;=')}' was not found"


def refusals(*statuses: int, body: bool = True) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: the given statuses, those of a route with a body, and those that all may answer."""
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_shape(status).__name__}"}}},
        }
        for status in sorted({*_ALWAYS, *(_WITH_BODY if body else ()), *statuses})
    }


def _shape(status: int) -> type[AccountsError]:
    return AccountsValidationError if status == 422 else AccountsError
