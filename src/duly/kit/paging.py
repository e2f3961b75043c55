"""Cursors of keyset pages, signed, and good for one caller, filter and order only."""

import binascii
import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import orjson

from duly.errors import Malformed

MOST_CURSOR_CHARACTERS: Final = 2_048
_MAC_BYTES = 16
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")


class Cursors:
    """Signs cursors with the first key and opens those of every key; the values are not hidden, only protected.

    `scope` names everything the page depends on (caller, filter, order): a cursor opens under the very scope it was
    sealed with and under no other.
    """

    __slots__ = ("_keys",)

    def __init__(self, *keys: bytes) -> None:
        self._keys = keys

    def seal(self, scope: str, values: Sequence[str | int | None]) -> str:
        """Base64url text. Raises ValueError for integers beyond 64 bits, or when it would pass 2,048 characters."""
        try:
            payload = orjson.dumps(values)
        except TypeError:
            raise ValueError("a cursor holds strings, 64-bit integers and nulls") from None
        cursor = _spell(self._keys[0], scope, payload).decode()
        if len(cursor) > MOST_CURSOR_CHARACTERS:
            raise ValueError("the values are too long for a cursor")
        return cursor

    def open(self, scope: str, cursor: str) -> list[str | int | None]:
        """The sealed values. Raises `Malformed` with code BAD_CURSOR for anything not sealed here for this scope."""
        if len(cursor) > MOST_CURSOR_CHARACTERS or not cursor.isascii():
            raise _bad()
        text = cursor.encode()
        try:
            payload = binascii.a2b_base64(text.translate(_FROM_URL) + b"=" * (-len(text) % 4))[_MAC_BYTES:]
        except ValueError:
            raise _bad() from None
        # Comparing the spelling, not the bytes: base64 has several texts for one content, and only ours counts.
        if not any(hmac.compare_digest(_spell(key, scope, payload), text) for key in self._keys):
            raise _bad()
        values: list[str | int | None] = orjson.loads(payload)
        return values


def _spell(key: bytes, scope: str, payload: bytes) -> bytes:
    label = scope.encode(errors="surrogatepass")
    mac = hmac.digest(key, len(label).to_bytes(4, "big") + label + payload, sha256)[:_MAC_BYTES]
    return binascii.b2a_base64(mac + payload, newline=False).translate(_TO_URL).rstrip(b"=")


def _bad() -> Malformed:
    return Malformed(
        "The cursor does not belong to this list; start again without it, or with the same filter and sort.",
        code="BAD_CURSOR",
    )
