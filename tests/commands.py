"""The `duly` command as an operator runs it: a program with words, settings, an exit code and lines."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fixtures.server import ROOT, environment

Done = subprocess.CompletedProcess[str]


async def run_duly(tmp_path: Path, *words: str, **settings: Any) -> Done:
    """Run `duly` with these words, seeing only these settings, in the test's folder; the test's loop goes on."""
    command = [sys.executable, "-m", "duly", *words]
    return await asyncio.to_thread(_run, command, tmp_path, environment(tmp_path, **settings))


def _run(command: list[str], folder: Path, environ: dict[str, str]) -> Done:
    return subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", env=environ, timeout=60,
        check=False,
    )  # fmt: skip


def refusal(done: Done) -> str:
    """The one line of a command that refused."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith("duly: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("duly: ").rstrip("\n")


def answer(done: Done) -> str:
    """What a command printed that went well and had nothing to complain of."""
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stdout, done.stderr)
    return done.stdout


async def without_packages(tmp_path: Path, *words: str) -> Done:
    """Run Python with the project's source and the standard library alone."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
    return await asyncio.to_thread(_run, [sys.executable, "-S", *words], tmp_path, environ)
