"""nginx as it ships, before two servers: what it answers itself, what it passes on, and how it speaks TLS."""

import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.edges import PATHS, Edge, open_edge
from tests.fixtures.application import PASSWORD
from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import ROOT, free_port
from tests.live_clients import EventReader, SocketReader
from tests.replicas import Pair, open_pair, sign_up

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
SECURITY = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-permitted-cross-domain-policies": "none",
}
HSTS = "max-age=31536000; includeSubDomains"
MiB = 1024**2


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Limits are on, and far away but for logins."""
    limits = {f"rate_limit_{kind}": "100000/minute" for kind in ("anonymous", "user", "register", "refresh", "mail")}
    limits |= {"rate_limit_enabled": "true", "rate_limit_login": "3/hour"}
    folder = tmp_path_factory.mktemp("pair")
    with open_pair(request, folder, **limits, files_dir=folder / "files") as servers:
        yield servers


@pytest.fixture(scope="module")
def edge(pair: Pair) -> Iterator[Edge]:
    """The proxy before the two."""
    with open_edge(pair.folder / "edge", pair.ports) as running:
        yield running


class Answer:
    """An answer as it came over the wire: names in lower case, each value of each."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        assert first.startswith("HTTP/1.1 "), raw[:300]
        self.status = int(first.split()[1])
        self.headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(":")
            self.headers.setdefault(name.lower(), []).append(value.strip())


def assert_dressed(answer: Answer, *, secure: bool = True) -> None:
    """Each security header once, and an id; nothing says more of the server than its name."""
    found = {name: answer.headers.get(name) for name in SECURITY}
    assert found == {name: [value] for name, value in SECURITY.items()}
    assert answer.headers.get("strict-transport-security") == ([HSTS] if secure else None)
    assert answer.headers["cache-control"] == ["no-store"]
    [request_id] = answer.headers["x-request-id"]
    assert UUID4.fullmatch(request_id)
    assert answer.headers["server"] == ["nginx"]


HEAD = b"Host: localhost\r\nConnection: close\r\n"
# The request, and the status, code and instance of the answer.
REFUSALS: dict[str, tuple[bytes, int, str, str]] = {
    "no HTTP": (b"GARBAGE\r\n\r\n", 400, "MALFORMED_REQUEST", ""),
    "no host": (b"GET /a HTTP/1.1\r\n\r\n", 400, "MALFORMED_REQUEST", "/a"),
    "two hosts": (b"GET /a HTTP/1.1\r\nHost: localhost\r\n" + HEAD + b"\r\n", 400, "MALFORMED_REQUEST", "/a"),
    "NUL in the path": (b"GET /%00 HTTP/1.1\r\n" + HEAD + b"\r\n", 400, "MALFORMED_REQUEST", ""),
    "above the root": (b"GET /../../etc/passwd HTTP/1.1\r\n" + HEAD + b"\r\n", 400, "MALFORMED_REQUEST", ""),
    "a name that is none": (b"GET /a HTTP/1.1\r\n" + HEAD + b"a b: c\r\n\r\n", 400, "MALFORMED_REQUEST", "/a"),
    "two lengths": (
        b"POST /a HTTP/1.1\r\n" + HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400, "MALFORMED_REQUEST", "/a",
    ),
    "figures": (b"GET /metrics?secret=1 HTTP/1.1\r\n" + HEAD + b"\r\n", 404, "NOT_FOUND", "/metrics"),
    "figures, twisted": (b"GET //%6detrics/ HTTP/1.1\r\n" + HEAD + b"\r\n", 404, "NOT_FOUND", "//%6detrics/"),
    "the page of refusals": (b"GET /.duly/problem HTTP/1.1\r\n" + HEAD + b"\r\n", 404, "NOT_FOUND", "/.duly/problem"),
    "a method": (b"TRACE /a HTTP/1.1\r\n" + HEAD + b"\r\n", 405, "METHOD_NOT_ALLOWED", "/a"),
    "a large body": (
        b"POST /api/v1/tasks HTTP/1.1\r\n" + HEAD + b"Content-Length: 3000000\r\n\r\n",
        413, "BODY_TOO_LARGE", "/api/v1/tasks",
    ),
    "a large upload": (
        b"POST /api/v1/tasks/1/attachments HTTP/1.1\r\n" + HEAD + b"Content-Length: 40000000\r\n\r\n",
        413, "BODY_TOO_LARGE", "/api/v1/tasks/1/attachments",
    ),
    "a long address": (b"GET /" + b"a" * 17000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n", 414, "URI_TOO_LONG", ""),
    "another's host": (b"GET /a?b HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 421, "BAD_HOST", "/a"),
    "another's address": (b"GET https://evil.example/a HTTP/1.1\r\n" + HEAD + b"\r\n", 421, "BAD_HOST", "/a"),
    "a long header": (b"GET /a HTTP/1.1\r\n" + HEAD + b"X: " + b"a" * 17000 + b"\r\n\r\n", 431, "HEAD_TOO_LARGE", "/a"),
    "many headers": (
        b"GET /a HTTP/1.1\r\n" + HEAD + b"".join(b"X%d: %s\r\n" % (n, b"a" * 8000) for n in range(10)) + b"\r\n",
        431, "HEAD_TOO_LARGE", "/a",
    ),
    "a coding": (b"POST /a HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501, "NOT_IMPLEMENTED", "/a"),
    "a version": (b"GET /a HTTP/3.0\r\n" + HEAD + b"\r\n", 505, "NOT_HTTP", ""),
}  # fmt: skip


def assert_problem(answer: Answer, status: int, code: str, instance: str) -> None:
    """A problem as Duly's own, which says nothing of what was sent but the path."""
    problem = json.loads(answer.body)
    assert answer.headers["content-type"] == ["application/problem+json"]
    assert (answer.status, problem["status"], problem["code"], problem["instance"]) == (status, status, code, instance)
    assert problem["type"] == f"urn:duly:problem:{code.lower().replace('_', '-')}"
    assert problem["request_id"] == answer.headers["x-request-id"][0]
    assert problem.keys() == {"type", "title", "status", "detail", "instance", "code", "request_id"}


@pytest.mark.covers("A132", "D026", "D129")
@pytest.mark.parametrize("what", REFUSALS)
def test_it_refuses_in_the_form_of_every_other_refusal(edge: Edge, what: str) -> None:
    request, status, code, instance = REFUSALS[what]
    # A body that was announced and does not come is waited for, behind the answer.
    answer = Answer(edge.raw(request, wait=1))
    assert_problem(answer, status, code, instance)
    assert_dressed(answer)


@pytest.mark.covers("D023", "D026", "E120")
def test_plain_http_leads_to_https_and_says_so_with_the_same_headers(edge: Edge) -> None:
    answer = Answer(edge.raw(b"POST /a/b?c=d HTTP/1.1\r\n" + HEAD + b"\r\n", plain=True))
    assert (answer.status, answer.headers["location"]) == (308, [f"{edge.base_url}/a/b?c=d"])
    assert_dressed(answer, secure=False)
    program = Answer(edge.raw(b"GET /api/v1/tasks HTTP/1.1\r\n" + HEAD + b"\r\n", plain=True))
    assert_problem(program, 400, "MALFORMED_REQUEST", "/api/v1/tasks")
    assert_dressed(program, secure=False)
    strange = Answer(edge.raw(b"GET /a HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", plain=True))
    assert_problem(strange, 421, "BAD_HOST", "/a")
    assert_dressed(strange, secure=False)
    with socket.create_connection(("127.0.0.1", edge.https_port), timeout=5) as connection:
        connection.sendall(b"GET /a HTTP/1.1\r\n" + HEAD + b"\r\n")
        plain = Answer(connection.recv(65536))
    assert_problem(plain, 400, "MALFORMED_REQUEST", "/a")


@pytest.mark.covers("D022", "D130", "D121", "E120", "E122")
def test_documentation_and_health_are_served_with_a_certificate_that_verifies(edge: Edge) -> None:
    with edge.client() as client:
        assert client.get("/docs").status_code == 200
        assert client.get("/health").json()["status"] == "healthy"
        assert client.get("/health/ready").status_code == 200
    with httpx.Client(verify=True, trust_env=False) as stranger, pytest.raises(httpx.ConnectError):
        stranger.get(edge.base_url)
    alive = httpx.get(f"http://127.0.0.1:{edge.http_port}/edge/health", trust_env=False)
    assert alive.json() == {"status": "alive"}


# What https://github.com/mdn/mdn-http-observatory adds to 100 for what is found, for an answer without cookies, scripts
# and cross-origin rules. Nothing here takes points away.
SCORES = {
    "content-security-policy": lambda value: 10 if "default-src 'none'" in value and "unsafe" not in value else 0,
    "x-frame-options": lambda value: 5 if value == "DENY" else -20,
    "referrer-policy": lambda value: 5 if value == "no-referrer" else -5,
    "cross-origin-resource-policy": lambda value: 10 if value == "same-origin" else 0,
    "x-content-type-options": lambda value: 0 if value == "nosniff" else -5,
    "strict-transport-security": lambda value: 0 if int(value.split("=")[1].split(";")[0]) >= 15768000 else -10,
}


@pytest.mark.covers("A132", "D026")
@pytest.mark.parametrize("path", ["/", "/health", "/nothing", "/metrics", "/api/v1/tasks"])
def test_the_headers_are_worth_130_points_of_the_observatory_and_stand_once(edge: Edge, path: str) -> None:
    answer = Answer(edge.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()))
    assert_dressed(answer)
    assert "set-cookie" not in answer.headers
    assert 100 + sum(score(answer.headers[name][0]) for name, score in SCORES.items()) >= 125


def logs_of(pair: Pair) -> str:
    return "".join((pair.place(port) / "log").read_text() for port in pair.ports)


def test_one_id_is_in_both_logs_and_in_the_answer(edge: Edge, pair: Pair) -> None:
    given = "6f1c2d4e-1111-4222-8333-444455556666"
    with edge.client() as client:
        made = client.get("/api/v1/tasks?token=hidden").headers["x-request-id"]
        assert UUID4.fullmatch(made)
        assert client.get("/health/live", headers={"X-Request-ID": given}).headers["x-request-id"] == given
        replaced = client.get("/health/live", headers={"X-Request-ID": "a" * 32}).headers["x-request-id"]
        assert UUID4.fullmatch(replaced)
    lines: dict[str, dict[str, object]] = {}
    deadline = time.monotonic() + 20  # nginx too writes a line behind the answer
    while not {made, given, replaced} <= lines.keys():
        assert time.monotonic() < deadline, edge.log()[-1000:]
        whole = edge.log().rpartition("\n")[0]
        lines = {line["request_id"]: line for line in map(json.loads, whole.splitlines())}
    assert (lines[made]["path"], lines[made]["status"], lines[made]["client"]) == ("/api/v1/tasks", 401, "127.0.0.1")
    assert "hidden" not in edge.log()
    deadline = time.monotonic() + 20
    while missing := [known for known in (made, given, replaced) if f"[{known[:8]}]" not in logs_of(pair)]:
        assert time.monotonic() < deadline, (missing, logs_of(pair)[-1000:])
        time.sleep(0.05)


def addresses_of_sessions(client: httpx.Client) -> list[str]:
    """As the person is told."""
    return [session["ip_address"] for session in client.get("/api/v1/auth/sessions").json()["items"]]


def test_what_a_stranger_says_about_addresses_counts_for_nothing(edge: Edge) -> None:
    forged = {"X-Forwarded-For": "203.0.113.5", "Forwarded": "for=203.0.113.5", "X-Real-IP": "203.0.113.5"}
    with edge.client("127.0.0.9", headers=forged) as client:
        body = {"email": "forger@example.com", "password": PASSWORD}
        token = client.post("/api/v1/auth/register", json=body).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        assert addresses_of_sessions(client) == ["127.0.0.9"]
    statuses = []
    for number in range(8):
        # Two servers count three logins each; a new address in each request would never be at its end.
        with edge.client("127.0.0.9", headers={"X-Forwarded-For": f"203.0.113.{number}"}) as client:
            statuses.append(client.post("/api/v1/auth/login", json={"identifier": "x", "password": "y"}).status_code)
    assert statuses[-1] == 429
    with edge.client("127.0.0.10") as client:
        assert client.post("/api/v1/auth/login", json={"identifier": "x", "password": "y"}).status_code == 401


def test_over_ipv6_it_is_the_same(edge: Edge) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    body = json.dumps({"email": "six@example.com", "password": PASSWORD}).encode()
    head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    registered = Answer(edge.raw(b"POST /api/v1/auth/register HTTP/1.1\r\n" + HEAD + head + body, address="::1"))
    assert registered.status == 201, registered.body
    headers = {"Authorization": f"Bearer {json.loads(registered.body)['access_token']}"}
    with edge.client(headers=headers) as client:
        assert addresses_of_sessions(client) == ["::1"]


def test_one_address_holds_so_many_requests_at_once_and_no_more(edge: Edge) -> None:
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    with contextlib.ExitStack() as stack:
        context = edge.trust()
        for _ in range(256):
            wire = stack.enter_context(
                socket.create_connection(("127.0.0.1", edge.https_port), 10, source_address=("127.0.0.7", 0))
            )
            held = stack.enter_context(context.wrap_socket(wire, server_hostname="localhost"))
            held.sendall(head)
        with edge.client("127.0.0.7") as client:
            deadline = time.monotonic() + 10
            # Several processes of nginx count together, and one of them may not have read the last head yet.
            while (refused := client.get("/health/live")).status_code == 200:
                assert time.monotonic() < deadline
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["code"] == "RATE_LIMITED"
        with edge.client("127.0.0.8") as client:
            assert client.get("/health/live").status_code == 200


@pytest.mark.covers("D129")
def test_files_of_the_largest_size_pass_and_larger_ones_do_not(edge: Edge) -> None:
    with edge.client(headers=sign_up(edge)) as client:
        task = client.post("/api/v1/tasks", json={"title": "files"}).json()
        path = f"/api/v1/tasks/{task['id']}/attachments"
        content = os.urandom(25 * MiB)
        stored = client.post(path, files={"file": ("a.bin", io.BytesIO(content))})
        assert stored.status_code == 201, stored.text
        assert client.get(f"{path}/{stored.json()['id']}").content == content
        larger = client.post(path, files={"file": ("a.bin", io.BytesIO(content + b"!"))})
        assert (larger.status_code, larger.headers["content-type"]) == (413, "application/problem+json")
        # Duly itself refuses what is a little too large, in the form of the contract that was asked.
        body = b'{"title": "' + b"a" * MiB + b'"}'
        owned = client.post(f"/api/{task['user_id']}/tasks", content=body, headers={"Content-Type": "application/json"})
        assert (owned.status_code, owned.json()["success"]) == (413, False)


class Listener:
    """One person's streams through the proxy, open until the block of `stack` ends."""

    def __init__(self, edge: Edge, stack: contextlib.AsyncExitStack, client: httpx.AsyncClient) -> None:
        self._edge, self._stack, self._client = edge, stack, client

    async def follow(self, since: str | None = None) -> EventReader:
        """Server-Sent Events, that are ready."""
        resumed = {"Last-Event-ID": since} if since else {}
        response = await self._stack.enter_async_context(self._client.stream("GET", "/api/v1/events", headers=resumed))
        assert response.status_code == 200
        reader = EventReader(response)
        ready = await reader.event()
        assert ready is not None
        reader.cursor = ready["id"]
        return reader

    async def listen(self) -> SocketReader:
        """A WebSocket that is ready."""
        url = self._edge.base_url.replace("https", "wss") + "/api/v1/ws"
        wire = await self._stack.enter_async_context(connect(url, ssl=self._edge.trust(), proxy=None))
        token = self._client.headers["Authorization"].removeprefix("Bearer ")
        await wire.send(json.dumps({"type": "auth", "token": token}))
        reader = SocketReader(wire)
        assert await reader.message() is not None
        return reader


async def test_events_arrive_at_once_and_go_on_at_the_other_server(edge: Edge, pair: Pair) -> None:
    headers = await asyncio.to_thread(sign_up, edge)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=edge.base_url, verify=edge.trust(), headers=headers, timeout=30)
        )
        streams = Listener(edge, stack, client)
        readers = [await open_stream() for open_stream in (streams.follow, streams.listen) * 2]
        task = (await client.post("/api/v1/tasks", json={"title": "heard"})).json()
        async with asyncio.timeout(5):
            changes = [await reader.next() for reader in readers]
        assert [change and change["task_id"] for change in changes] == [task["id"]] * 4
        # One server ends. Its streams say that they do, and whoever comes back goes on at the other.
        os.kill(pair.pid(pair.ports[0]), signal.SIGTERM)
        try:
            ended = []
            for reader in readers:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(3):
                        assert await reader.next() is None
                        ended.append(reader.ending)
            assert set(ended) <= {"SERVER_RESTARTS", "1012"}
            assert ended, "no stream was at the server that ended"
            assert changes[0] is not None
            again = [await streams.follow(changes[0]["cursor"]), await streams.listen()]
            later = (await client.post("/api/v1/tasks", json={"title": "later"})).json()
            async with asyncio.timeout(10):
                assert [((await reader.next()) or {}).get("task_id") for reader in again] == [later["id"]] * 2
        finally:
            await asyncio.to_thread(pair.run, pair.ports[0])
            await asyncio.to_thread(pair.wait, pair.ports[0])


def test_without_any_server_it_says_when_to_come_back(tmp_path: Path) -> None:
    with open_edge(tmp_path / "edge", [free_port(), free_port()]) as edge:
        answer = Answer(edge.raw(b"GET /api/v1/tasks?a HTTP/1.1\r\n" + HEAD + b"\r\n"))
        assert_problem(answer, 502, "UNAVAILABLE", "/api/v1/tasks")
        assert_dressed(answer)
        assert answer.headers["retry-after"] == ["1"]


def shake_hands(edge: Edge, *options: str, name: tuple[str, ...] = ("-servername", "localhost")) -> str:
    """What openssl says of a handshake."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{edge.https_port}", *name, *options],
        input=b"", capture_output=True, check=False, timeout=20,
    )  # fmt: skip
    return (done.stdout + done.stderr).decode("utf-8", "replace")


REFUSED = ("alert protocol version", "alert handshake failure", "unrecognized name")
WEAK = "ALL:COMPLEMENTOFALL:!TLSv1.3:!ECDHE+AESGCM:!ECDHE+CHACHA20@SECLEVEL=0"


@pytest.mark.covers("D024", "A132")
def test_tls_is_1_2_or_newer_with_forward_secrecy_and_for_known_names_alone(edge: Edge) -> None:
    for version in ("-tls1", "-tls1_1"):
        assert REFUSED[0] in shake_hands(edge, version, "-cipher", "ALL@SECLEVEL=0")
    assert REFUSED[1] in shake_hands(edge, "-tls1_2", "-cipher", WEAK)
    assert "Cipher is ECDHE-ECDSA-AES" in shake_hands(edge, "-tls1_2")
    assert "New, TLSv1.3, Cipher is TLS_" in shake_hands(edge, "-tls1_3", "-alpn", "h2")
    assert "ALPN protocol: h2" in shake_hands(edge, "-tls1_3", "-alpn", "h2")
    for name in (("-servername", "evil.example"), ("-noservername",)):
        assert REFUSED[2] in shake_hands(edge, name=name)


# What testssl says of a certificate that nobody signed, on a machine that no name server knows.
OF_THE_CERTIFICATE = {"cert_chain_of_trust", "cert_revocation"}


@pytest.mark.torture
@pytest.mark.covers("D024")
def test_testssl_finds_nothing_but_the_certificate_of_its_own_making(edge: Edge, tmp_path: Path) -> None:
    program = shutil.which("testssl")
    if program is None:
        skip_or_fail("testssl is needed: apt-get install testssl.sh")
    found = tmp_path / "found.json"
    words = ["--warnings", "off", "--quiet", "--color", "0", "--ip", "127.0.0.1", "--severity", "MEDIUM"]
    checks = ["-p", "-s", "-f", "-S", "-U"]
    subprocess.run([str(program), *words, *checks, "--jsonfile", found, edge.base_url], check=False, timeout=3600)
    graded = {"MEDIUM", "HIGH", "CRITICAL", "FATAL"}
    worse = {entry["id"] for entry in json.loads(found.read_text()) if entry["severity"] in graded}
    assert worse <= OF_THE_CERTIFICATE


@pytest.mark.covers("D024", "D129")
def test_the_configuration_is_clean(edge: Edge) -> None:
    tried = subprocess.run(
        [str(shutil.which("nginx", path=PATHS)), "-t", "-q", "-c", edge.configuration], capture_output=True, check=False
    )
    assert (tried.returncode, tried.stdout, tried.stderr) == (0, b"", b"")
    # The first server of a `listen` is its default: whole lines come from the site, so none can say it once more.
    gixy = [Path(sys.executable).parent / "gixy", "--skips", "default_server_flag", "-f", "json", edge.configuration]
    looked = subprocess.run(gixy, capture_output=True, check=False)
    assert (looked.returncode, json.loads(looked.stdout)) == (0, []), looked.stdout.decode()


def test_every_variable_of_the_template_is_explained() -> None:
    folder = ROOT / "deploy" / "nginx"
    templates = "".join(path.read_text() for path in (folder / "templates").iterdir())
    used = set(re.findall(r"\$\{(\w+)\}", templates))
    assert used == set(re.findall(r"`(EDGE_[A-Z_]+)`", (folder / "README.md").read_text()))
