"""What is built: the wheel runs alone, the source archive makes the same wheel, the bill of materials is complete."""

import email
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import httpx
import pytest

from duly import __version__
from scripts import sbom
from tests.fixtures.application import PASSWORD
from tests.fixtures.server import ROOT, StartServer, environment

WHEEL = f"duly-{__version__}-py3-none-any.whl"
ARCHIVE = f"duly-{__version__}.tar.gz"


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """A command that has to succeed; what it printed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive and the wheel that was made from it, as `make dist` does."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel; its dependencies are lent by the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", built / WHEEL)
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A plain path: what the editable install put behind a .pth of its own is not followed.
    (Path(purelib) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(built: Path) -> None:
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "duly").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(built / WHEEL) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert {"duly/db/migrations/script.py.mako", "duly/web/assets/page.css", "duly/mail/templates/base.html"} <= held


def test_the_source_archive_makes_the_same_wheel_as_the_checkout(built: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    assert (tmp_path / WHEEL).read_bytes() == (built / WHEEL).read_bytes()
    with tarfile.open(built / ARCHIVE) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO", "src/duly/__init__.py"} <= names
    assert not [name for name in names if name.startswith(("tests/", "bench/", "deploy/", ".git/"))]


def test_the_metadata_says_what_is_so(built: Path) -> None:
    metadata = metadata_of(built / WHEEL)
    assert (metadata["Name"], metadata["Version"]) == ("duly", __version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("MIT", "LICENSE")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert (
        metadata.get_payload(decode=True).decode().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    )
    assert {"otel", "sentry"} <= set(metadata.get_all("Provides-Extra"))
    assert metadata.get_all("Project-URL") is None, "an address that is not known to be true"


@pytest.mark.covers("D012", "D013")
def test_installed_alone_it_serves_from_an_empty_folder_and_again(
    installed: Path, start_server: StartServer, tmp_path: Path
) -> None:
    where = run(installed, "-c", "import duly; print(duly.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(installed.parent.parent), "the test looks at the checkout"
    command = ("-c", f"import os; os.execv({str(installed.parent / 'duly')!r}, ['duly', 'serve'])")
    assert not (tmp_path / "duly.db").exists()
    server = start_server(command=command)
    person = {"email": "ann@example.com", "password": PASSWORD}
    with httpx.Client(base_url=server.base_url, trust_env=False) as client:
        answer = client.post("/api/v1/auth/register", json=person)
        assert answer.status_code == 201, answer.text
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        task = client.post("/api/v1/tasks", json={"title": "Kept"}, headers=headers).json()
        page = client.get("/docs").text
        assets = [part.partition('"')[0] for mark in ('src="', 'href="') for part in page.split(mark)[1:]]
        assert assets
        assert {client.get(path).status_code for path in assets if path.startswith("/")} == {200}
        assert client.post("/api/v1/auth/forgot-password", json={"email": "ann@example.com"}).status_code in {200, 202}
    assert server.stop() == 0
    again = start_server(command=command)
    listed = httpx.get(f"{again.base_url}/api/v1/tasks", headers=headers, trust_env=False).json()
    assert [one["id"] for one in listed["items"]] == [task["id"]]
    assert again.stop() == 0


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What `make sbom` writes."""
    path = tmp_path_factory.mktemp("sbom") / "duly.cdx.json"
    run(sys.executable, "scripts/sbom.py", path)
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_bill_of_materials_names_every_package_with_version_and_licence(bill: dict[str, object]) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "duly"
    named = {sbom.canonical(one["name"]): one for one in bill["components"]}
    for lock in ("requirements.lock", "requirements-extras.lock"):
        pinned = sbom.read_lock(ROOT / lock)
        assert len(pinned) > 60
        assert {name: one["version"] for name, one in named.items() if name in pinned} == pinned
    assert [name for name, one in named.items() if not one["licenses"]] == []
    assert {"pytest", "ruff", "moto"}.isdisjoint(named), "tools of development do not ship"


def test_a_package_that_is_missing_or_of_another_version_is_named(bill: dict[str, object]) -> None:
    lock = {"fastapi": "0.0.1", "nowhere": "1.0"}
    found = list(sbom.faults(bill, lock))
    assert [line.partition(" ")[0] for line in found] == ["fastapi", "nowhere"]


def locks_in(path: Path) -> Iterator[str]:
    """What a requirements file includes."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield line.removeprefix("-r ").strip()


@pytest.mark.covers("E041")
def test_requirements_txt_is_the_lock_in_which_every_package_is_pinned_with_hashes() -> None:
    assert list(locks_in(ROOT / "requirements.txt")) == ["requirements.lock"]
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert text.count("==") == len(sbom.read_lock(ROOT / "requirements.lock"))
    blocks = [block for block in text.split("\n") if "==" in block]
    assert all(block.endswith("\\") for block in blocks), "a package without a hash"


@pytest.mark.torture
@pytest.mark.covers("E101", "C011", "B004", "D003")
def test_requirements_txt_installs_in_a_clean_environment_and_the_wheel_runs_on_it(built: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-input", "-r", ROOT / "requirements.txt")
    run(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", built / WHEEL)
    run(python, "-m", "pip", "check")
    hashed = "from pwdlib.hashers.bcrypt import BcryptHasher as H; h = H(); assert h.verify('a', h.hash('a'))"
    run(python, "-c", hashed)
    done = subprocess.run(
        [python.parent / "duly", "doctor"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**environment(tmp_path), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert "run 'duly migrate upgrade'" in done.stderr, done.stderr
