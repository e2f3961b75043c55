"""Errors as RFC 9457 problem details; also the shape of everything outside the contracts."""

import http
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from duly import errors
from duly.errors import DulyError, FieldFault, Kind

MEDIA_TYPE = b"application/problem+json"
REALM = b"duly"
MAX_FAULTS = 50
MAX_FIELD = 100
MAX_PATH = 200
MAX_FAULTS_BYTES = 5000
Rendered = tuple[int, list[tuple[bytes, bytes]], bytes]

_TITLES = {
    Kind.MALFORMED: "The request cannot be read",
    Kind.UNAUTHENTICATED: "Not signed in",
    Kind.FORBIDDEN: "Not allowed",
    Kind.NOT_FOUND: "Not found",
    Kind.METHOD_NOT_ALLOWED: "Method not allowed",
    Kind.NOT_ACCEPTABLE: "Not acceptable",
    Kind.CONFLICT: "Conflict",
    Kind.PRECONDITION_FAILED: "Changed meanwhile",
    Kind.TOO_LARGE: "Body too large",
    Kind.UNSUPPORTED_MEDIA: "Unsupported media type",
    Kind.INVALID: "The request is not valid",
    Kind.LOCKED: "Locked",
    Kind.TOO_MANY: "Too many requests",
    Kind.INTERNAL: "Internal error",
    Kind.BAD_GATEWAY: "Not passed on",
    Kind.UNAVAILABLE: "Temporarily unavailable",
    Kind.TIMED_OUT: "Timed out",
    Kind.STORAGE_FULL: "Storage full",
}


def render_problem(error: DulyError, request_id: str, path: str) -> Rendered:
    """Status, headers and body; never more than 8 KiB, and never what the client sent but its path."""
    status = error.kind.value
    content: dict[str, Any] = {
        "type": f"urn:duly:problem:{error.code.lower().replace('_', '-')}",
        "title": _TITLES[error.kind],
        "status": status,
        "detail": error.message,
        "instance": quote(path[:MAX_PATH], safe="/:@!$&'()*+,;="),  # RFC 9457 §3.1.5: a URI reference
        "code": error.code,
        "request_id": request_id,
    }
    if isinstance(error, errors.Invalid):
        content["errors"] = listed_faults(error.faults)
    body = orjson.dumps(content)
    headers = [
        (b"content-type", MEDIA_TYPE),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *extra_headers(error),
    ]
    return status, headers, body


def listed_faults(faults: Sequence[FieldFault]) -> list[dict[str, str]]:
    """As many as fit: the answer must not grow with the names that a client makes up."""
    listed, room = [], MAX_FAULTS_BYTES
    for fault in faults[:MAX_FAULTS]:
        entry = {"field": _printable(fault.field), "message": fault.message, "type": fault.type}
        room -= len(orjson.dumps(entry))
        if room < 0:
            break
        listed.append(entry)
    return listed


def extra_headers(error: DulyError) -> list[tuple[bytes, bytes]]:
    """What goes with an error whatever its body looks like: when to try again, how to sign in, what is allowed."""
    found = list(error.headers) if isinstance(error, errors.TooMany) else []
    if error.retry_after is not None:
        found.append((b"retry-after", str(error.retry_after).encode()))
    if isinstance(error, errors.Unauthenticated):
        challenge = b'Bearer realm="' + REALM + b'"'
        if error.challenge:
            challenge += b', error="invalid_token"'
        found.append((b"www-authenticate", challenge))
    if isinstance(error, errors.InsufficientScope):
        named = error.scope.encode("ascii")
        found.append(
            (b"www-authenticate", b'Bearer realm="%s", error="insufficient_scope", scope="%s"' % (REALM, named))
        )
    if isinstance(error, errors.MethodNotAllowed):
        found.append((b"allow", ", ".join(error.allow).encode()))
    return found


def _printable(field: str) -> str:
    cut = field if len(field) <= MAX_FIELD else field[:MAX_FIELD] + "…"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)


def from_validation(error: RequestValidationError) -> errors.Invalid:
    """One fault for each field that pydantic refused; the refused value is left out."""
    return errors.Invalid(
        "The request has a field that is not valid. See `errors` for each.",
        faults=[_fault(item) for item in error.errors()[:MAX_FAULTS]],
    )


def _fault(item: Any) -> FieldFault:
    place: Sequence[Any] = item["loc"]
    names = [str(part) for part in (place[1:] if place and place[0] == "body" and len(place) > 1 else place)]
    message = str(item["msg"]).removeprefix("Value error, ").rstrip(".")
    return FieldFault(".".join(names)[: MAX_FIELD + 1], _short(message) + ".", str(item["type"]))


def _short(message: str) -> str:
    return message if len(message) <= 200 else message[:200] + "…"


def from_http(error: HTTPException, allow: Sequence[str]) -> DulyError:
    """Starlette's own refusals: unknown path, wrong method, a body over the limit or one that cannot be read."""
    if error.status_code == http.HTTPStatus.NOT_FOUND:
        return errors.NotFound("There is nothing at this address. See /docs for what there is.")
    if error.status_code == http.HTTPStatus.METHOD_NOT_ALLOWED:
        return errors.MethodNotAllowed("This address does not take this method. See the Allow header.", allow=allow)
    if error.status_code == http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return errors.TooLarge("The body is too large. Send less.")
    if error.status_code == http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        return errors.UnsupportedMedia("The body's type is not one that this address reads.")
    return errors.Malformed("The request cannot be read. Check its body against /docs.")
