"""`duly create-admin` as an operator runs it: a program with options, a password, an exit code and one line."""

import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.application import Api, StartApp
from tests.fixtures.server import environment, free_port
from tests.fixtures.stored import Stored

PASSWORD = "lighthouse-marmalade-7"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def create_admin(database_url: str, tmp_path: Path) -> Run:
    """Run the command with these options; `password` goes to standard input."""

    def run(
        *options: str, password: str | bytes = PASSWORD + "\n", **settings: Any
    ) -> subprocess.CompletedProcess[str]:
        typed = password.encode() if isinstance(password, str) else password
        done = subprocess.run(
            [sys.executable, "-m", "duly", "create-admin", *options], cwd=tmp_path, input=typed, capture_output=True,
            env=environment(tmp_path, **{"database_url": database_url, **settings}), timeout=60, check=False,
        )  # fmt: skip
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


async def role_of(api: Api, password: str = PASSWORD, **name: str) -> str:
    answer = await api.client.post("/api/v1/auth/login", json={"password": password, **name})
    assert answer.status_code == 200, answer.text
    person = api.person(answer.json(), "")
    role: str = (await person.get("/auth/me")).json()["role"]
    return role


@pytest.mark.covers("D011", "A034")
async def test_an_administrator_made_here_can_sign_in_by_address_and_name(
    create_admin: Run, start_app: StartApp, stored: Stored
) -> None:
    done = create_admin("--email", "Root@Example.com", "--username", "Root.1", "--password-stdin")
    account_id = await stored.value("SELECT id FROM users")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Administrator root@example.com created ({account_id}).\n"
    assert (await stored.value("SELECT hashed_password FROM users")).startswith("$argon2id$")
    recorded = await stored.rows("SELECT event, actor_id, target_id FROM audit_log")
    assert list(recorded) == [("admin.registered", None, account_id)]
    api = await start_app()
    assert await role_of(api, email="root@example.com") == "admin"
    assert await role_of(api, username="ROOT.1") == "admin"


async def test_the_hash_is_of_the_kind_that_is_set_and_the_line_end_no_part_of_the_password(
    create_admin: Run, start_app: StartApp, stored: Stored
) -> None:
    options = {"password_hasher": "bcrypt", "bcrypt_rounds": 10}
    assert (
        create_admin(
            "--email", "a@example.com", "--password-stdin", password="señal del faro\r\n", **options
        ).returncode
        == 0
    )
    assert (await stored.value("SELECT hashed_password FROM users")).startswith("$2b$10$")
    assert await role_of(await start_app(), "señal del faro", email="a@example.com") == "admin"


def test_the_database_is_made_where_there_is_none(create_admin: Run, empty_database_url: str) -> None:
    done = create_admin("--email", "root@example.com", "--password-stdin", database_url=empty_database_url)
    assert (done.returncode, done.stderr) == (0, "")
    again = create_admin("--email", "root@example.com", "--password-stdin", database_url=empty_database_url)
    assert again.returncode == 1


async def test_what_is_taken_is_refused_and_changed_nothing(create_admin: Run, api: Api, stored: Stored) -> None:
    await api.register("ann@example.com", username="ann-b")
    for options, word in (
        (("--email", "ANN@example.com"), "e-mail"),
        (("--email", "new@example.com", "--username", "Ann-B"), "username"),
    ):
        done = create_admin(*options, "--password-stdin")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("duly: ")
        assert done.stderr.count("\n") == 1
        assert word in done.stderr
    assert list(await stored.rows("SELECT email, role FROM users")) == [("ann@example.com", "user")]


@pytest.mark.parametrize(
    ("options", "password", "faults"),
    [
        (("--email", "root"), PASSWORD, ["email: "]), (("--email", ""), PASSWORD, ["email: "]),
        (("--email", "root@example.com", "--username", "x"), PASSWORD, ["username: "]),
        (("--email", "root@example.com"), "short", ["password: "]),
        (("--email", "root@example.com"), "", ["password: "]),
        (("--email", "root@example.com"), "root@example.com", ["password: "]),
        (("--email", "root@example.com"), "x" * 129, ["password: "]),
        (("--email", "root@example.com"), "sunshine1", ["password: "]),
        (("--email", "root@example.com"), "light\0house\x1b[A", ["password: "]),
        (("--email", "root@example.com"), b"light\xff\xfehouse", ["password: "]),
    ],
    ids=range(10),
)  # fmt: skip
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_wrong_value_is_one_line_that_says_what_to_do(
    create_admin: Run, stored: Stored, options: tuple[str, ...], password: str | bytes, faults: list[str]
) -> None:
    typed = password.encode() if isinstance(password, str) else password
    done = create_admin(*options, "--password-stdin", password=typed + b"\n")
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert len(lines) == len(faults)
    assert all(line.startswith(f"duly: {fault}") for line, fault in zip(lines, faults, strict=True))
    assert not typed or typed not in done.stderr.encode()
    assert await stored.value("SELECT count(*) FROM users") == 0


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_without_a_terminal_or_an_address_it_says_what_is_missing(create_admin: Run) -> None:
    done = create_admin("--email", "root@example.com")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--password-stdin" in done.stderr
    done = create_admin("--password-stdin")
    assert done.returncode == 2
    assert "--email" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_is_not_there_is_one_line(create_admin: Run, tmp_path: Path, dialect: str) -> None:
    url = f"postgresql://duly:canary-word@127.0.0.1:{free_port()}/duly"
    if dialect == "sqlite":
        (tmp_path / "file").write_text("no folder")
        url = f"sqlite:///{tmp_path}/file/duly.db"
    done = create_admin(
        "--email", "root@example.com", "--password-stdin", database_url=url, startup_timeout_seconds=0.3
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("duly: ")
    assert done.stderr.count("\n") == 1
    assert "canary" not in done.stderr


def on_a_terminal(command: list[str], tmp_path: Path, answers: list[str], **settings: Any) -> tuple[int, str]:
    """Run a program on a terminal of its own, answer each prompt as it comes, and give exit code and screen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=environment(tmp_path, **settings), close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    screen, waiting, deadline = "", list(answers), time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            piece = os.read(ours, 4096).decode()
        except OSError:
            break
        if not piece:
            break
        screen += piece
        if waiting and screen.rstrip().endswith(":") and screen.count(":") > len(answers) - len(waiting):
            os.write(ours, waiting.pop(0).encode() + b"\n")
    os.close(ours)
    return process.wait(30), screen


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_on_a_terminal_it_asks_twice_and_shows_nothing(
    start_app: StartApp, stored: Stored, database_url: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "duly", "create-admin", "--email", "root@example.com"]
    status, screen = on_a_terminal(command, tmp_path, [PASSWORD, PASSWORD + "x"], database_url=database_url)
    assert (status, "differ" in screen) == (1, True)
    assert await stored.value("SELECT count(*) FROM users") == 0
    status, screen = on_a_terminal(command, tmp_path, [PASSWORD, PASSWORD], database_url=database_url)
    assert (status, "Administrator root@example.com created" in screen) == (0, True)
    assert PASSWORD not in screen
    assert await role_of(await start_app(), email="root@example.com") == "admin"
