"""Sends a file as it lies in the store, in pieces, and so that no browser shows or runs it."""

import contextlib
import re
from collections.abc import AsyncGenerator
from urllib.parse import quote

from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from duly.web.uploads import is_file

Headers = list[tuple[bytes, bytes]]

_ATTR_CHARS = "!#$&+-.^_`|~"  # RFC 8187 §3.2.1, beside letters and digits
_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))[ \t]*", re.IGNORECASE)
_CSP = b"sandbox; default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Compression(GZipMiddleware):
    """Compresses what Duly writes. A file goes as it is: its length, its ETag and its ranges are those of its bytes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a file's address through untouched."""
        through = self.app if scope["type"] == "http" and is_file(scope["path"]) else super().__call__
        await through(scope, receive, send)


class Download(StreamingResponse):
    """A response of pieces that are read as the client takes them; a client who leaves ends the reading."""

    def __init__(self, pieces: AsyncGenerator[bytes], status: int, headers: Headers) -> None:
        super().__init__(pieces, status)
        self._pieces = pieces
        self.raw_headers = headers

    async def stream_response(self, send: Send) -> None:
        """Close what is read from, however it ends."""
        async with contextlib.aclosing(self._pieces):
            await super().stream_response(send)


def file_headers(name: str, content_type: str, sha256: str) -> Headers:
    """What goes with a file: to be saved and not shown, under its name, with its checksum as `ETag`."""
    return [
        (b"content-type", content_type.encode()),
        (b"content-disposition", disposition(name).encode()),
        (b"etag", b'"' + sha256.encode() + b'"'),
        (b"accept-ranges", b"bytes"),
        (b"content-security-policy", _CSP),
        (b"x-content-type-options", b"nosniff"),
    ]


def disposition(name: str) -> str:
    """RFC 6266: the name in ASCII for old clients, and as it is for all others (RFC 8187)."""
    plain = "".join(c if c.isascii() and c not in '"\\%' else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe=_ATTR_CHARS)}"


def is_held(request: Request, sha256: str) -> bool:
    """Whether `If-None-Match` names this file, so that 304 answers (RFC 9110 §13.1.2)."""
    tags = ",".join(request.headers.getlist("if-none-match")).split(",")
    return any(tag.strip().removeprefix("W/") in {"*", f'"{sha256}"'} for tag in tags)


def find_range(request: Request, size: int, sha256: str) -> tuple[int, int]:
    """The part that is asked for: its start, and its end, which is not in it any more.

    RFC 9110 §14.2 lets a server ignore a Range: whatever is no single part that the file has gets the whole, and so
    does an `If-Range` that names another file.
    """
    if_range = request.headers.get("if-range")
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None or (if_range is not None and if_range.strip() != f'"{sha256}"'):
        return 0, size
    first, last, suffix = found.groups()
    start = max(0, size - int(suffix)) if suffix else int(first)
    end = min(size, int(last) + 1) if last else size
    return (start, end) if start < end else (0, size)


def part_headers(start: int, end: int, size: int) -> tuple[int, Headers]:
    """The status, how much is sent, and of a part where it is."""
    headers = [(b"content-length", str(end - start).encode())]
    if (start, end) == (0, size):
        return 200, headers
    return 206, [*headers, (b"content-range", f"bytes {start}-{end - 1}/{size}".encode())]
