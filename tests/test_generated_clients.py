"""Four generators make a client of the document as it is; each compiles strictly and goes through the same story."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.tools import (
    FOLDER,
    STRICT,
    compile_strictly,
    export_document,
    install,
    make_workspace,
    run,
    run_script,
    run_tool,
)
from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import Server
from tests.live_clients import serve

REQUIREMENTS = FOLDER / "requirements.lock"
STORY = [
    ["register", 201],
    ["login", [200, True]],
    ["create", [201, "One"]],
    ["list", [200, 1, "One"]],
    ["update", [200, "Two"]],
    ["stale", [412, "STALE_VERSION"]],
    ["invalid", [422, "VALIDATION_ERROR", "title"]],
    ["delete", 204],
    ["missing", [404, "NOT_FOUND"]],
]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `duly export-openapi` writes."""
    return export_document(tmp_path_factory.mktemp("document") / "openapi.json")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the stories share."""
    running = serve(tmp_path_factory.mktemp("server"))
    yield running
    running.kill()


def workspace_for(folder: Path, script: str, **options: Any) -> Path:
    """A folder for one generator's output, with the script that uses it."""
    links = {entry.name: entry for entry in install(FOLDER).iterdir() if not entry.name.startswith(".")}
    return make_workspace(folder, links, ["harness.ts", f"{script}.ts"], **options)


def tell(workspace: Path, script: str, server: Server) -> None:
    """Compile the script together with what was made, and let it go through the story."""
    built = compile_strictly(workspace, install(FOLDER))
    given = {"baseUrl": server.base_url, "email": f"{script}@example.com"}
    assert [json.loads(line) for line in run_script(built / f"{script}.js", given)] == STORY


@pytest.mark.covers("D095", "C130", "D087")
def test_openapi_typescript(document: Path, server: Server, tmp_path: Path) -> None:
    script = "made_by_openapi_typescript"
    workspace = workspace_for(tmp_path, script)
    # The rest is said by the document; this is how its defaults are to be read: what has one may be left out.
    arguments = [str(document), "--default-non-nullable=false", "--output", "generated/schema.ts"]
    run_tool(install(FOLDER), "openapi-typescript", *arguments, cwd=workspace)
    tell(workspace, script, server)


@pytest.mark.covers("D095", "C130", "D087")
def test_orval(document: Path, server: Server, tmp_path: Path) -> None:
    script = "made_by_orval"
    workspace = workspace_for(tmp_path, script)
    arguments = ["--input", str(document), "--output", "generated/orval.ts", "--client", "fetch"]
    run_tool(install(FOLDER), "orval", *arguments, cwd=workspace)
    tell(workspace, script, server)


@pytest.mark.covers("D095", "C130", "D087")
def test_hey_api(document: Path, server: Server, tmp_path: Path) -> None:
    script = "made_by_hey_api"
    # The generator's own runtime passes undefined where a property may be absent; all other rules hold.
    workspace = workspace_for(tmp_path, script, compiler={**STRICT, "exactOptionalPropertyTypes": False})
    config = {"input": str(document), "output": {"path": "generated", "importFileExtension": ".js"}}
    (workspace / "openapi-ts.config.mjs").write_text(f"export default {json.dumps(config)};\n")
    run_tool(install(FOLDER), "openapi-ts", cwd=workspace)
    tell(workspace, script, server)


def python_tools() -> Path:
    """The programs of an environment of their own: the generator wants an older typer than Duly."""
    environment = FOLDER / ".venv"
    stamp = environment / ".stamp"
    with REQUIREMENTS.open() as lock:
        # Test workers in parallel must not install into one folder at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.stat().st_mtime < REQUIREMENTS.stat().st_mtime:
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(environment)],
                [str(environment / "bin" / "pip"), "install", "-q", "--no-input", "--disable-pip-version-check",
                 "--require-hashes", "-r", str(REQUIREMENTS)],
            ):  # fmt: skip
                done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
                if done.returncode != 0:
                    skip_or_fail(f"openapi-python-client cannot be installed: {done.stderr.strip()[-500:]}")
            stamp.touch()
    return environment / "bin"


@pytest.mark.covers("D095", "C130", "D087")
def test_openapi_python_client(document: Path, server: Server, tmp_path: Path) -> None:
    script = "made_by_openapi_python_client"
    programs = python_tools()
    alone = {"PATH": os.environ["PATH"], "NO_COLOR": "1", "COLUMNS": "200"}
    command = [
        str(programs / "openapi-python-client"), "generate", "--path", str(document), "--meta", "none",
        "--output-path", str(tmp_path / "generated"), "--config", str(FOLDER / "openapi_python_client.yaml"),
    ]  # fmt: skip
    done = subprocess.run(command, env=alone, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    # What is left out is what the settings leave out.
    said = done.stdout + done.stderr
    assert said.count("WARNING") == 2, said
    assert "application/x-form-not-generated" in said
    assert "text/event-stream" in said
    (tmp_path / f"{script}.py").write_text((FOLDER / "scripts" / f"{script}.py").read_text())
    arguments = ["--config-file=", "--strict", "--cache-dir", str(tmp_path / "cache"), "--python-executable"]
    checked = ["generated", f"{script}.py"]
    run([sys.executable, "-m", "mypy", *arguments, str(programs / "python"), *checked], tmp_path, alone)
    given = json.dumps({"baseUrl": server.base_url, "email": f"{script}@example.com"})
    lines = run([str(programs / "python"), f"{script}.py", given], tmp_path, alone).splitlines()
    assert [json.loads(line) for line in lines] == STORY
