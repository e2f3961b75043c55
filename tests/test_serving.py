"""Duly as a process: the ways to start it, several workers, the orderly end, and what it does not start with."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw
import asyncpg
import httpx
import pytest

from tests.fixtures.application import PASSWORD
from tests.fixtures.server import ROOT, Server, StartServer, environment, free_port
from tests.fixtures.wire import wire_to

PATIENCE = 20.0  # seconds, for what takes a fraction of one
SECRET = "8Zr1vQ0nC3xT6mKp9Lw2Yb5Hd7Jf4GsA"
AS_IN_PRODUCTION = {"environment": "production", "secret_key": SECRET, "public_url": "https://tasks.example.com"}


def run(tmp_path: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """A command to its end, in an empty folder."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment(tmp_path, **settings), timeout=PATIENCE,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def sign_up(server: Server, email: str = "ann@example.com") -> dict[str, str]:
    """What signs the requests of a new person."""
    body = {"email": email, "password": PASSWORD}
    answer = httpx.post(f"{server.base_url}/api/v1/auth/register", json=body, trust_env=False)
    assert answer.status_code == 201, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def wait_for(what: Callable[[], bool]) -> None:
    """Until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.covers("A009", "A145", "A149", "B007", "C002", "D008", "D012")
@pytest.mark.covers("D086", "E012", "E086", "E087", "E088", "E089", "E090", "E103")
def test_every_way_to_start_it_starts_the_same(start_server: StartServer) -> None:
    port = free_port()
    commands = [
        ("-m", "duly", "serve"),
        (str(ROOT / "main.py"),),
        ("-m", "uvicorn", "main:app", "--app-dir", str(ROOT), "--port", str(port)),
    ]
    seen = []
    for command in commands:
        server = start_server(port if "uvicorn" in command else None, command)
        with httpx.Client(base_url=server.base_url, trust_env=False) as client:
            pages = [client.get(path) for path in ("/openapi.json", "/", "/docs", "/redoc")]
            assert [page.status_code for page in pages] == [200] * 4
            assert client.get("/api/v1/tasks", headers=sign_up(server, f"{len(seen)}@example.com")).status_code == 200
            assert client.get("/health").json()["checks"]["database"]["status"] == "healthy"
            seen.append([page.text for page in pages])
        # uvicorn on its own dies of the signal once all is finished; `duly serve` ends with 0, as supervisors expect.
        assert server.stop() == (-signal.SIGTERM if "uvicorn" in command else 0)
    assert seen == [seen[0]] * 3


@pytest.mark.covers("D117", "C141")
def test_each_start_says_what_was_checked_and_what_came_of_it(start_server: StartServer) -> None:
    redis = free_port()
    server = start_server(redis_url=f"redis://127.0.0.1:{redis}")
    lines = wait_for_lines(server, "Start-up check: ", 5)
    assert [line.split("Start-up check: ")[1] for line in lines] == [
        "settings: ok (development)",
        "database: ok (sqlite)",
        "redis: does not answer; /health tells when it does",
        "email: not configured",
        "files: ok (folder)",
    ]
    assert [" - WARNING - " in line for line in lines] == [False, False, True, False, False]


def wait_for_lines(server: Server, text: str, count: int) -> list[str]:
    """The lines of the log that hold `text`, once there are `count`; fewer if they do not come in ten seconds."""
    for _ in range(100):
        if len(found := [line for line in server.log().splitlines() if text in line]) >= count:
            break
        time.sleep(0.1)
    return found


def workers_of(server: Server) -> list[int]:
    """The serving processes below a supervising one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == server.process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def statuses(server: Server, path: str, headers: dict[str, str], count: int = 24) -> set[int]:
    """What this many clients get, each on a connection of its own, so that every worker is asked."""
    with ThreadPoolExecutor(8) as pool:
        ask = lambda _: httpx.get(server.base_url + path, headers=headers, trust_env=False).status_code  # noqa: E731
        return set(pool.map(ask, range(count)))


@pytest.mark.covers("A032", "B046")
def test_two_workers_serve_together_on_postgresql_and_one_on_sqlite(
    start_server: StartServer, database_url: str, dialect: str
) -> None:
    server = start_server(database_url=database_url, web_concurrency=2)
    headers = sign_up(server)
    assert statuses(server, "/api/v1/auth/me", headers) == {200}
    if dialect == "sqlite":
        assert "SQLite has one writer, so one worker serves" in server.log()
        assert workers_of(server) == []
        assert server.stop() == 0
        return
    before = workers_of(server)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: len(workers_of(server)) == 2 and before[0] not in workers_of(server))
    wait_for(lambda: statuses(server, "/api/v1/auth/me", headers) == {200})
    httpx.post(f"{server.base_url}/api/v1/auth/logout", headers=headers, trust_env=False)
    # The other worker hears of it from the database.
    wait_for(lambda: statuses(server, "/api/v1/auth/me", headers) == {401})
    assert server.stop() == 0
    wait_for(lambda: workers_of(server) == [])


LOGIN_HEAD = (
    b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n"
)


@contextlib.contextmanager
def write_lock(database_url: str) -> Iterator[None]:
    """Nobody else can write a task meanwhile."""
    if database_url.startswith("sqlite"):
        connection = apsw.Connection(database_url.removeprefix("sqlite:///"))
        connection.set_busy_timeout(4000)
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.close()
        return
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncpg.connect(database_url, timeout=5))
    loop.run_until_complete(server.execute("BEGIN; LOCK TABLE tasks IN EXCLUSIVE MODE"))
    yield
    loop.run_until_complete(server.close())
    loop.close()


def waits_for_the_lock(server: Server) -> bool:
    """Whether the request has come in and not gone out; the log says each."""
    return server.log().count("POST /api/v1/tasks") == 1


@pytest.mark.covers("A016", "B071", "B077", "E002", "E012")
def test_told_to_end_it_says_so_and_finishes_what_runs(start_server: StartServer, database_url: str) -> None:
    # Connections are taken for that long after the signal, and the balancer has to ask three times.
    server = start_server(database_url=database_url, log_format="json", drain_notice_seconds=5)
    headers = sign_up(server)
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=server.base_url, trust_env=False) as balancer,
    ):
        with write_lock(database_url):
            url = f"{server.base_url}/api/v1/tasks"
            running = pool.submit(httpx.post, url, json={"title": "a"}, headers=headers, timeout=30, trust_env=False)
            wait_for(lambda: waits_for_the_lock(server))
            assert balancer.get("/health/ready").status_code == 200
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: balancer.get("/health/ready").status_code == 503)
            assert balancer.get("/health/ready").json() == {"status": "draining"}
            assert balancer.get("/health/live").status_code == 200
            assert server.process.poll() is None
        answer = running.result(PATIENCE)
    assert (answer.status_code, answer.json()["title"]) == (201, "a")
    assert server.process.wait(PATIENCE) == 0
    again = start_server(database_url=database_url)
    listed = httpx.get(f"{again.base_url}/api/v1/tasks", headers=headers, trust_env=False).json()
    assert [task["id"] for task in listed["items"]] == [answer.json()["id"]]


def test_clients_that_never_finish_cannot_keep_it_from_ending(start_server: StartServer) -> None:
    server = start_server()
    address = urlsplit(server.base_url)
    halves = [b"", b"GET /heal", LOGIN_HEAD + b"{", LOGIN_HEAD + b'{"email":"a","password":"b"}' + LOGIN_HEAD]
    with contextlib.ExitStack() as stack:
        for half in halves:
            stuck = stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=5))
            stuck.sendall(half)
        wait_for(lambda: "POST /api/v1/auth/login - Status: 401" in server.log())
        assert server.stop() == 0


def test_a_second_server_on_the_port_says_which_port_and_ends(start_server: StartServer, tmp_path: Path) -> None:
    first = start_server()
    port = urlsplit(first.base_url).port
    second = run(tmp_path, "-m", "duly", "serve", port=port)
    assert (second.returncode, second.stdout) == (1, "")
    [line] = second.stderr.splitlines()
    assert line.startswith(f"duly: PORT: cannot listen on 127.0.0.1:{port} ")
    assert statuses(first, "/health/ready", {}, 1) == {200}


NOBODY = "postgresql://postgres:hunter2hunter2@127.0.0.1:1/duly"
FAULTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "weak": (
        {"environment": "production", "secret_key": "hunter2hunter2", "debug": True, "cors_origins": "*"},
        ["SECRET_KEY", "DEBUG", "CORS_ORIGINS", "PUBLIC_URL"],
    ),
    "a template's": ({**AS_IN_PRODUCTION, "secret_key": "hunter2hunter2-change-me-hunter2"}, ["SECRET_KEY"]),
    "missing": ({"environment": "staging"}, ["SECRET_KEY", "PUBLIC_URL"]),
    "misspelt": ({"duly_sekret_key": SECRET, "databse_url": "x", "duly_colour": "blue"},
                 ["DULY_SEKRET_KEY", "DULY_COLOUR", "DATABSE_URL"]),
    "contradictory": (
        {"database_url": "sqlite:///a.db", "neon_db_url": NOBODY, "jwt_expiration_hours": 1, "access_token_minutes": 5},
        ["DATABASE_URL", "JWT_EXPIRATION_HOURS"],
    ),
    "of the wrong kind": (
        {"port": "http", "log_level": "loud", "web_concurrency": 0, "trusted_issuers": "{", "bcrypt_rounds": 4},
        ["PORT", "WEB_CONCURRENCY", "BCRYPT_ROUNDS", "TRUSTED_ISSUERS", "LOG_LEVEL"],
    ),
    "of no use": (
        {"trusted_proxies": "here", "public_url": "tasks", "redis_url": "localhost", "local_accounts": False,
         "database_url": "mysql://root:hunter2hunter2@localhost/duly"},
        ["DATABASE_URL", "LOCAL_ACCOUNTS", "TRUSTED_PROXIES", "PUBLIC_URL", "REDIS_URL"],
    ),
    "unreachable": ({"database_url": NOBODY, "startup_timeout_seconds": 0.5}, ["DATABASE_URL"]),
    "not to be written": ({"data_dir": "/dev/null/duly"}, ["DATA_DIR"]),
    "in no file": ({"secret_key_file": "/nowhere/secret"}, ["SECRET_KEY_FILE"]),
    "given twice": ({"secret_key": SECRET, "secret_key_file": "/etc/hostname"}, ["SECRET_KEY_FILE"]),
}  # fmt: skip


def named(stderr: str) -> list[str]:
    """The setting that each line begins with."""
    lines = stderr.splitlines()
    assert all(line.startswith("duly: ") for line in lines), stderr
    return [line.removeprefix("duly: ").partition(":")[0].partition(" ")[0] for line in lines]


@pytest.mark.covers("A011", "A012", "B076", "B078", "C023", "C025", "C141", "D046")
@pytest.mark.covers("D047", "D048", "D120", "E117", "E118")
@pytest.mark.parametrize("what", FAULTS)
def test_it_does_not_start_with_a_setting_that_is(what: str, tmp_path: Path) -> None:
    settings, expected = FAULTS[what]
    ended = run(tmp_path, "-m", "duly", "serve", **{"port": free_port(), **settings})
    assert (ended.returncode, ended.stdout) == (1, "")
    assert sorted(named(ended.stderr)) == sorted(expected), ended.stderr
    assert "hunter2" not in ended.stderr


def test_under_another_server_it_names_its_faults_as_well(tmp_path: Path) -> None:
    settings, expected = FAULTS["of no use"]
    ended = run(tmp_path, "-m", "uvicorn", "main:app", "--app-dir", str(ROOT), "--port", str(free_port()), **settings)
    assert ended.returncode != 0
    assert sorted(named(ended.stderr)) == sorted(expected), ended.stderr


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Ann,\n" * 1000)
    settings = {"port": free_port(), "database_url": f"sqlite:///{path}", "startup_timeout_seconds": 0.5}
    ended = run(tmp_path, "-m", "duly", "serve", **settings)
    assert (ended.returncode, named(ended.stderr)) == (1, ["DATABASE_URL"])
    assert path.read_text() == "Dear Ann,\n" * 1000


@pytest.mark.covers("D012")
def test_without_migrating_itself_it_refuses_an_old_schema_until_it_is_new(
    start_server: StartServer, tmp_path: Path, empty_database_url: str
) -> None:
    settings = {"port": free_port(), "database_url": empty_database_url, "auto_migrate": False}
    refused = run(tmp_path, "-m", "duly", "serve", **settings)
    assert (refused.returncode, named(refused.stderr)) == (1, ["AUTO_MIGRATE"])
    assert "duly migrate upgrade" in refused.stderr
    assert run(tmp_path, "-m", "duly", "migrate", "upgrade", **settings).returncode == 0
    assert start_server(**settings).stop() == 0


@pytest.mark.covers("A010", "A011", "A111", "B009", "C003", "C022", "C024")
@pytest.mark.covers("D027", "D109", "D114", "E006", "E009", "E109", "E119")
def test_settings_come_from_the_environment_then_mounted_files_then_the_env_file(
    start_server: StartServer, tmp_path: Path
) -> None:
    (tmp_path / "mounted").write_text(f"{SECRET}\n")
    (tmp_path / ".env").write_text(
        "ENVIRONMENT=production\nPUBLIC_URL=https://tasks.example.com\nSECRET_KEY=short\nDOCS_ENABLED=false\nLOG_LEVEL=error\n"
    )
    server = start_server(secret_key_file=tmp_path / "mounted", log_level="info")
    with httpx.Client(base_url=server.base_url, trust_env=False) as client:
        assert client.get("/health").json()["environment"] == "production"
        assert client.get("/docs").status_code == 404
        assert client.get("/").status_code == 200
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log().splitlines()]
    assert {"INFO"} == {line["level"] for line in lines}
    assert SECRET not in server.log()


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
async def test_it_waits_a_while_for_a_database_that_comes_up_later(
    start_server: StartServer, database_url: str
) -> None:
    async with wire_to(database_url) as (wire, url):
        wire.cut()
        starting = asyncio.create_task(asyncio.to_thread(start_server, database_url=url, startup_timeout_seconds=15))
        done, _ = await asyncio.wait({starting}, timeout=2)
        assert not done
        wire.mend()
        server = await starting
        assert await asyncio.to_thread(server.stop) == 0
