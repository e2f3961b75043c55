"""Identifiers that Duly mints."""

import os

import uuid_utils


def new_id() -> str:
    """A UUIDv7 (RFC 9562 §5.7) as 36 characters: later ids sort after earlier ones."""
    return str(uuid_utils.uuid7())


class RequestIds:
    """Mints UUIDv4 strings from a block of kernel randomness, because one system call per request shows in profiles."""

    __slots__ = ("_block", "_position")
    _SIZE = 16 * 256

    def __init__(self) -> None:
        self._block = b""
        self._position = self._SIZE

    def mint(self) -> str:
        """A UUIDv4 (RFC 9562 §5.4) as 36 lower-case characters."""
        if self._position >= self._SIZE:
            self._block = os.urandom(self._SIZE)
            self._position = 0
        raw = self._block[self._position : self._position + 16].hex()
        self._position += 16
        variant = "89ab"[int(raw[16], 16) & 3]
        return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-{variant}{raw[17:20]}-{raw[20:]}"
