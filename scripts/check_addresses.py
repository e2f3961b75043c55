"""Fails when a lock file names an address: a hash fixes what is installed; where from is the installer's choice.

`python scripts/check_addresses.py --clean` takes out of npm's locks what npm writes there and nobody installs by.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SKIPPED = {"node_modules", ".venv", ".git"}
PIP_ADDRESS = re.compile(
    r"://|^\s*(-i|-f|--index-url|--extra-index-url|--find-links|--trusted-host)\b|^[\w.\[\],-]+\s*@"
)


def find_locks(root: Path) -> Iterator[Path]:
    """Yield every pip and npm lock below `root`, but none that an install put there."""
    for pattern in ("requirements*.lock", "package-lock.json", "npm-shrinkwrap.json"):
        yield from (path for path in sorted(root.rglob(pattern)) if SKIPPED.isdisjoint(path.parts))


def pip_addresses(text: str) -> Iterator[str]:
    """Yield the lines of a requirements lock that name an index, a folder or a direct reference."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("#") and PIP_ADDRESS.search(line):
            yield f"{number}: {line.strip()}"


def npm_addresses(text: str) -> Iterator[str]:
    """Yield the packages of an npm lock that name an address; a linked folder of this project is none."""
    for name, package in json.loads(text).get("packages", {}).items():
        yield from (f"{name}: {field}" for field in _address_fields(package))


def _address_fields(package: dict[str, Any]) -> list[str]:
    return [field for field, value in package.items() if "://" in json.dumps(value) or _is_place(package, field)]


def _is_place(package: dict[str, Any], field: str) -> bool:
    return field == "resolved" and not package.get("link")


def clean(path: Path) -> None:
    """Take out of an npm lock whom to fund and where each package was downloaded."""
    lock = json.loads(path.read_text(encoding="utf-8"))
    for package in lock.get("packages", {}).values():
        package.pop("funding", None)
        if _is_place(package, "resolved"):
            package.pop("resolved", None)
    path.write_text(json.dumps(lock, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def find_faults(locks: Iterable[Path]) -> Iterator[str]:
    """Yield one line for each address, beginning with its file."""
    for path in locks:
        text = path.read_text(encoding="utf-8")
        found = npm_addresses(text) if path.suffix == ".json" else pip_addresses(text)
        yield from (f"{path}: {fault}" for fault in found)


def main() -> int:
    """Exit 1 when a lock names an address, or when there is no lock at all to look at."""
    locks = list(find_locks(Path()))
    if sys.argv[1:] == ["--clean"]:
        for path in locks:
            if path.suffix == ".json":
                clean(path)
    faults = list(find_faults(locks))
    for fault in faults:
        print(fault, file=sys.stderr)
    if any(".json: " in fault for fault in faults):
        print("npm wrote these addresses: python scripts/check_addresses.py --clean takes them out", file=sys.stderr)
    if not locks:
        print("no lock file here: run this in the root of the project", file=sys.stderr)
    return 1 if faults or not locks else 0


if __name__ == "__main__":
    sys.exit(main())
