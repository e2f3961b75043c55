"""The programs from npm that the tests run, installed once from their locks, and the scripts that they compile."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import ROOT

FOLDER = Path(__file__).parent
SCRIPTS = FOLDER / "scripts"
CLIENT = ROOT / "clients" / "typescript"
INSTALL_SECONDS = 600
RUN_SECONDS = 300
LEAST_NODE = (20, 19)
# As strict as a careful reader of the generated types could be; libraries' declarations are checked too.
STRICT = {
    "target": "ES2022",
    "lib": ["ES2022", "DOM", "DOM.Iterable", "DOM.AsyncIterable"],
    "module": "NodeNext",
    "moduleResolution": "NodeNext",
    "types": ["node"],
    "strict": True,
    "noUncheckedIndexedAccess": True,
    "exactOptionalPropertyTypes": True,
    "noImplicitReturns": True,
    "outDir": "built",
}


def node() -> str:
    """The path of a Node that is new enough."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        skip_or_fail("Node and npm are needed: apt-get install nodejs npm, or https://nodejs.org")
    version = subprocess.run([str(found), "--version"], capture_output=True, text=True, check=True).stdout.strip("v\n")
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST_NODE:
        skip_or_fail(f"Node {version} is too old, {'.'.join(map(str, LEAST_NODE))} is needed: https://nodejs.org")
    return str(found)


def install(folder: Path) -> Path:
    """The folder's `node_modules`, made from its lock file where they are missing or older."""
    node()
    wanted, modules = folder / "package-lock.json", folder / "node_modules"
    stamp = modules / ".package-lock.json"
    with wanted.open() as lock:
        # Test workers in parallel must not install into one folder at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.stat().st_mtime < wanted.stat().st_mtime:
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
            if done.returncode != 0:
                skip_or_fail(f"npm ci failed in {folder.relative_to(ROOT)}: {done.stderr.strip()[-500:]}")
            stamp.touch()
    return modules


def run_tool(modules: Path, name: str, *arguments: str, cwd: Path, may_fail: bool = False) -> str:
    """What a program of these `node_modules` prints; it asks nobody outside, and must succeed unless it may fail."""
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "DO_NOT_TRACK": "1", "NO_COLOR": "1"}
    command = [node(), str(modules / ".bin" / name), *arguments]
    return run(command, cwd, {**os.environ, **quiet}, may_fail=may_fail)


def export_document(path: Path) -> Path:
    """The OpenAPI document as the command writes it, with the settings that ship."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "PYTHONPATH"}}
    run(
        [sys.executable, "-m", "duly", "export-openapi", str(path)], path.parent, {**kept, "DATA_DIR": str(path.parent)}
    )
    return path


def make_workspace(
    folder: Path, links: dict[str, Path], scripts: Sequence[str], compiler: Mapping[str, object] = STRICT
) -> Path:
    """A folder with these packages and scripts, ready to be compiled by these rules."""
    modules = folder / "node_modules"
    for name, target in links.items():
        (modules / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / name).symlink_to(target)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": compiler, "include": ["*.ts", "generated"]}))
    for name in scripts:
        shutil.copy(SCRIPTS / name, folder / name)
    return folder


def compile_strictly(workspace: Path, modules: Path) -> Path:
    """Where the JavaScript is. One error of a type fails the test."""
    run_tool(modules, "tsc", cwd=workspace)
    return workspace / "built"


def run_script(path: Path, given: dict[str, str]) -> list[str]:
    """The lines that a script prints, which has to end by itself."""
    return run([node(), str(path), json.dumps(given)], path.parent, dict(os.environ)).splitlines()


def run(command: list[str], cwd: Path, environment: dict[str, str], *, may_fail: bool = False) -> str:
    """What a program prints. Fails with all of it when the program does."""
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    assert may_fail or done.returncode == 0, f"{' '.join(command[:3])}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout
