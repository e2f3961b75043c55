"""Reads a header straight from the ASGI scope: the framework's mapping costs more than the whole of a hot request."""

from collections.abc import Mapping
from typing import Any


def find_header(scope: Mapping[str, Any], name: bytes) -> str | None:
    """The first header of this lower-case name as text, or None (RFC 9110 §5.5 allows what latin-1 can read)."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None
