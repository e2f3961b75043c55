"""Each snippet of docs/integration.md is run against real servers: Duly, Better Auth, nginx, curl, Node and Python."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from duly.errors import Kind
from duly.identity.issuer_settings import issuers_from
from duly.settings import load_settings
from tests.better_auth.issuing import SigningKey, claims_for, jwks_server
from tests.better_auth.running import PASSWORD as SIGN_IN_PASSWORD
from tests.better_auth.running import BetterAuth, better_auth_server
from tests.edges import NGINX
from tests.fixtures.application import PASSWORD
from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import ROOT, StartServer, free_port
from tests.guide import guide
from tests.guide.guide import SNIPPETS, Places, Snippet, ask, open_page, read_guide, run_module, settings_of, snippet

BEHIND_BETTER_AUTH = ("better_auth.mjs", "tasks.mjs", "live.mjs", "rewrites.mjs")
OTHER_MODULES = ("hs256.mjs", "session.mjs", "native.mjs")
KINDS = {"bash": "sh", "nginx": "nginx", "python agents": "python"}
SECRET = "a-secret-that-only-the-guide's-tests-use"
PATIENCE = 60.0
NGINX_CONF = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {server}
}}
"""


def test_each_snippet_says_how_it_is_run_and_every_runner_has_one() -> None:
    ways = {"env": "sh", **{kind.partition(" ")[0]: language for kind, language in KINDS.items()}}
    for found in SNIPPETS:
        kind = found.how.partition(" ")[0]
        if kind.endswith(".mjs"):
            assert (guide.RUNNERS / kind).is_file(), found.line
            assert found.file, f"line {found.line}: the first line of a module is its name"
            assert found.language == "js", found.line
        else:
            assert ways.get(kind) == found.language, (
                f"line {found.line}: {found.how or 'no comment says how it is run'}"
            )
    assert {found.how for found in SNIPPETS if found.file} == {*BEHIND_BETTER_AUTH, *OTHER_MODULES}
    assert {found.how for found in SNIPPETS if not found.file} == {
        *KINDS, *(f"env {name}" for name in ("better-auth", "hs256", "same-origin", "agents")),
    }  # fmt: skip


def test_a_snippet_without_a_comment_is_found() -> None:
    text = "a\n\n<!-- run: x.mjs -->\n```js\n// lib/a.js\n1;\n```\n\n```sh\nls\n```\n"
    assert read_guide(text) == [Snippet(4, "js", "x.mjs", "// lib/a.js\n1;\n"), Snippet(9, "sh", "", "ls\n")]
    assert [found.file for found in read_guide(text)] == ["lib/a.js", ""]


@pytest.mark.parametrize(("name", "issuer"), [
    ("better-auth", "http://localhost:3000"), ("hs256", None), ("same-origin", "https://app.example.com"),
    ("agents", "https://agents.example.com"),
])  # fmt: skip
def test_the_settings_are_taken_as_they_stand(
    name: str, issuer: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for known in os.environ.keys() - {"PATH", "HOME"}:
        monkeypatch.delenv(known)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(snippet(f"env {name}").text)
    settings = load_settings()
    secret = settings.better_auth_secret.get_secret_value() if settings.better_auth_secret else None
    [config] = issuers_from(settings.better_auth_url, secret, settings.trusted_issuers)
    assert config.issuer == issuer
    assert settings.local_accounts is (name == "agents")


# Pages


@pytest.mark.covers("E114", "E115", "E098", "A125", "A136", "D095")
def test_a_page_behind_better_auth(start_server: StartServer, tmp_path: Path) -> None:
    _run_page(start_server, tmp_path, "better-auth", *BEHIND_BETTER_AUTH)


@pytest.mark.covers("E114", "E098", "C040", "E042")
def test_a_route_that_signs_hs256(start_server: StartServer, tmp_path: Path) -> None:
    _run_page(start_server, tmp_path, "hs256", "hs256.mjs")


def _run_page(start_server: StartServer, folder: Path, name: str, *runners: str) -> None:
    """Run these one after the other, each with a person of its own, over one page and one Duly."""
    places = Places(free_port(), free_port())
    origin = f"http://localhost:{places.page}"
    settings = settings_of(name, places)
    guide.node()
    modules = folder / "page"
    guide.write_modules(modules, places)
    with open_page(modules, places.page, origin, settings.get("BETTER_AUTH_SECRET", SECRET)):
        server = start_server(places.duly, **settings)
        if "BETTER_AUTH_URL" in settings:
            _wait_for_keys(origin, server.base_url)
        for runner in runners:
            email = f"{runner}@example.com"
            run_module(runner, modules, BETTER_AUTH_URL=origin, DULY=server.base_url, EMAIL=email)


def _wait_for_keys(origin: str, base_url: str) -> None:
    """Until Duly has the keys of Better Auth, which it asks for again only after a pause when they came too late."""
    with httpx.Client(base_url=origin, headers={"Origin": origin}, timeout=60, trust_env=False) as page:
        body = {"name": "First", "email": "first@example.com", "password": SIGN_IN_PASSWORD}
        page.post("/api/auth/sign-up/email", json=body).raise_for_status()
        token = page.get("/api/auth/token").raise_for_status().json()["token"]
    deadline = time.monotonic() + PATIENCE
    while (answer := ask(f"{base_url}/api/v1/users/profile", token)).status_code == 503:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)


@pytest.mark.covers("A136", "A125", "E114")
def test_a_session_of_dulys_own(start_server: StartServer, tmp_path: Path) -> None:
    guide.node()
    server = start_server(cors_origins="http://localhost:3000")
    guide.write_modules(tmp_path / "page", Places(1))
    _register(server.base_url, "ann@example.com")
    run_module("session.mjs", tmp_path / "page", DULY=server.base_url)


@pytest.fixture(scope="module")
def better_auth() -> Iterator[BetterAuth]:
    yield from better_auth_server()


@pytest.mark.covers("E114", "E098")
def test_an_app_on_a_device(better_auth: BetterAuth, start_server: StartServer, tmp_path: Path) -> None:
    places = Places(free_port(), int(better_auth.origin.rpartition(":")[2]))
    server = start_server(places.duly, better_auth_url=better_auth.origin)
    _wait_for_keys(better_auth.origin, server.base_url)
    guide.write_modules(tmp_path / "page", places)
    person = better_auth.sign_up_fully("ann@example.com")
    run_module("native.mjs", tmp_path / "page", USER_ID=person.user_id, PASSWORD=SIGN_IN_PASSWORD)
    # React Native sends the server's own address as Origin.
    origin = Origin(f"http://localhost:{places.duly}")
    with connect(f"ws://localhost:{places.duly}/api/v1/ws", origin=origin, proxy=None) as socket:
        socket.send(json.dumps({"type": "auth", "token": person.jwt}))
        assert json.loads(socket.recv(PATIENCE))["type"] == "ready"


# One origin


@pytest.fixture
def site(start_server: StartServer, tmp_path: Path) -> Iterator[Places]:
    """The guide's page, Duly, and nginx before both, as one site."""
    if NGINX is None:
        skip_or_fail("nginx is needed: apt-get install nginx-light")
    guide.node()
    places = Places(free_port(), free_port(), free_port())
    guide.write_modules(tmp_path / "page", places)
    text = places.put_into(snippet("nginx").text).replace("listen 80;", f"listen 127.0.0.1:{places.edge};")
    conf = tmp_path / "nginx.conf"
    conf.write_text(NGINX_CONF.format(folder=tmp_path, server=text))
    with contextlib.ExitStack() as stack:
        stack.enter_context(open_page(tmp_path / "page", places.page, f"http://localhost:{places.edge}", SECRET))
        process = stack.enter_context(subprocess.Popen([str(NGINX), "-c", str(conf)], stderr=subprocess.DEVNULL))
        stack.callback(process.terminate)
        _wait_for_nginx(places.edge, process)
        server = start_server(places.duly, **settings_of("same-origin", places))
        _wait_for_keys(f"http://localhost:{places.edge}", server.base_url)
        yield places


def _wait_for_nginx(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"http://localhost:{port}/api/v1/tasks", trust_env=False)
            return
        assert process.poll() is None, "nginx ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.covers("E114", "D095")
def test_one_site_behind_nginx(site: Places) -> None:
    origin = f"http://localhost:{site.edge}"
    with httpx.Client(base_url=origin, headers={"Origin": origin}, timeout=60, trust_env=False) as page:
        body = {"name": "Ann", "email": "ann@example.com", "password": SIGN_IN_PASSWORD}
        assert page.post("/api/auth/sign-up/email", json=body).status_code == 200
        token = page.get("/api/auth/token").json()["token"]
        assert jwt.decode(token, options={"verify_signature": False})["iss"] == origin
        assert page.get("/api/v1/tasks").json()["code"] == "NOT_AUTHENTICATED", "a cookie is not enough"
        page.headers["Authorization"] = f"Bearer {token}"
        made = page.post("/api/v1/tasks", json={"title": "Through nginx"})
        assert made.status_code == 201
        assert page.get(made.headers["location"]).json()["title"] == "Through nginx"
        with page.stream("GET", "/api/v1/events", headers={"Accept-Encoding": "gzip"}) as stream:
            assert next(stream.iter_lines()) == "event: ready"
    socket_url = f"ws://localhost:{site.edge}/api/v1/ws"
    protocols = [Subprotocol("duly.v1"), Subprotocol(f"bearer.{token}")]
    with connect(socket_url, subprotocols=protocols, origin=Origin(origin), proxy=None) as socket:
        assert json.loads(socket.recv(PATIENCE))["type"] == "ready"


# Agents and scripts


def _register(base_url: str, email: str) -> dict[str, Any]:
    body = {"email": email, "password": PASSWORD}
    answer = httpx.post(f"{base_url}/api/v1/auth/register", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_script_for_curl(start_server: StartServer) -> None:
    for program in ("bash", "curl", "jq"):
        if shutil.which(program) is None:
            skip_or_fail(f"{program} is needed: apt-get install {program}")
    server = start_server()
    token = _register(server.base_url, "agent@example.com")["access_token"]
    script = Places(int(server.base_url.rpartition(":")[2])).put_into(snippet("bash").text)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{script}\necho; echo $CURSOR"],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers, cursor = done.stdout.splitlines()
    assert '"title":"Weekly report"' in answers
    assert f'"items":[],"next_cursor":"{cursor}"' in answers, "nothing is new"
    assert ask(f"{server.base_url}/api/v1/tasks", token).json()["total"] == 1


@pytest.mark.covers("E098")
def test_the_program_that_issues_its_own_tokens(start_server: StartServer, tmp_path: Path) -> None:
    places = Places(free_port())
    settings = settings_of("agents", places)
    start_server(places.duly, **settings)
    program = tmp_path / "agent.py"
    program.write_text(places.put_into(snippet("python agents").text))
    secret = json.loads(settings["TRUSTED_ISSUERS"])[0]["secret"]
    done = subprocess.run(
        [sys.executable, str(program)], env={"PATH": os.environ["PATH"], "AGENTS_SECRET": secret},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


# The two tables


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    text = guide.GUIDE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


def problem(answer: httpx.Response) -> tuple[int, str]:
    """What a frontend branches on."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["status"] == answer.status_code
    assert body["detail"]
    return answer.status_code, body["code"]


@pytest.mark.covers("E115", "A044", "C133")
def test_the_errors_are_those_that_duly_answers(start_server: StartServer) -> None:
    limits = {f"rate_limit_{kind}": "100000/minute" for kind in ("anonymous", "login", "register", "refresh")}
    server = start_server(
        rate_limit_enabled="true",
        rate_limit_mail="1/hour",
        attachment_max_bytes=1024,
        **limits,
        **settings_of("agents"),
    )
    with httpx.Client(base_url=f"{server.base_url}/api/v1", timeout=60, trust_env=False) as client:
        seen = {problem(answer) for answer in _provoke(client, _register(server.base_url, "ann@example.com"))}
    named = {(int(status), code) for statuses, codes, _ in table("Errors your frontend should read")
             for status in statuses.split(", ") for code in re.findall("`([A-Z_]+)`", codes)}  # fmt: skip
    assert seen <= named
    assert len(seen) == 23
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "duly").rglob("*.py"))
    known = set(re.findall(r'code="([A-Z_]+)"|default_code = "([A-Z_]+)"', source))
    assert {code for _, code in named} <= {code for pair in known for code in pair}
    assert {status for status, _ in named} <= {kind.value for kind in Kind}


def _provoke(client: httpx.Client, ann: dict[str, Any]) -> Iterator[httpx.Response]:
    yield client.get("/tasks")
    client.headers["Authorization"] = "Bearer not.a.token"
    yield client.get("/tasks")
    yield client.get("/tasks", headers={"Authorization": f"Bearer {_agent(exp=1)}"})
    yield client.post("/tasks", headers={"Authorization": f"Bearer {_agent()}"}, json={"title": "More than it may"})
    client.headers["Authorization"] = f"Bearer {ann['access_token']}"
    yield client.post("/tasks", content="{", headers={"Content-Type": "application/json"})
    yield client.get("/tasks", params={"cursor": "none"})
    yield client.get("/tasks/none")
    yield client.get("/users")
    yield client.post("/tasks", json={"title": ""})
    yield client.post("/tasks", json={"title": "a" * 2**21})
    task = client.post("/tasks", json={"title": "A task"}, headers={"Idempotency-Key": "one"}).json()
    yield client.post("/tasks", json={"title": "Another"}, headers={"Idempotency-Key": "one"})
    yield client.patch(f"/tasks/{task['id']}", json={"title": "Stale"}, headers={"If-Match": '"7"'})
    yield client.post(f"/tasks/{task['id']}/attachments", files={"file": ("a.txt", b"a" * 5000)})
    yield from _provoke_accounts(client, ann)


def _provoke_accounts(client: httpx.Client, ann: dict[str, Any]) -> Iterator[httpx.Response]:
    ben = {"email": "ben@example.com", "password": PASSWORD, "username": "ben"}
    yield client.post("/auth/register", json={**ben, "email": ann["user"]["email"]})
    client.post("/auth/register", json=ben)
    yield client.post("/auth/register", json={**ben, "email": "eve@example.com"})
    yield client.post("/auth/register", json={**ben, "password": "password1"})
    yield client.post("/auth/change-password", json={"current_password": "wrong", "new_password": f"{PASSWORD}-new"})
    for _ in range(6):
        yield client.post("/auth/login", json={"username": "ben", "password": "wrong"})
    client.post("/auth/forgot-password", json={"email": "ben@example.com"})
    yield client.post("/auth/forgot-password", json={"email": "ben@example.com"})
    yield client.post("/auth/refresh", json={"refresh_token": "none-of-ours"})
    first = {"refresh_token": ann["refresh_token"]}
    second = client.post("/auth/refresh", json=first).json()
    client.post("/auth/refresh", json={"refresh_token": second["refresh_token"]})
    yield client.post("/auth/refresh", json=first)
    yield client.get("/tasks")


def _agent(**claims: Any) -> str:
    entry = json.loads(settings_of("agents")["TRUSTED_ISSUERS"])[0]
    plain = {"iss": entry["issuer"], "aud": "duly", "sub": "reporter", "scope": "tasks:read", "exp": time.time() + 900}
    return jwt.encode({**plain, **claims}, entry["secret"], "HS256")


@pytest.mark.covers("E019", "E046", "E114")
def test_what_is_wrong_with_a_token_is_said_as_the_guide_says(start_server: StartServer) -> None:
    key = SigningKey("first")
    with jwks_server() as issuer:
        issuer.publish(key)
        site = "https://app.example.com"
        inner = {"issuer": site, "jwks_url": f"{issuer.origin}/inner", "audiences": ["mobile"]}
        gone = {
            "issuer": "https://gone.example.com",
            "jwks_url": f"http://127.0.0.1:{free_port()}/",
            "audiences": ["duly"],
        }
        server = start_server(
            better_auth_url=f"{issuer.origin}/api/auth/", better_auth_secret=SECRET,
            trusted_issuers=json.dumps([inner, gone]),
        )  # fmt: skip
        secret_only = start_server(
            better_auth_secret=SECRET, local_accounts="false", data_dir=server.output.parent / "2"
        )

        def said(token: str, base_url: str = server.base_url) -> str:
            answer = ask(f"{base_url}/api/v1/tasks", token)
            return "fine" if answer.status_code == 200 else f"{answer.status_code} {answer.json()['detail']}"

        def signed(iss: str = issuer.origin, **claims: object) -> str:
            return key.sign(claims_for(iss, **claims))

        plain = {"sub": "ann", "exp": time.time() + 900}
        faults = {
            "comes from an issuer that is not trusted here": signed(issuer.origin.replace("127.0.0.1", "localhost")),
            "is meant for another service": signed(aud="mobile"),
            "is not a JWT": "0123456789abcdef.c2lnbmF0dXJl",
            "names no user": jwt.encode({**plain, "sub": ""}, SECRET, "HS256"),
            "is not valid": jwt.encode(plain, f"{SECRET}\n", "HS256"),
        }
        found = {phrase: said(token) for phrase, token in faults.items()}
        found["is signed with an algorithm that is not accepted here"] = said(signed(), secret_only.base_url)
        for phrase, detail in found.items():
            assert detail.startswith(f"401 The access token {phrase}"), detail
        assert "set BETTER_AUTH_URL" in secret_only.log()
        assert "BETTER_AUTH_URL must be the base URL" in server.log()
        assert said(signed(exp=900)).startswith("401 The access token has expired")
        assert said(signed("https://gone.example.com", aud="duly")).startswith("503 The token issuer's keys")
        assert said(signed(f"{site}/", aud="mobile")).startswith("401"), "the issuer is compared letter by letter"
        missing = httpx.get(f"{server.base_url}/api/v1/tasks", timeout=60, trust_env=False)
        assert (missing.status_code, missing.json()["detail"][:19]) == (401, "This needs a token.")
        for token in (signed(), signed(site, aud="mobile"), jwt.encode(plain, SECRET, "HS256")):
            assert said(token) == "fine"
    quoted = {phrase for seen, _ in table("When it does not work") for phrase in re.findall("\u201c(.+?)\u201d", seen)}
    assert quoted == found.keys()


@pytest.mark.covers("A036", "A126", "B054")
def test_which_origins_may_call(start_server: StartServer) -> None:
    server = start_server(
        better_auth_url="https://app.example.com/api/auth",
        local_accounts="false",
        cors_origins="http://localhost:3000/",
    )
    asks = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization,if-match"}
    for origin, admitted in (
        ("http://localhost:3000", True), ("https://app.example.com", True), ("http://127.0.0.1:3000", False),
        ("http://app.example.com", False), ("https://app.example.com:8443", False),
    ):  # fmt: skip
        answer = httpx.options(f"{server.base_url}/api/v1/tasks/1", headers={"Origin": origin, **asks}, trust_env=False)
        assert answer.headers.get("access-control-allow-origin") == (origin if admitted else None), origin
        assert answer.headers["access-control-allow-credentials"] == "true"
