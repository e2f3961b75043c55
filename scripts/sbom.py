"""Writes the bill of materials of what ships, in CycloneDX: the packages of the lock, as they are installed."""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-extras.lock"
PINNED = re.compile(r"(?m)^([A-Za-z0-9._-]+)==([^\s\\;]+)")
Document = dict[str, Any]


def canonical(name: str) -> str:
    """The one spelling of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: Path) -> dict[str, str]:
    """Package → its version."""
    return {canonical(name): version for name, version in PINNED.findall(path.read_text(encoding="utf-8"))}


def read_environment() -> Document:
    """What cyclonedx-py sees in the environment that runs this. Raises `CalledProcessError`."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    command += ["--output-format", "JSON", "--spec-version", "1.6", "--output-reproducible", "--no-validate"]
    command += [sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own words
    document: Document = json.loads(done.stdout)
    return document


def reduce(document: Document, lock: dict[str, str]) -> Document:
    """Keep what the lock names: the tools of development are in the same environment, and do not ship."""
    kept = [one for one in document["components"] if canonical(one["name"]) in lock]
    root = document["metadata"]["component"]["bom-ref"]
    refs = {root, *(one["bom-ref"] for one in kept)}
    links = [one for one in document.get("dependencies", []) if one["ref"] in refs]
    for link in links:
        if "dependsOn" in link:
            link["dependsOn"] = [ref for ref in link["dependsOn"] if ref in refs]
    for one in kept:
        one.setdefault("licenses", _declared(one["name"]))
    return {**document, "components": kept, "dependencies": links}


def _declared(name: str) -> list[Document]:
    """The licence in a package's own words: cyclonedx-py leaves out what is no SPDX name and no classifier."""
    words = "".join(metadata(name).get_all("License") or ()).strip()
    return [{"license": {"name": words, "acknowledgement": "declared"}}] if words and "\n" not in words else []


def faults(document: Document, lock: dict[str, str]) -> Iterator[str]:
    """Yield a line for each package that is missing, of another version, or without a licence."""
    found = {canonical(one["name"]): one for one in document["components"]}
    for name, version in sorted(lock.items()):
        if name not in found:
            yield f"{name} {version} is in the lock and not installed; run `make test` once, which installs it"
        elif found[name]["version"] != version:
            yield f"{name} is {version} in the lock and {found[name]['version']} here; run `make test` once"
        elif not found[name].get("licenses"):
            yield f"{name} {version} names no licence"


def main() -> int:
    """Exit 1 when something is missing; nothing is written then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=ROOT / "dist" / "duly.cdx.json", metavar="FILE")
    path: Path = parser.parse_args().file
    lock = read_lock(LOCK)
    document = reduce(read_environment(), lock)
    wrong = list(faults(document, lock))
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"{path}: {len(document['components'])} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
