"""The texts of RFC 5545: lines unfolded and taken apart, values escaped and back without loss."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from icalendar.parser import Contentline, Parameters

_BARE = re.compile(r"([A-Za-z0-9-]+):")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_SPECIAL = re.compile(r"[\\;,]")
_PART = re.compile(r"(?:[^,\\]|\\.)*", re.DOTALL)
_WIDTH: Final = 75


@dataclass(frozen=True, slots=True)
class Property:
    """One content line; `value` is as it stands there."""

    name: str
    parameters: Parameters
    value: str


def unfold(text: str) -> Iterator[str]:
    """The lines of a file, each whole (§3.1); empty ones left out."""
    pieces: list[str] = []
    for match in re.finditer(r"[^\n]+", text):
        line = match[0].removesuffix("\r")
        if line[:1] in {" ", "\t"}:
            pieces.append(line[1:])
            continue
        if pieces:
            yield "".join(pieces)
        pieces = [line] if line else []
    if pieces:
        yield "".join(pieces)


def name_of(line: str) -> str:
    """The name that a line begins with, in capitals."""
    return line[: min(line.find(sign) % (len(line) + 1) for sign in ":;")][:60].strip().upper()


def take_apart(line: str) -> Property:
    """Raises ValueError."""
    bare = _BARE.match(line)
    if bare:
        return Property(bare[1].upper(), Parameters(), line[bare.end() :])
    end = Contentline(line).value_separator_index()  # type: ignore[no-untyped-call]
    if end < 0:
        raise ValueError("is a line without a colon")
    name, parameters, _ = Contentline(line[: end + 1]).raw_parts()  # type: ignore[no-untyped-call]
    return Property(name.upper(), parameters, line[end + 1 :])


def escape(text: str) -> str:
    """§3.3.11. The library's own also changes a backslash that stands before an N."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return _SPECIAL.sub(r"\\\g<0>", lines).replace("\n", "\\n")


def unescape(value: str) -> str:
    """The reverse; a backslash before anything else is dropped."""
    return _ESCAPED.sub(lambda match: "\n" if match[1] in "nN" else match[1], value)


def split_list(value: str) -> list[str]:
    """The texts between commas."""
    found, place = [], 0
    while place <= len(value):
        match = _PART.match(value, place)
        end = match.end() if match else place
        if end < len(value) and value[end] == "\\":
            end = len(value)  # the last character escapes nothing
        found.append(unescape(value[place:end]))
        place = end + 1
    return found


def fold(line: str) -> bytes:
    """A line as it stands in a file, in pieces of at most 75 octets (§3.1)."""
    raw = line.encode()
    if len(raw) > _WIDTH:
        raw = Contentline(line).to_ical()  # type: ignore[no-untyped-call]
    return raw + b"\r\n"
