"""What stands in the files: packages, tables, settings, tools and documents are where one would look for them."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from sqlalchemy import inspect
from sqlmodel import SQLModel

from duly import __version__
from duly.identity.tables import Session, User
from duly.tasks.tables import Task
from tests.fixtures.application import Api, StartApp

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "duly"
# The supervisor tells its workers that the schema is done; a log's colours and the exporter's own variables are no
# settings of Duly.
READERS_OF_THE_ENVIRONMENT = {
    "settings/values.py",
    "settings/loading.py",
    "settings/sources.py",
    "cli/serving.py",
    "kit/logs.py",
    "operations/telemetry.py",
}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@pytest.mark.covers("A002", "A005", "A006", "B004", "C011", "D082", "D127", "D128", "E041", "E101")
def test_every_package_is_declared_pinned_with_hashes_and_installed_as_declared() -> None:
    declared = [Requirement(text) for text in project()["project"]["dependencies"]]
    declared += [Requirement(text) for text in project()["project"]["optional-dependencies"]["dev"]]
    least = {"pytest": "7.4.3", "httpx": "0.25.2", "pytest-asyncio": "0.21.1", "sqlalchemy": "2.0", "faker": "1",
             "pytest-cov": "1", "pyjwt": "2.13", "pwdlib": "0.3", "limits": "5", "fastapi": "0.104.1",
             "sqlmodel": "0.0.14", "pydantic": "2.5.0", "alembic": "1.13.1", "redis": "5.0.1", "uvicorn": "0.24.0",
             "starlette": "1.3.1", "python-multipart": "0.0.27", "h11": "0.16"}  # fmt: skip
    names = {requirement.name: requirement for requirement in declared}
    assert least.keys() <= names.keys()
    for name, requirement in names.items():
        installed = Version(importlib.metadata.version(name))
        assert requirement.specifier.contains(installed, prereleases=True), name
        assert installed >= Version(least.get(name, "0")), name
    pins = re.findall(r"^[a-z0-9._-]+==\S+(?: ;[^\\]*)? \\$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert len(pins) > len(project()["project"]["dependencies"])
    assert (ROOT / "requirements.lock").read_text().count("--hash=sha256:") >= len(pins)
    assert "-r requirements.lock" in (ROOT / "requirements.txt").read_text()


@pytest.mark.covers("A008", "A010", "C003", "E109")
def test_each_folder_is_a_package_and_one_module_reads_the_environment() -> None:
    folders = {path.parent for path in sources()} - {SOURCE / "db" / "migrations" / "versions"}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
    readers = {
        path.relative_to(SOURCE).as_posix()
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    }
    assert "settings/loading.py" in readers <= READERS_OF_THE_ENVIRONMENT


@pytest.mark.covers("A015", "A019", "B011", "B014", "C008", "C036")
def test_tables_are_sqlmodels_that_know_their_neighbours() -> None:
    assert {"users", "sessions", "tasks", "audit_log"} <= SQLModel.metadata.tables.keys()
    for table in (User, Session, Task):
        assert {"id", "created_at"} <= set(table.model_fields)
    for table, neighbour in ((User, "sessions"), (User, "tasks"), (Session, "user"), (Task, "user")):
        assert inspect(table).relationships[neighbour].lazy == "raise", (table, neighbour)


@pytest.mark.covers("C101", "C103", "E074", "A017")
def test_nothing_on_the_way_of_a_request_blocks_it() -> None:
    """No synchronous session, HTTP client or sleep; ruff's ASYNC rules look at each coroutine besides."""
    blocking = re.compile(
        r"\btime\.sleep\(|^import requests|\burllib\.request|\bSession\(bind|sessionmaker\(|httpx\.Client\("
    )
    for room in ("identity", "tasks", "audit", "outbox", "live", "limits", "cache", "files", "web", "contracts"):
        for path in (SOURCE / room).rglob("*.py"):
            assert not blocking.search(path.read_text(encoding="utf-8")), path
    assert "ASYNC" in project()["tool"]["ruff"]["lint"]["select"]


@pytest.mark.covers("A076", "A121", "A122", "A144", "A151", "C138", "D074")
@pytest.mark.covers("D080", "D081", "D119", "E104", "E105", "E106", "E112")
def test_the_tools_that_judge_the_code_are_set_to_judge_all_of_it() -> None:
    tools = project()["tool"]
    assert tools["mypy"]["strict"] is True
    assert {"D", "S"} <= set(tools["ruff"]["lint"]["select"])
    assert tools["coverage"]["report"]["fail_under"] >= 80
    assert tools["pytest"]["ini_options"]["filterwarnings"] == ["error"]
    makefile = (ROOT / "Makefile").read_text()
    check = makefile.partition("\ncheck:")[2].partition("\n\n")[0]
    for command in ("ruff format --check", "ruff check", "mypy", "lint-imports", "bandit", "conformance.py --check"):
        assert command in check, command
    ci = (ROOT / ".ci" / "run").read_text()
    assert "make --no-print-directory check" in ci
    assert "make --no-print-directory test" in ci


@pytest.mark.covers("D006", "A009")
def test_importing_it_warns_of_nothing() -> None:
    command = [sys.executable, "-W", "error", "-c", "import duly.app, duly.cli.main, duly.main as m; m.app"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.covers("A077", "A078", "A079", "B065", "B066", "E024", "E025", "E026")
async def test_each_test_has_its_own_database_and_people_of_its_own(
    start_app: StartApp, database_url: str, dialect: str, tmp_path: Path
) -> None:
    api = await start_app()
    assert isinstance(api.client, httpx.AsyncClient)
    assert api.settings.database_url == database_url
    assert str(ROOT / "data") not in database_url
    if dialect == "sqlite":
        assert str(tmp_path) in database_url
    one, two = await api.register("same@example.com"), await api.register()
    await one.add_task("of one")
    assert [(await person.get("/tasks")).json()["total"] for person in (one, two)] == [1, 0]
    assert (await api.client.get("/api/v1/tasks", headers={"Authorization": "Bearer not.a.token"})).status_code == 401


@pytest.mark.covers("A077", "B066")
async def test_what_another_test_wrote_is_not_here(start_app: StartApp) -> None:
    assert (await (await start_app()).register("same@example.com")).email == "same@example.com"


@pytest.mark.covers("D092", "D093", "D094", "D131", "E124")
async def test_the_changelog_begins_with_the_version_that_runs(api: Api) -> None:
    text = (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", text, re.MULTILINE)
    assert versions[0][0] == __version__ == (await api.client.get("/health")).json()["version"]
    assert (await api.client.get("/openapi.json")).json()["info"]["version"] == __version__
    assert [day for _, day in versions] == sorted((day for _, day in versions), reverse=True)
    assert text.count("**Breaking changes**") >= len(versions) - 1
    assert text.count("**Migration**") >= len(versions) - 1


@pytest.mark.covers("A123", "A124", "A148", "C014", "D085", "E036", "B083", "B005")
def test_the_documents_have_the_chapters_that_people_look_for() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for heading in ("## Two commands", "## Five minutes with curl", "## The API", "## Settings", "## Commands",
                    "## When something is wrong", "## Documents", "## Working on Duly"):  # fmt: skip
        assert heading in readme, heading
    assert ".venv\\Scripts\\activate" in readme
    assert "source .venv/bin/activate" in readme
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for heading in ("## The rooms", "## One request", "## Sessions and tokens", "## Recovery, lockout and mail"):
        assert heading in architecture, heading
    for linked in re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", readme):
        assert (ROOT / linked).exists(), linked


@pytest.mark.covers("C015", "C016", "E037", "E038", "E039", "D133", "E125")
def test_no_document_links_to_what_is_not_there() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]:
        for linked in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / linked).exists(), f"{document.relative_to(ROOT)}: {linked}"


@pytest.mark.covers("A128", "A143", "D096", "D097")
def test_figures_have_the_command_that_measured_them() -> None:
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for module in re.findall(r"python -m (bench[.\w]*)", text):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    assert "python -m bench" in text
    assert {"R1", "R2", "W1", "p99"} <= set(re.findall(r"\w+", text))
