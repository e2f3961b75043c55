"""The documentation pages work under a strict policy, from our own server alone."""

import gzip
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import httpx
import pytest
from fastapi import FastAPI

from duly.web.docs_pages import docs_routes
from tests.fixtures.tab import Tab
from tests.serving import Running, Servers


class Links(HTMLParser):
    """Collects what a page loads, and whatever a strict policy would not run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self._script = tag == "script"
        self.loaded += [value for name in ("src", "href") if (value := named.get(name))]
        self.inline += [name for name in named if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.inline.append(data)


@pytest.fixture
def server() -> Iterator[Running]:
    app = FastAPI(title="Duly", docs_url=None, redoc_url=None)

    @app.get("/api/v1/tasks", tags=["tasks"])
    async def list_tasks() -> list[str]:
        return []

    app.router.routes.extend(docs_routes("/openapi.json", 'Duly & "friends"'))
    servers = Servers()
    yield servers(app)
    servers.stop()


@pytest.mark.parametrize(
    ("path", "opener"),
    [("/docs", "same-origin-allow-popups"), ("/redoc", "same-origin"), ("/docs/oauth2-redirect", "unsafe-none")],
)
def test_a_page_loads_only_files_of_this_server_and_runs_nothing_inline(
    server: Running, path: str, opener: str
) -> None:
    page = server.get(path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["cross-origin-opener-policy"] == opener
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in policy["script-src"] + policy["worker-src"]
    links = Links(page.text)
    assert links.inline == []
    assert len(links.loaded) >= 3
    for link in links.loaded:
        assert re.fullmatch(r"/docs/assets/[a-z0-9.-]+\?v=[0-9a-f]{16}", link), link
        assert server.get(link).status_code == 200, link
    assert "Duly &amp; &quot;friends&quot;" in page.text
    assert "{" not in page.text


def test_versioned_files_are_kept_and_others_are_checked_again(server: Running) -> None:
    link = next(link for link in Links(server.get("/docs").text).loaded if "bundle.js" in link)
    kept, checked = server.get(link), server.get(link.partition("?")[0])
    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert checked.headers["cache-control"] == server.get(link + "0").headers["cache-control"] == "public, no-cache"
    assert kept.headers["content-type"] == "text/javascript; charset=utf-8"
    again = server.get(link, headers={"if-none-match": kept.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == kept.headers["etag"]
    assert server.get(link, headers={"if-none-match": '"other"'}).status_code == 200


def test_files_are_sent_compressed_to_those_who_take_it(server: Running) -> None:
    path = "/docs/assets/swagger-ui.css"
    with httpx.stream("GET", server.url + path, headers={"accept-encoding": "gzip"}) as zipped:
        raw = b"".join(zipped.iter_raw())
    plain = server.get(path, headers={"accept-encoding": "identity"})
    assert zipped.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(raw) == plain.content
    assert zipped.headers["etag"] != plain.headers["etag"]
    assert zipped.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize("name", ["missing.js", "..%2fdocs_pages.py", "%2e%2e%2f%2e%2e%2ferrors.py", "swagger.js%00"])
def test_no_other_file_can_be_had(server: Running, name: str) -> None:
    assert server.get(f"/docs/assets/{name}").status_code == 404


def test_addresses_follow_the_prefix_that_a_proxy_strips() -> None:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.router.routes.extend(docs_routes("/openapi.json", "Duly"))
    servers = Servers()
    try:
        text = servers(app, root_path="/tasks-api").get("/docs").text
    finally:
        servers.stop()
    assert 'data-openapi-url="/tasks-api/openapi.json"' in text
    assert all(link.startswith("/tasks-api/docs/assets/") for link in Links(text).loaded)


@pytest.mark.parametrize(("path", "shown"), [("/docs", "opblock-summary-path"), ("/redoc", "operation/list_tasks")])
@pytest.mark.covers("E099")
def test_a_browser_shows_the_page_without_a_complaint(server: Running, path: str, shown: str, tab: Tab) -> None:
    tab.open(server.url + path)
    tab.wait(f"document.documentElement.outerHTML.includes({json.dumps(shown)})")
    tab.run("new Promise(resolve => requestIdleCallback(resolve))")
    assert tab.complaints + tab.console == []
    assert [
        asked for asked in tab.requests if not asked.startswith((f"GET {server.url}/", "GET data:", "GET blob:"))
    ] == []
    assert server.lines("Request completed: GET /openapi.json - Status: 200")
