"""Text from people: normalised, bounded, and free of what breaks databases, terminals and lists."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

# C0, DEL and C1 are commands to a device; a line has none, nor the two separators that some readers break lines at.
_NOT_IN_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_IN_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Python's own idea of a blank includes four control characters, which are to be refused, not dropped.
_BLANKS = "\t\n\r" + "".join(chr(code) for code in range(0x20, 0x3001) if chr(code).isspace() and code != 0x85)
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean_line(value: str) -> str:
    """One line in NFC without blanks around it; raises ValueError for control characters and lone surrogates."""
    return _clean(value, _NOT_IN_LINE)


def clean_text(value: str) -> str:
    """The same for several lines: tab, line feed and carriage return stay as they are."""
    return _clean(value, _NOT_IN_TEXT)


@dataclass(frozen=True, slots=True)
class Line:
    """`Annotated[str, Line(200)]`: cleaned by `clean_line`, then counted in characters (code points)."""

    most: int
    least: int = 1

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return _schema(clean_line, self.least, self.most)


@dataclass(frozen=True, slots=True)
class Text:
    """`Annotated[str, Text(2000)]`: cleaned by `clean_text`, then counted in characters (code points)."""

    most: int
    least: int = 0

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return _schema(clean_text, self.least, self.most)


def _clean(value: str, forbidden: re.Pattern[str]) -> str:
    text = value.strip(_BLANKS)
    if text.isascii() and text.isprintable():
        return text
    if _SURROGATE.search(text):
        raise PydanticCustomError("lone_surrogate", "String should hold whole characters, no half of a surrogate pair")
    if forbidden.search(text):
        raise PydanticCustomError("control_character", "String should hold no control character")
    return unicodedata.normalize("NFC", text)


def _schema(clean: Callable[[str], str], least: int, most: int) -> core_schema.CoreSchema:
    def clean_strings(value: object) -> object:
        return clean(value) if isinstance(value, str) else value

    inner = core_schema.str_schema(min_length=least or None, max_length=most)
    return core_schema.no_info_before_validator_function(clean_strings, inner)
