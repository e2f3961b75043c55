"""Cells of a CSV file that no spreadsheet takes for a formula, and that are read back as they were."""

import re

# What spreadsheets begin a formula with, the full-width forms of East Asian ones too (OWASP, CSV injection).
_FORMULA = frozenset("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 - these very characters
_PART = re.compile(r"(?:[^;\\]|\\.)*", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def write_cell(text: str | None) -> str:
    """The text, behind an apostrophe where it needs one; None is an empty cell, and an empty text is not."""
    if text is None:
        return ""
    return f"'{text}" if _is_marked(text) else text


def read_cell(cell: str) -> str | None:
    """The reverse of `write_cell`."""
    if not cell:
        return None
    return cell[1:] if cell[0] == "'" and _is_marked(cell) else cell


def _is_marked(text: str) -> bool:
    # What it says of a text does not change when an apostrophe is put before it: so the two are each other's reverse.
    rest = text.lstrip("'")
    return not rest or rest[0] in _FORMULA


def join_tags(tags: list[str]) -> str | None:
    """One text for all; a semicolon or a backslash within a tag stands behind a backslash."""
    return ";".join(tag.replace("\\", "\\\\").replace(";", "\\;") for tag in tags) or None


def split_tags(text: str) -> list[str]:
    """The reverse of `join_tags`; blanks around a tag and empty tags, which people leave, are dropped."""
    found, place = [], 0
    while place <= len(text):
        match = _PART.match(text, place)
        end = match.end() if match else place
        if end < len(text) and text[end] == "\\":
            end = len(text)  # the last character escapes nothing
        found.append(_ESCAPED.sub(r"\1", text[place:end]).strip())
        place = end + 1
    return [tag for tag in found if tag]
