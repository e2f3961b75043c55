"""`duly serve` with TLS of its own: who is let in, what it speaks, and that every limit and the orderly end stay."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import connect

from duly.cli.certificates import check_certificate
from duly.operations.startup import check_settings
from duly.settings import SettingsFault, load_settings
from tests.authority import Authority
from tests.fixtures.application import PASSWORD
from tests.fixtures.server import Server, environment, free_port

PATIENCE = 30.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates that nobody renews meanwhile."""
    found = Authority(tmp_path_factory.mktemp("tls") / "made")
    found.make()
    return found


@contextlib.contextmanager
def serving(folder: Path, trust: ssl.SSLContext, *words: str, **settings: Any) -> Iterator[Server]:
    """`duly serve` as a process, once it is ready over https."""
    port = free_port()
    output = folder / f"server-{port}.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "duly", "serve", *words], cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env=environment(folder, port=port, **settings),
        )  # fmt: skip
    server = Server(process, f"https://localhost:{port}", output)
    try:
        wait_for(lambda: process.poll() is not None or is_ready(server, trust))
        assert process.poll() is None, server.log()
        yield server
    finally:
        server.kill()


def is_ready(server: Server, trust: ssl.SSLContext) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{server.base_url}/health/ready", verify=trust, trust_env=False).status_code == 200
    return False


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that lets in who has a certificate, and has few places."""
    folder = tmp_path_factory.mktemp("server")
    settings = {**authority.server_settings(), "max_connections": 16}
    with serving(folder, authority.client("nginx"), **settings) as running:
        yield running


def port_of(server: Server) -> int:
    return urlsplit(server.base_url).port or 0


def speak(server: Server, context: ssl.SSLContext, request: bytes = b"", seconds: float = PATIENCE) -> bytes:
    """Everything that is answered over TLS, until the server closes."""
    with (
        socket.create_connection(("localhost", port_of(server)), timeout=seconds) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wire,
    ):
        wire.sendall(request)
        answer = b""
        while piece := wire.recv(65536):
            answer += piece
        return answer


def refused(server: Server, context: ssl.SSLContext) -> bool:
    """With TLS 1.3 a client may take its handshake for done before the server has looked at its certificate."""
    try:
        return speak(server, context, CLOSING) == b""
    except (ssl.SSLError, ConnectionError):
        return True


CLOSING = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def test_who_has_a_certificate_of_the_authority_is_answered_over_tls_alone(
    server: Server, authority: Authority
) -> None:
    with httpx.Client(base_url=server.base_url, verify=authority.client("nginx"), trust_env=False) as client:
        body = {"email": "ann@example.com", "password": PASSWORD}
        answer = client.post("/api/v1/auth/register", json=body)
        assert answer.status_code == 201, answer.text
        assert "max-age" in answer.headers["strict-transport-security"]
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        assert client.post("/api/v1/tasks", json={"title": "Over TLS"}).status_code == 201
        assert client.get("/api/v1/tasks").json()["total"] == 1
    assert speak(server, authority.client("prometheus"), CLOSING).startswith(b"HTTP/1.1 200")
    assert f"https://127.0.0.1:{port_of(server)}" in server.log()
    assert "http://" not in server.log()


def test_nobody_else_is_answered(server: Server, authority: Authority, tmp_path: Path) -> None:
    assert refused(server, authority.client(None))
    stranger = Authority(tmp_path / "stranger")
    stranger.make("--only", "nginx")
    context = authority.client(None)
    context.load_cert_chain(*stranger.pair("nginx"))
    assert refused(server, context)
    with socket.create_connection(("localhost", port_of(server)), timeout=PATIENCE) as plain:
        plain.sendall(CLOSING)
        assert b"HTTP" not in plain.recv(65536)


def test_old_versions_and_weak_ciphers_are_refused(server: Server, authority: Authority) -> None:
    context = authority.client("nginx")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert speak(server, context, CLOSING).startswith(b"HTTP/1.1 200")
    context.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    assert refused(server, context)
    older = authority.client("nginx")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        older.minimum_version = older.maximum_version = ssl.TLSVersion.TLSv1_1
    older.set_ciphers("ALL:@SECLEVEL=0")
    assert refused(server, older)


def test_who_says_nothing_holds_no_place_that_another_needs(server: Server, authority: Authority) -> None:
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("localhost", port_of(server)), timeout=PATIENCE))
            for _ in range(16)
        ]
        # All places are taken before a single handshake was made; whoever owes one for a moment makes room.
        wait_for(lambda: is_ready(server, authority.client("nginx")))
        left = [wire for wire in silent if not is_closed(wire)]
        assert len(left) < 16
        assert is_ready(server, authority.client("nginx"))


def is_closed(wire: socket.socket) -> bool:
    wire.setblocking(False)
    try:
        return wire.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_a_head_that_is_too_large_is_refused(server: Server, authority: Authority) -> None:
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"a" * 70_000
    with contextlib.suppress(ssl.SSLError, ConnectionError):  # it may be told before all of it was sent
        assert b"HEAD_TOO_LARGE" in speak(server, authority.client("nginx"), head)


async def test_a_websocket_and_its_end(server: Server, authority: Authority) -> None:
    url = f"wss://localhost:{port_of(server)}/api/v1/ws"
    async with connect(url, ssl=authority.client("nginx"), proxy=None) as wire:
        await wire.send("{}")
        with contextlib.suppress(Exception):
            await asyncio.wait_for(wire.recv(), PATIENCE)
        await wire.close()
    assert is_ready(server, authority.client("nginx"))


def health(folder: Path, *words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "duly.cli.checking", *words], cwd=folder, env=environment(folder, **settings),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def test_health_asks_it_by_the_certificate_of_its_settings(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    given = authority.server_settings()
    asked = health(tmp_path, port=port_of(server), host="0.0.0.0", **given)  # noqa: S104 - what an image is set to
    assert (asked.returncode, asked.stdout) == (0, f"https://127.0.0.1:{port_of(server)} is ready.\n"), asked.stderr
    other = Authority(tmp_path / "other")
    other.make("--only", "duly")
    refused = health(tmp_path, port=port_of(server), **other.server_settings())
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    missing = health(tmp_path, port=port_of(server), **{**given, "tls_private_key": tmp_path / "nothing"})
    assert missing.stderr.startswith("duly: TLS_PRIVATE_KEY: cannot read "), missing.stderr


def test_a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    authority.make("--only", "duly")
    with serving(tmp_path, authority.client(None), **authority.server_settings(clients=False)) as server:
        first = ssl.get_server_certificate(("localhost", port_of(server)))
        assert first == authority.file("duly", "tls.crt").read_text()
        key = authority.file("duly", "tls.key")
        before = key.read_bytes()
        key.unlink()
        key.write_text("half of a key")
        time.sleep(1.1)  # it looks once in a second
        assert ssl.get_server_certificate(("localhost", port_of(server))) == first
        key.write_bytes(before)
        authority.make("--only", "duly", "--renew")
        second = authority.file("duly", "tls.crt").read_text()
        assert second != first
        wait_for(lambda: ssl.get_server_certificate(("localhost", port_of(server))) == second)
        assert "The certificate that was loaded stays in use" in server.log()
        assert server.stop() == 0


FAULTS = {
    "TLS_PRIVATE_KEY: is missing beside TLS_CERTIFICATE": {"tls_certificate": "CERT"},
    "TLS_CERTIFICATE: is missing beside TLS_PRIVATE_KEY": {"tls_private_key": "KEY"},
    "TLS_CLIENT_CA: needs TLS_CERTIFICATE and TLS_PRIVATE_KEY": {"tls_client_ca": "CA"},
    "TLS_CERTIFICATE: cannot read ": {"tls_certificate": "nothing.pem", "tls_private_key": "KEY"},
    "TLS_PRIVATE_KEY: cannot read ": {"tls_certificate": "CERT", "tls_private_key": "nothing.pem"},
    "TLS_CLIENT_CA: cannot read ": {"tls_certificate": "CERT", "tls_private_key": "KEY", "tls_client_ca": "nothing"},
    "TLS_CLIENT_CA: KEY holds no certificate": {
        "tls_certificate": "CERT", "tls_private_key": "KEY", "tls_client_ca": "KEY",
    },
    "TLS_CERTIFICATE: CERT and the TLS_PRIVATE_KEY OTHER are no certificate and its key": {
        "tls_certificate": "CERT", "tls_private_key": "OTHER",
    },
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_shown_is_named(fault: str, authority: Authority) -> None:
    files = dict(zip(("CERT", "KEY"), map(str, authority.pair("duly")), strict=True))
    files |= {"CA": str(authority.file("duly", "ca.crt")), "OTHER": str(authority.file("redis", "tls.key"))}
    given = {name: files.get(value, value) for name, value in FAULTS[fault].items()}
    with pytest.raises(SettingsFault) as refusal:
        check_certificate(load_settings(_env_file=None, **given))
    for word, path in files.items():
        fault = fault.replace(f" {word} ", f" {path} ")
    assert str(refusal.value).startswith(fault)
    assert len(refusal.value.faults) == 1


def test_nothing_is_served_with_a_certificate_that_cannot_be_shown(authority: Authority, tmp_path: Path) -> None:
    given = {**authority.server_settings(), "tls_private_key": authority.file("redis", "tls.key")}
    done = subprocess.run(
        [sys.executable, "-m", "duly", "serve"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
        check=False, env=environment(tmp_path, port=free_port(), **given),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("duly: TLS_CERTIFICATE: "), done.stderr


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_two_workers_share_one_address_and_end_in_order(
    authority: Authority, tmp_path: Path, empty_database_url: str
) -> None:
    settings = {**authority.server_settings(), "database_url": empty_database_url}
    with serving(tmp_path, authority.client("nginx"), "--workers", "2", **settings) as server:
        silent = socket.create_connection(("localhost", port_of(server)), timeout=PATIENCE)
        assert speak(server, authority.client("nginx"), CLOSING).startswith(b"HTTP/1.1 200")
        assert server.stop() == 0
        silent.close()
    assert "Traceback" not in server.log()


def test_the_script_renews_what_ages_and_keeps_the_rest(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    said = authority.make("--dry-run")
    assert not (authority.folder / "authority").exists()
    assert said.count("would run") == 13
    authority.make("--days", "30")
    kept = {service: authority.file(service, "tls.crt").read_bytes() for service in ("duly", "redis")}
    assert authority.make("--days", "30").count("still good") == 6
    # Of thirty days less than a third is left of one that was made for nine.
    authority.make("--only", "duly", "--renew", "--days", "9")
    shorter = authority.file("duly", "tls.crt").read_bytes()
    authority.make("--days", "30")
    assert authority.file("duly", "tls.crt").read_bytes() not in (kept["duly"], shorter)
    assert authority.file("redis", "tls.crt").read_bytes() == kept["redis"]
    shutil.rmtree(authority.folder / "authority")
    authority.make()
    assert authority.file("redis", "tls.crt").read_bytes() != kept["redis"], "another authority"
    assert authority.file("duly", "tls.key").stat().st_mode & 0o777 == 0o400
    assert (authority.folder / "authority" / "ca.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "url", "fault"),
    [
        ("database_url", "postgresql://u@h/d?sslmode=verify-full&sslcert=/no/crt&sslkey=/no/key",
         "DATABASE_URL: sslcert: cannot read /no/crt"),
        ("redis_url", "rediss://h:6379/0?ssl_certfile=/no/crt", "REDIS_URL: ssl_certfile: cannot read /no/crt"),
    ],
)  # fmt: skip
def test_a_certificate_for_the_stores_that_is_missing_is_named_at_the_start(
    name: str, url: str, fault: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsFault) as refusal:
        check_settings(load_settings(_env_file=None, data_dir=tmp_path, **{name: url}))
    [said] = refusal.value.faults
    assert said.startswith(fault)
