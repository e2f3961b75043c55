"""Looks for keys and passwords in what git has or would take; `.secrets.baseline` names the finds that are none."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from multiprocessing import Pool
from pathlib import Path

from detect_secrets.core.potential_secret import PotentialSecret
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import default_settings, get_settings

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / ".secrets.baseline"
# What programs write, and what holds nothing but names and hashes.
PASSED_OVER = re.compile(
    r"(^|/)node_modules/|\.lock$|package-lock\.json$|\.(png|ico|gz|pdf|jpg|webp)$|^\.secrets\.baseline$"
    r"|^docs/(conformance\.md|requirements\.tsv|security/asvs\.(md|tsv))$|^deploy/grafana/dashboards/"
)
# It would ask the services whether a key that looks like theirs is good.
ASKS_STRANGERS = "detect_secrets.filters.common.is_ignored_due_to_verification_policies"

Found = tuple[str, int, str, str]


def list_files(root: Path) -> list[str]:
    """What git has or would take, without what is passed over."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0")  # noqa: S603
    return sorted(name for name in set(names) if name and not PASSED_OVER.search(name) and (root / name).is_file())


def scan(names: Sequence[str]) -> list[Found]:
    """File, line, kind and hash of each find, sorted. One process for each core."""
    with Pool(max(1, min(len(names), os.cpu_count() or 1))) as pool:
        found = pool.imap_unordered(_scan_one, names, chunksize=8)
        return sorted({find for finds in found for find in finds})


def _scan_one(name: str) -> list[Found]:
    with default_settings():
        get_settings().disable_filters(ASKS_STRANGERS)
        return [(secret.filename, secret.line_number, secret.type, secret.secret_hash) for secret in scan_file(name)]


def read_baseline(path: Path) -> set[tuple[str, str, str]]:
    """File, kind and hash of what was looked at and is no secret."""
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"results": {}}
    return {(name, row["type"], row["hashed_secret"]) for name, rows in document["results"].items() for row in rows}


def baseline_text(found: Iterable[Found]) -> str:
    """The file that detect-secrets reads too, without times and lines: a line that moves changes nothing."""
    with default_settings():
        get_settings().disable_filters(ASKS_STRANGERS)
        settings = get_settings().json()
    rows: dict[str, list[dict[str, object]]] = {}
    for name, kind, hashed in sorted({(name, kind, hashed) for name, _, kind, hashed in found}):
        row = PotentialSecret(type=kind, filename=name, secret="", is_secret=False).json()
        row["hashed_secret"] = hashed
        rows.setdefault(name, []).append({key: value for key, value in row.items() if key != "line_number"})
    return json.dumps({"version": "1.5.0", **settings, "results": rows}, indent=2, sort_keys=True) + "\n"


def main() -> int:
    """Exit 1 when something looks like a secret and is not in the baseline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accept", action="store_true", help="write the baseline anew: everything found is no secret")
    parser.add_argument("files", nargs="*", help="these alone, instead of what git has or would take")
    options = parser.parse_args()
    if options.files:
        names = [name for name in options.files if not PASSED_OVER.search(name)]
    else:
        os.chdir(ROOT)
        names = list_files(ROOT)
    found = scan(names)
    if options.accept:
        BASELINE.write_text(baseline_text(found), encoding="utf-8")
        print(f"{BASELINE.name}: {len({(name, kind, hashed) for name, _, kind, hashed in found})} entries")
        return 0
    accepted = read_baseline(BASELINE)
    new = [find for find in found if (find[0], find[2], find[3]) not in accepted]
    for name, line, kind, _ in new:
        print(f"{name}:{line}: looks like a secret ({kind})", file=sys.stderr)
    if new:
        advice = "Take it out, and replace it where it was used. If it is none: python scripts/scan_secrets.py --accept"
        print(advice, file=sys.stderr)
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
