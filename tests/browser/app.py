"""The Next.js example, built once and started on free ports, with a Duly that trusts its Better Auth."""

import contextlib
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import ROOT, Server, environment, free_port, wait_until_ready

EXAMPLE = ROOT / "examples" / "nextjs"
SECRET = "the-secret-of-the-example-in-its-tests-0123456789"
PASSWORD = "tangerine-orbit-92"
BUILD_SECONDS = 1200
START_SECONDS = 120
LEAST_NODE = (20, 19)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who has signed up, and the cookies that say so."""

    name: str
    email: str
    cookies: list[Any]


@dataclass(slots=True)
class Example:
    """The running app and its Duly, which can be stopped and started again on the same port."""

    app_url: str
    duly_url: str
    folder: Path
    settings: dict[str, Any]
    duly: Server | None = None
    outputs: list[Path] = field(default_factory=list)

    def start_duly(self) -> None:
        """Start it, and wait until it is ready."""
        output = self.folder / f"duly-{len(self.outputs)}.log"
        self.outputs.append(output)
        with output.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "duly", "serve"], cwd=self.folder, stdout=log, stderr=log,
                start_new_session=True, env=environment(self.folder, **self.settings),
            )  # fmt: skip
        self.duly = Server(process, self.duly_url, output)
        wait_until_ready(self.duly)

    def kill_duly(self) -> None:
        """End it as a crash would."""
        if self.duly is not None:
            self.duly.kill()
            self.duly = None

    def sign_up(self, name: str = "Ann Example") -> Person:
        """A new account, made over HTTP from an address of its own, because Better Auth limits sign-ups from one."""
        number = next(_numbers)
        email = f"person-{os.getpid()}-{number}@example.com"
        answer = httpx.post(
            f"{self.app_url}/api/auth/sign-up/email", json={"name": name, "email": email, "password": PASSWORD},
            headers={"X-Forwarded-For": f"198.51.{number // 250}.{number % 250 + 1}"}, trust_env=False, timeout=60,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        cookies = [
            {"name": morsel.key, "value": morsel.value, "url": self.app_url, "httpOnly": True, "sameSite": "Lax"}
            for line in answer.headers.get_list("set-cookie")
            for morsel in SimpleCookie(line).values()
        ]
        return Person(name, email, cookies)

    def token(self, person: Person) -> str:
        """What the app gives this person's page for Duly."""
        answer = httpx.get(
            f"{self.app_url}/api/token", trust_env=False, timeout=60,
            cookies={cookie["name"]: cookie["value"] for cookie in person.cookies},
        )  # fmt: skip
        return str(answer.raise_for_status().json()["token"])

    def api(self, person: Person, method: str, path: str, **options: Any) -> httpx.Response:
        """A call of Duly as this person, past the browser."""
        headers = {"Authorization": f"Bearer {self.token(person)}", **options.pop("headers", {})}
        url = f"{self.duly_url}/api/v1{path}"
        return httpx.request(method, url, headers=headers, trust_env=False, timeout=60, **options)

    def add_task(self, person: Person, title: str, **fields: Any) -> dict[str, Any]:
        """A task of this person, made past the browser."""
        answer = self.api(person, "POST", "/tasks", json={"title": title, **fields})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())


@contextlib.contextmanager
def running_example(database_url: str, folder: Path, *, shared_folder: Path, tokens: str = "jwks") -> Iterator[Example]:
    """The app with a new database of accounts, and Duly on `database_url`, for as long as the block runs."""
    node = build_once(shared_folder)
    app_port, duly_port = free_port(), free_port()
    app_url, duly_url = f"http://127.0.0.1:{app_port}", f"http://127.0.0.1:{duly_port}"
    trusted = {"better_auth_secret": SECRET} if tokens == "hs256" else {}
    settings = {
        "port": duly_port, "database_url": database_url, "better_auth_url": app_url, "local_accounts": "false",
        "log_level": "warning", "attachment_max_bytes": 200_000, **trusted,
    }  # fmt: skip
    example = Example(app_url, duly_url, folder, settings)
    output = folder / "next.log"
    with output.open("wb") as log:
        app = subprocess.Popen(
            [node, "node_modules/next/dist/bin/next", "start", "-H", "127.0.0.1", "-p", str(app_port)],
            cwd=EXAMPLE, stdout=log, stderr=log, start_new_session=True,
            env={
                "PATH": os.environ["PATH"], "HOME": str(folder), "NODE_ENV": "production",
                "NEXT_TELEMETRY_DISABLED": "1", "BETTER_AUTH_URL": app_url, "BETTER_AUTH_SECRET": SECRET,
                "DULY_URL": duly_url, "DULY_TOKENS": tokens, "DATA_DIR": str(folder / "app"),
            },
        )  # fmt: skip
    try:
        example.start_duly()
        _wait_for_app(app, app_url, output)
        yield example
    finally:
        example.kill_duly()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(app.pid, signal.SIGKILL)
        app.wait(60)


def _wait_for_app(process: subprocess.Popen[bytes], url: str, output: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/sign-in", trust_env=False, timeout=60).status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail(f"the example did not start:\n{output.read_text()}")


def build_once(shared_folder: Path) -> str:
    """Build what has changed since the last run; the path of node.

    The processes of one run share `shared_folder`: none builds anew below the servers of another.
    """
    built = shared_folder / "example-built"
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        skip_or_fail("Node and npm are needed to build the example: https://nodejs.org")
    assert node is not None
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in version.lstrip("v").split(".")[:2]) < LEAST_NODE:
        skip_or_fail(f"Node {version} is too old for the example, which needs 20.19: https://nodejs.org")
    with (EXAMPLE / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if built.exists():
            return node
        done = subprocess.run(
            [node, "start.mjs", "--build"], cwd=EXAMPLE, capture_output=True, text=True, timeout=BUILD_SECONDS,
            check=False, env={**os.environ, "NEXT_TELEMETRY_DISABLED": "1"},
        )  # fmt: skip
        if done.returncode != 0 and "npm ci" in done.stderr:
            skip_or_fail(f"The packages of the example cannot be installed: {done.stderr[-500:]}")
        assert done.returncode == 0, f"the example does not build:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        built.touch()
    return node
