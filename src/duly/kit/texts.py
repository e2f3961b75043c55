"""Text from people: normalised, bounded, and free of what breaks databases, terminals and lists."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from pydantic import GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

# C0, DEL and C1 are commands to a device; a line has none, nor the two separators that some readers break lines at.
_NOT_IN_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NOT_IN_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Python's own idea of a blank includes four control characters, which are to be refused, not dropped.
_BLANKS = "\t\n\r" + "".join(chr(code) for code in range(0x20, 0x3001) if chr(code).isspace() and code != 0x85)
_SURROGATE = re.compile("[\ud800-\udfff]")
# Marks that are none by their class and become two by their decomposition.
_DOUBLE_MARKS = re.compile("[\u0f73\u0f75\u0f81]")
_FEW: Final = 64
# No character decomposes into more (Unicode Standard Annex 15): what is longer than this many times the bound stays so.
_MOST_DECOMPOSED: Final = 4
# Bounded on either side, so that hostile text costs no more than other text.
_ADDRESS = re.compile(r"[^\s@<>\"'(),:;/?&=]{1,64}@[^\s@<>\"'(),:;/?&=]{1,255}")


def clean_line(value: str) -> str:
    """One line in NFC without blanks around it; raises ValueError for control characters and lone surrogates."""
    return _clean(value, _NOT_IN_LINE)


def clean_text(value: str) -> str:
    """The same for several lines: tab, line feed and carriage return stay as they are."""
    return _clean(value, _NOT_IN_TEXT)


def hide_addresses(text: str) -> str:
    """`text` with each e-mail address masked, for what leaves the house."""
    return _ADDRESS.sub("***", text) if "@" in text else text


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
    return compose(text)


def compose(text: str) -> str:
    """NFC in a time that grows with the length alone.

    The library sorts the marks on a letter by insertion: a megabyte of them would hold the process for minutes.
    """
    if len(text) > _FEW:
        text = _DOUBLE_MARKS.sub(lambda found: unicodedata.normalize("NFD", found[0]), text)
        runs = groupby(text, key=lambda character: unicodedata.combining(character) != 0)
        text = "".join("".join(sorted(run, key=unicodedata.combining) if are_marks else run) for are_marks, run in runs)
    return unicodedata.normalize("NFC", text)


def _schema(clean: Callable[[str], str], least: int, most: int) -> core_schema.CoreSchema:
    longest = _MOST_DECOMPOSED * most

    def clean_strings(value: object) -> object:
        if not isinstance(value, str) or (len(value) > longest and len(value.strip(_BLANKS)) > longest):
            return value  # refused as it is
        return clean(value)

    inner = core_schema.str_schema(min_length=least or None, max_length=most)
    return core_schema.no_info_before_validator_function(clean_strings, inner)
