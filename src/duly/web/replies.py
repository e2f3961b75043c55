"""Responses that are ready to send: bytes and raw headers, with nothing left to encode."""

from collections.abc import Sequence
from typing import Any

import orjson
from starlette.responses import Response

JSON = (b"content-type", b"application/json")
RawHeaders = Sequence[tuple[bytes, bytes]]
WHOLE = "duly.response"
"""The ASGI extension of our server (`cli/cycles.py`), and a message of that type: `status`, `headers` and `body` of a
response whose length stands in its headers. In two messages our server looks at each header.
"""


class Document(Response):
    """A JSON body that is already bytes."""

    def __init__(self, body: bytes, status: int = 200, headers: RawHeaders = ()) -> None:
        self.body = body
        self.status_code = status
        self.background = None
        self.raw_headers = [JSON, (b"content-length", str(len(body)).encode()), *headers]


class Empty(Response):
    """A status and headers without a body."""

    def __init__(self, status: int = 204, headers: RawHeaders = ()) -> None:
        self.body = b""
        self.status_code = status
        self.background = None
        self.raw_headers = list(headers)


def dump_json(value: Any) -> bytes:
    """JSON bytes; datetimes become RFC 3339 with `Z`."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC)


def etag(version: int) -> bytes:
    """A strong validator: one version is one content (RFC 9110 §8.8.3)."""
    return b'"%d"' % version
