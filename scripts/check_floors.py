"""Checks that no package is below the release that ended a known fault: declared, locked and installed."""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-extras.lock", "requirements-dev.lock")
# The faults that each ends are in docs/security.md.
FLOORS = {"h11": "0.16", "pyjwt": "2.13", "python-multipart": "0.0.27", "starlette": "1.3.1"}
SQLITE_FLOOR = "3.51.3"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", re.MULTILINE)


def declared_faults(pyproject: str, floors: Mapping[str, str]) -> Iterator[str]:
    """Packages whose lower bound lets an older release in, or that have none."""
    rows = tomllib.loads(pyproject)["project"]["dependencies"]
    requirements = {canonicalize_name(found.name): found for found in map(Requirement, rows)}
    for name, floor in floors.items():
        found = requirements.get(canonicalize_name(name))
        bounds = [Version(part.version) for part in found.specifier if part.operator in {">=", "=="}] if found else []
        if not bounds or max(bounds) < Version(floor):
            yield f"pyproject.toml: {name} must be declared as {name}>={floor} or newer"


def locked_faults(name_of_lock: str, text: str, floors: Mapping[str, str]) -> Iterator[str]:
    """Pins below their floor, and packages that the lock lacks."""
    pins = {canonicalize_name(name): pin for name, pin in _PIN.findall(text)}
    for name, floor in floors.items():
        pin = pins.get(canonicalize_name(name))
        if pin is None or Version(pin) < Version(floor):
            found = pin or "missing"
            yield f"{name_of_lock}: {name} is {found} and must be {floor} or newer; run `make lock UPGRADE=1`"


def installed_faults(floors: Mapping[str, str], sqlite: str, sqlite_floor: str) -> Iterator[str]:
    """Packages of this environment below their floor, and the SQLite that apsw brings."""
    for name, floor in floors.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = ""
        if not found or Version(found) < Version(floor):
            yield f"installed: {name} is {found or 'missing'} and must be {floor} or newer; install requirements.lock"
    if Version(sqlite) < Version(sqlite_floor):
        yield f"installed: apsw brings SQLite {sqlite} and must bring {sqlite_floor} or newer; upgrade apsw"


def main() -> int:
    """Exit 1 with one line for each package that is too old."""
    faults = [*declared_faults((ROOT / "pyproject.toml").read_text(encoding="utf-8"), FLOORS)]
    for name in LOCKS:
        faults += locked_faults(name, (ROOT / name).read_text(encoding="utf-8"), FLOORS)
    faults += installed_faults(FLOORS, apsw.sqlite_lib_version(), SQLITE_FLOOR)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
