"""A page of another origin, in a real browser, goes the whole way with nothing but `fetch`."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.fixtures.server import StartServer
from tests.fixtures.tab import Tab

PAGE = """<!doctype html><html lang="en"><title>A frontend</title><ol></ol><script>
const api = "API/api/v1"
let tokens = {}
const line = text => Object.assign(document.createElement("li"), {textContent: text})
const say = text => document.querySelector("ol").append(line(text))
async function call(method, path, body, headers = {}) {
  if (tokens.access_token) headers.Authorization = "Bearer " + tokens.access_token
  if (body) headers["Content-Type"] = "application/json"
  const answer = await fetch(api + path, {method, headers, body: body && JSON.stringify(body), credentials: "include"})
  const data = (answer.headers.get("content-type") || "").includes("json") ? await answer.json() : null
  say([method, path.split("?")[0].replace(/[0-9a-f-]{36}/, "ID"), answer.status, data?.code || ""].join(" ").trim())
  return [data, answer.headers]
}
async function story() {
  const person = {email: "page@example.com", password: "tangerine-orbit-92"}
  await call("GET", "/tasks")
  tokens = (await call("POST", "/auth/register", person))[0]
  tokens = (await call("POST", "/auth/login", person))[0]
  say((await call("GET", "/auth/me"))[0].email)
  const [task, made] = await call("POST", "/tasks", {title: "From a page"}, {"Idempotency-Key": "one"})
  const [, again] = await call("POST", "/tasks", {title: "From a page"}, {"Idempotency-Key": "one"})
  say("replayed " + again.get("idempotency-replayed") + ", id " + (made.get("x-request-id") || "").length)
  const etag = made.get("etag")
  await call("PATCH", "/tasks/" + task.id, {title: "Changed"}, {"If-Match": etag})
  await call("PATCH", "/tasks/" + task.id, {title: "Lost"}, {"If-Match": etag})
  await call("POST", "/tasks", {title: ""})
  await call("GET", "/tasks/00000000-0000-7000-8000-000000000000")
  say((await call("GET", "/tasks"))[0].items.map(item => item.title).join())
  tokens = (await call("POST", "/auth/refresh", {refresh_token: tokens.refresh_token}))[0]
  await call("DELETE", "/tasks/" + task.id)
  await call("POST", "/auth/logout", {})
  await call("GET", "/auth/me")
}
story().then(() => say("end"), fault => say("fault: " + fault))
</script></html>"""
LINES = "[...document.querySelectorAll('li')].map(line => line.textContent)"


@pytest.fixture
def frontend() -> Iterator[ThreadingHTTPServer]:
    """A server of one page; the page's text is put into it once the API's address is known."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = getattr(self.server, "page", "").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.covers("A036", "A055", "A125", "A136", "D095", "D017", "E115")
def test_a_page_of_another_origin_goes_from_registering_to_logging_out(
    start_server: StartServer, frontend: ThreadingHTTPServer, tab: Tab
) -> None:
    origin = f"http://127.0.0.1:{frontend.server_address[1]}"
    server = start_server(cors_origins=f"https://app.example.com,{origin}")
    frontend.page = PAGE.replace("API", server.base_url)  # type: ignore[attr-defined]
    tab.open(origin)
    lines = tab.wait(f"({LINES}).at(-1)?.match(/^(end|fault)/) && {LINES}")
    assert lines == [
        "GET /tasks 401 NOT_AUTHENTICATED",
        "POST /auth/register 201",
        "POST /auth/login 200",
        "GET /auth/me 200",
        "page@example.com",
        "POST /tasks 201",
        "POST /tasks 201",
        "replayed true, id 36",
        "PATCH /tasks/ID 200",
        "PATCH /tasks/ID 412 STALE_VERSION",
        "POST /tasks 422 VALIDATION_ERROR",
        "GET /tasks/ID 404 NOT_FOUND",
        "GET /tasks 200",
        "Changed",
        "POST /auth/refresh 200",
        "DELETE /tasks/ID 204",
        "POST /auth/logout 204",
        "GET /auth/me 401 SESSION_ENDED",
        "end",
    ]
