"""Pages behind the links in mails: a GET changes and repeats nothing; only a press of the button sends the token."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from duly.app import create_app
from duly.settings import Settings
from duly.web.account_pages import account_routes
from tests.fixtures.application import PASSWORD, StartApp
from tests.fixtures.tab import Tab
from tests.receivers import wait_for
from tests.serving import Running, Servers
from tests.test_docs_pages import Links

PATHS = ("/reset-password", "/verify-email", "/confirm-email")
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
    "form-action": "'none'", "frame-ancestors": "'none'", "base-uri": "'none'",
}  # fmt: skip
HOSTILE = "?token=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&token=<script>&endpoint=//example.com&%00"
BAD = "not-a-token-of-this-server"


@pytest.fixture
def dialect() -> str:
    """The pages touch no database: one dialect is enough."""
    return "sqlite"


@pytest.fixture
async def client(start_app: StartApp) -> httpx.AsyncClient:
    api = await start_app()
    api.app.router.routes.extend(account_routes())
    return api.client


@pytest.mark.parametrize("path", PATHS)
async def test_a_page_is_kept_by_nobody_and_runs_only_files_of_this_server(
    client: httpx.AsyncClient, path: str
) -> None:
    page = await client.get(path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = [part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";")]
    assert dict(policy) == POLICY
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-frame-options"] == "DENY"
    assert "set-cookie" not in page.headers
    links = Links(page.text)
    assert links.inline == []
    assert len(links.loaded) == 2
    assert f'data-endpoint="/api/v1/auth{path}"' in page.text
    assert "<noscript>" in page.text
    assert re.search(r"\{[a-z]", page.text) is None


@pytest.mark.parametrize("path", PATHS)
async def test_nothing_of_the_address_comes_back(client: httpx.AsyncClient, path: str) -> None:
    page, hostile = await client.get(path), await client.get(path + HOSTILE)
    assert hostile.status_code == 200
    assert hostile.content == page.content
    assert set(hostile.headers) == set(page.headers)
    assert not any("script>" in value for value in hostile.headers.values())


@pytest.mark.parametrize("path", PATHS)
async def test_head_answers_like_get_without_a_body_and_nothing_else_is_taken(
    client: httpx.AsyncClient, path: str
) -> None:
    got, head, posted = await client.get(path), await client.head(path), await client.post(path, json={})
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-security-policy", "cache-control", "content-length"):
        assert head.headers[name] == got.headers[name], name
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET, HEAD")


async def test_the_files_have_their_types_and_are_kept_for_as_long_as_they_do_not_change(
    client: httpx.AsyncClient,
) -> None:
    links = Links((await client.get("/reset-password")).text).loaded
    types = {"account.css": "text/css; charset=utf-8", "account.js": "text/javascript; charset=utf-8"}
    for link in links:
        found = re.fullmatch(r"/account/assets/([a-z.]+)\?v=[0-9a-f]{16}", link)
        assert found, link
        kept = await client.get(link)
        assert (kept.status_code, kept.headers["content-type"]) == (200, types.pop(found[1]))
        assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert kept.headers["x-content-type-options"] == "nosniff"
        assert (await client.get(link + "0")).headers["cache-control"] == "public, no-cache"
    assert types == {}
    for name in ("swagger.js", "account_pages.py", "..%2faccount_pages.py"):
        assert (await client.get(f"/account/assets/{name}")).status_code == 404, name


async def test_the_least_length_is_the_one_that_is_set(start_app: StartApp) -> None:
    api = await start_app()
    api.app.router.routes[:0] = account_routes(least_password=15)
    text = (await api.client.get("/reset-password")).text
    assert 'data-least="15"' in text
    assert "At least 15 characters." in text
    assert text.count('autocomplete="new-password"') == 2


def test_addresses_in_a_page_follow_the_prefix_that_a_proxy_strips(tmp_path: Path) -> None:
    servers = Servers()
    try:
        text = servers(_application(tmp_path), root_path="/tasks-api").get("/verify-email").text
    finally:
        servers.stop()
    assert 'data-endpoint="/tasks-api/api/v1/auth/verify-email"' in text
    assert all(link.startswith("/tasks-api/account/assets/") for link in Links(text).loaded)


def _application(folder: Path) -> Any:
    app = create_app(Settings(_env_file=None, data_dir=folder))
    app.router.routes.extend(account_routes())
    return app


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    servers = Servers()
    yield servers(_application(tmp_path))
    servers.stop()


def type_twice(tab: Tab, password: str) -> None:
    for name in ("password", "again"):
        tab.run(f"document.getElementById('{name}').select()")
        tab.call("Input.insertText", text=password)


@pytest.mark.parametrize("path", PATHS)
def test_opening_the_link_sends_nothing_and_takes_the_token_out_of_the_address(
    server: Running, tab: Tab, path: str
) -> None:
    tab.open(f"{server.url}{path}?token={BAD}")
    assert tab.run("location.href") == server.url + path
    assert BAD not in tab.run("document.documentElement.outerHTML")
    assert tab.shows("form button")
    assert [request for request in tab.requests if not request.startswith("GET ")] == []
    assert tab.complaints == []
    assert server.lines(f"Request completed: GET {path}")
    assert BAD not in server.stream.getvalue()
    tab.open(server.url + path)
    assert tab.shows("form") is None
    assert "Open the whole link in the mail" in str(tab.shows("#result"))


@pytest.mark.parametrize("path", PATHS)
def test_a_press_of_the_button_sends_the_token_once_and_shows_what_the_server_says(
    server: Running, tab: Tab, path: str
) -> None:
    body = {"token": BAD, **({"new_password": PASSWORD} if "password" in path else {})}
    refused = httpx.post(f"{server.url}/api/v1/auth{path}", json=body).json()
    tab.open(f"{server.url}{path}?token={BAD}")
    if "password" in path:
        type_twice(tab, PASSWORD)
    tab.run("document.querySelector('form button').click(), document.querySelector('form button').click()")
    tab.wait("document.querySelector('#result.bad')")
    assert str(tab.shows("#result")).startswith(refused["detail"])
    posts = [request for request in tab.requests if not request.startswith("GET ")]
    assert posts == [f"POST {server.url}/api/v1/auth{path}"]
    assert [text for text in tab.complaints if "responded with a status of" not in text] == []


def test_two_passwords_that_differ_or_are_too_short_are_not_sent(server: Running, tab: Tab) -> None:
    tab.open(f"{server.url}/reset-password?token={BAD}")
    tab.run("document.querySelector('#password').value = 'e\\u0301'.repeat(7)")  # seven characters, fourteen units
    tab.run("document.querySelector('form button').click()")
    assert tab.shows("#password-fault") == "Use at least 8 characters."
    assert tab.shows("#again-fault") == "Type the same password once more."
    assert tab.run("document.activeElement.id") == "password"
    tab.run("document.querySelector('#show').click()")
    assert tab.run("document.querySelector('#password').type + document.querySelector('#again').type") == "texttext"
    assert [request for request in tab.requests if not request.startswith("GET ")] == []


@pytest.mark.covers("D039")
def test_whoever_forgot_the_password_gets_back_in_with_the_mail_and_a_browser_alone(
    server: Running, tab: Tab, capsys: pytest.CaptureFixture[str]
) -> None:
    auth, ann, new = f"{server.url}/api/v1/auth", "ann@example.com", "quiet-lakes-geometry-7"
    assert httpx.post(f"{auth}/register", json={"email": ann, "password": PASSWORD}).status_code == 201
    assert httpx.post(f"{auth}/forgot-password", json={"email": ann}).status_code == 202
    link = wait_for(lambda: re.search(r"/reset-password\?token=\S+", capsys.readouterr().err), "the mail")[0]
    tab.open(server.url + link)
    type_twice(tab, "password1")
    tab.run("document.querySelector('form button').click()")
    tab.wait("document.querySelector('#result.bad')")
    assert "tried first" in str(tab.shows("#password-fault"))
    type_twice(tab, new)
    tab.run("document.querySelector('form button').click()")
    tab.wait("document.querySelector('#result.good')")
    assert tab.shows("#result") == "Your password has been changed. Sign in with the new one."
    assert tab.shows("form") is None
    statuses = [
        httpx.post(f"{auth}/login", json={"email": ann, "password": word}).status_code for word in (PASSWORD, new)
    ]
    assert statuses == [401, 200]
