"""What a file is, told from its bytes alone: what a client says of it is never believed."""

import asyncio
import codecs
import re
from typing import BinaryIO

import puremagic

UNKNOWN = "application/octet-stream"
PLAIN_TEXT = "text/plain; charset=utf-8"
_LOOKED_AT = 64 * 1024
# Of three bytes at least: shorter marks are found in too much that is something else.
_LEAST_CONFIDENCE = 0.3
# Nothing that a browser would run or render as a page is named: it is text, or unknown.
_named = re.compile(
    r"(?:image/(?!svg)|audio/|video/|font/)[a-z0-9.+-]{1,60}"
    r"|application/(?:pdf|gzip|x-7z-compressed|x-tar|x-bzip2|x-xz|zstd|rtf)"
).fullmatch
# Documents of offices, books and programs are archives of this kind too, and have the same mark.
_ZIP_MARK = b"PK\x03\x04"
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


async def find_type(file: BinaryIO) -> str:
    """The media type of a file, read from its first and last bytes; `UNKNOWN` for what has no mark or might run."""
    return await asyncio.to_thread(_find_type, file)


def _find_type(file: BinaryIO) -> str:
    file.seek(0)
    head = file.read(_LOOKED_AT)
    if is_text(head, _LOOKED_AT):
        return PLAIN_TEXT
    if head.startswith(_ZIP_MARK):
        return "application/zip"
    file.seek(0)
    try:
        matches = puremagic.magic_stream(file)
    except (LookupError, ValueError):
        return UNKNOWN
    kinds = [
        str(match.mime_type).replace("/x-gzip", "/gzip") for match in matches if match.confidence >= _LEAST_CONFIDENCE
    ]
    return next(filter(_named, kinds), UNKNOWN)


def is_text(head: bytes, looked_at: int) -> bool:
    """UTF-8 without the controls that no text has; the last character of `looked_at` bytes may be cut."""
    if _CONTROLS.search(head):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < looked_at)
    except UnicodeDecodeError:
        return False
    return True
