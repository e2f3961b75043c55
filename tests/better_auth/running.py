"""Runs the real better-auth server of this folder for a test: installed once, started on a free port, ended after."""

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import httpx
import pytest

FOLDER = Path(__file__).parent
SECRET = "a-secret-that-only-these-tests-ever-use"
PASSWORD = "correct horse battery staple"
INSTALL_SECONDS = 300
LEAST_NODE = 20


@dataclass(frozen=True, slots=True)
class SignUp:
    """What one sign-up yields: the JWT for a resource server, and the tokens that a resource server must refuse."""

    user_id: str
    jwt: str
    session_token: str
    session_cookie: str
    mailed_token: str


@dataclass(frozen=True, slots=True)
class BetterAuth:
    """A running server; `secret` is its BETTER_AUTH_SECRET."""

    origin: str
    secret: str

    def sign_up(self, email: str) -> str:
        """The JWT of a new user with this address."""
        return self.sign_up_fully(email).jwt

    def sign_up_fully(self, email: str) -> SignUp:
        """A new user with this address, and every token that came of it."""
        with httpx.Client(base_url=self.origin, timeout=30, trust_env=False) as client:
            body = {"name": email.partition("@")[0], "email": email, "password": PASSWORD}
            answer = client.post("/api/auth/sign-up/email", json=body, headers={"Origin": self.origin})
            answer.raise_for_status()
            cookies = dict(client.cookies)
            client.cookies.clear()
            session_token = answer.headers["set-auth-token"]
            return SignUp(
                user_id=answer.json()["user"]["id"],
                jwt=self.new_jwt(session_token),
                session_token=session_token,
                session_cookie=cookies.get("better-auth.session_data", ""),
                mailed_token=client.get("/mailed-token", params={"email": email}).text,
            )

    def new_jwt(self, session_token: str) -> str:
        """Another JWT for a session, signed with the newest key."""
        headers = {"Authorization": f"Bearer {session_token}"}
        answer = httpx.get(f"{self.origin}/api/auth/token", headers=headers, timeout=30, trust_env=False)
        answer.raise_for_status()
        token: str = answer.json()["token"]
        return token


def better_auth_server(
    *, rotation_seconds: int = 0, session_cookie: Literal["secret", "jwks"] = "secret"
) -> Iterator[BetterAuth]:
    """Start a server and end it afterwards; 0 never rotates its key.

    `session_cookie` says what signs its cached sessions. Without Node the test is skipped, or fails where CI=true.
    """
    node = installed()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BETTER_AUTH_")}
    process = subprocess.Popen(
        [node, "server.mjs", "0", str(rotation_seconds), session_cookie],
        cwd=FOLDER,
        env={**clean, "BETTER_AUTH_SECRET": SECRET},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, f"the better-auth server ended at start with exit code {process.wait()}; its error is above"
        yield BetterAuth(json.loads(line)["origin"], SECRET)
    finally:
        process.kill()
        process.communicate()


def installed() -> str:
    """The path of Node, with everything in this folder that the server needs."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        _give_up("node and npm are not found")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < LEAST_NODE:
        _give_up(f"node {version} is too old")
    # npm writes the stamp last; the Makefile goes by the same file and rule.
    wanted, stamp = FOLDER / "package-lock.json", FOLDER / "node_modules" / ".package-lock.json"
    with wanted.open() as lock:
        # Test workers in parallel must not install into one folder at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.stat().st_mtime < wanted.stat().st_mtime:
            _install(npm)
            stamp.touch()
    return node


def _install(npm: str) -> None:
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        _give_up(f"npm ci took longer than {INSTALL_SECONDS} s")
    if done.returncode != 0:
        _give_up(f"npm ci failed: {done.stderr.strip()[-500:]}")


def _give_up(fault: str) -> NoReturn:
    message = f"No better-auth server: {fault}. Install Node {LEAST_NODE} or later with npm from https://nodejs.org"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
