"""Cells of a table that a spreadsheet will open."""

_FORMULA = frozenset("=+-@\t\r\n")


def safe_cell(text: str) -> str:
    """The text behind an apostrophe when a spreadsheet would take it for a formula (OWASP, CSV injection)."""
    return f"'{text}" if text[:1] in _FORMULA else text
