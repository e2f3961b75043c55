"""Prints, checks or writes the table of settings that the README holds between two markers."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from duly.settings import Settings

BEGIN = "<!-- settings:begin -->"
END = "<!-- settings:end -->"


def setting_names() -> dict[str, tuple[str, ...]]:
    """Every setting by its documented name, with the other names that it answers to."""
    return {name.upper(): _aliases(name, field) for name, field in Settings.model_fields.items()}


def _aliases(name: str, field: FieldInfo) -> tuple[str, ...]:
    if not isinstance(field.validation_alias, AliasChoices):
        return ()
    return tuple(str(choice).upper() for choice in field.validation_alias.choices if choice != name)


def described(field: FieldInfo) -> str:
    """The description, and the words that the setting admits where they are few."""
    words = [word for part in (field.annotation, *get_args(field.annotation)) for word in _words(part)]
    return f"{field.description} One of: {', '.join(words)}." if words else field.description or ""


def _words(annotation: object) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


def default_text(field: FieldInfo) -> str:
    """The default as it would stand in the environment; nothing where there is none."""
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return str(value)


def table_lines() -> Iterator[str]:
    """Yield the Markdown table, a row for each setting in the order of the class."""
    yield "| name | default | secret | what it does |"
    yield "|---|---|---|---|"
    for name, field in Settings.model_fields.items():
        names = " or ".join(f"`{one}`" for one in (name.upper(), *_aliases(name, field)))
        default = default_text(field)
        secret = "yes" if _is_secret(field.annotation) else ""
        cells = (names, f"`{default}`" if default else "", secret, described(field).replace("|", "\\|"))
        yield "| " + " | ".join(cells) + " |"


def replace_table(text: str) -> str:
    """Put today's table between the markers. Raises `ValueError` where a marker is missing or they are crossed."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"needs a line {BEGIN} and, below it, a line {END}")
    return "\n".join([before + begin, *table_lines(), end + after])


def main() -> int:
    """Exit 1 when `--check` finds an old table, or the file has no place for one."""
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", type=Path, metavar="FILE", help="fail unless FILE holds the current table")
    group.add_argument("--write", type=Path, metavar="FILE", help="put the current table into FILE")
    options = parser.parse_args()
    path: Path | None = options.check or options.write
    if path is None:
        print("\n".join(table_lines()))
        return 0
    try:
        old = path.read_text(encoding="utf-8")
        new = replace_table(old)
    except (OSError, ValueError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    if options.write:
        path.write_text(new, encoding="utf-8")
    elif new != old:
        print(f"{path}: the table of settings is old; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
