"""The snippets of docs/integration.md: found with the way each is run, and written out for servers that run."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import httpx
from dotenv import dotenv_values

from tests.better_auth import running
from tests.fixtures.server import ROOT

GUIDE = ROOT / "docs" / "integration.md"
RUNNERS = Path(__file__).parent
SECONDS = 120
_RUN = re.compile(r"<!-- run: (.+) -->")
# The addresses that the guide speaks of, and the port that stands for each.
DULY, PAGE, SITE = ":8000", ":3000", "https://app.example.com"


@dataclass(frozen=True, slots=True)
class Snippet:
    """One fenced block; `how` is what the comment above it says, empty when there is none."""

    line: int
    language: str
    how: str
    text: str

    @property
    def file(self) -> str:
        """The name in its first line, as in `// lib/client.js`; empty when there is none."""
        found = re.match(r"// (\S+\.m?js)\n", self.text)
        return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class Places:
    """The ports of servers that run, in place of those in the guide."""

    duly: int
    page: int = 0
    edge: int = 0

    def put_into(self, text: str) -> str:
        """The text with each address of the guide replaced."""
        text = text.replace(SITE, f"http://localhost:{self.edge}").replace("app.example.com", "localhost")
        return re.sub(r"(?<=[a-z1]):(8000|3000)\b", lambda found: f":{self._port(found[1])}", text)

    def _port(self, written: str) -> int:
        return self.duly if written == "8000" else self.page


def read_guide(text: str) -> list[Snippet]:
    """Every fenced block, in order."""
    found: list[Snippet] = []
    lines = iter(enumerate(text.splitlines(), 1))
    above = ""
    for number, line in lines:
        if line.startswith("```"):
            body = "".join(f"{inner}\n" for inner in _until_fence(lines))
            how = _RUN.fullmatch(above)
            found.append(Snippet(number, line[3:], how[1] if how else "", body))
        above = line
    return found


def _until_fence(lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    for _, line in lines:
        if line == "```":
            return
        yield line


SNIPPETS = read_guide(GUIDE.read_text(encoding="utf-8"))


def snippet(how: str) -> Snippet:
    """The one that is run so."""
    [found] = [snippet for snippet in SNIPPETS if snippet.how == how]
    return found


def settings_of(name: str, places: Places | None = None) -> dict[str, str]:
    """The settings of a block `env NAME`, as `.env` would be read."""
    text = snippet(f"env {name}").text
    values = dotenv_values(stream=StringIO(places.put_into(text) if places else text))
    return {key: value for key, value in values.items() if value is not None}


def write_modules(folder: Path, places: Places) -> None:
    """Write each module under its name, and the packages that they import beside them.

    `@/` is the folder itself, as Next.js has it.
    """
    for found in SNIPPETS:
        if found.file:
            path = folder / found.file
            path.parent.mkdir(parents=True, exist_ok=True)
            text = places.put_into(found.text)
            path.write_text(re.sub(r'"@/([\w/-]+)"', rf'"{folder.as_uri()}/\1.js"', text), encoding="utf-8")
    shutil.copytree(RUNNERS / "yours", folder, dirs_exist_ok=True)
    installed = running.FOLDER / "node_modules"
    packages = folder / "node_modules"
    packages.mkdir()
    for name in ("better-auth", "jose"):
        (packages / name).symlink_to(installed / name)
    (packages / "expo-secure-store").symlink_to(folder / "expo-secure-store")
    (folder / "package.json").write_text('{"type": "module"}')


def node() -> str:
    """The program; the packages are installed. Without it the test is skipped, or fails in CI."""
    # The one place that installs them and says what is missing.
    return running.installed()


def run_module(runner: str, folder: Path, **environ: str) -> None:
    """Run one of the runners here over the modules in `folder`; it exits with 0 when all is as the guide says."""
    program = node()
    # Before 22 Node has the WebSocket of browsers behind a switch.
    has_socket = _run([program, "-p", "typeof WebSocket"], {}).stdout.strip() == "function"
    switches = [] if has_socket else ["--experimental-websocket"]
    done = _run([program, "--no-warnings", *switches, str(RUNNERS / runner)], {"SNIPPETS": str(folder), **environ})
    assert done.returncode == 0, f"{runner}\n{done.stdout}\n{done.stderr}"


def _run(command: list[str], environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        command, env={**kept, **environ}, capture_output=True, text=True, timeout=SECONDS, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@contextmanager
def open_page(folder: Path, port: int, origin: str, secret: str) -> Iterator[None]:
    """The guide's route handlers on a port, as Next.js would serve them at `origin`."""
    environ = {"PATH": os.environ["PATH"], "BETTER_AUTH_URL": origin, "BETTER_AUTH_SECRET": secret}
    process = subprocess.Popen(
        [node(), str(RUNNERS / "page.mjs"), str(port)], env={**environ, "SNIPPETS": str(folder)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n", "the page's server ended; its error is above"
        yield
    finally:
        process.kill()
        process.communicate()


def ask(url: str, token: str, **options: str) -> httpx.Response:
    """One GET with a token."""
    return httpx.get(url, headers={"Authorization": f"Bearer {token}", **options}, timeout=60, trust_env=False)
