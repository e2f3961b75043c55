"""What every request crosses, seen through real sockets: ids, hosts, limits, headers, errors, time-outs, log lines."""

import asyncio
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import Body, FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, Router, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from duly.errors import NotFound, Unavailable
from duly.kit.logs import request_id_var
from duly.web.addresses import ClientAddresses
from duly.web.door import RequestIDMiddleware
from tests.serving import LIMIT, Running, Servers

EIGHT = [
    "content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy", "permissions-policy",
    "cross-origin-opener-policy", "cross-origin-resource-policy", "x-permitted-cross-domain-policies",
]  # fmt: skip
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Rooms:
    """The application behind the door; it notes what became of slow requests."""

    def __init__(self) -> None:
        self.rolled_back = threading.Event()
        self.shared = PlainTextResponse("the same object every time", headers={"x-frame-options": "SAMEORIGIN"})

    async def hello(self, request: Request) -> Response:
        await asyncio.sleep(float(request.query_params.get("wait", 0)))
        return JSONResponse(
            {
                "id": request.state.request_id, "in_context": request_id_var.get(), "client": request.client.host,
                "scheme": request.scope["scheme"], "path": request.url.path, "q": request.url.query,
                "greeting": request.state.greeting,
            }
        )  # fmt: skip

    async def read(self, request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def fail(self, request: Request) -> Response:
        raise {"value": ValueError("card 4111"), "absent": NotFound("Nothing is here.")}[request.path_params["how"]]

    async def down(self, request: Request) -> Response:
        try:
            raise ConnectionRefusedError("port 5432")
        except OSError as error:
            raise Unavailable("The database does not answer.") from error

    async def broken(self, request: Request) -> Response:
        async def pieces() -> Any:
            yield b"half"
            raise ValueError("lost the rest")

        return StreamingResponse(pieces(), headers={"content-length": "100"})

    async def slow(self, request: Request) -> Response:
        is_patient = request.state.no_timeout = "patient" in request.query_params
        try:
            await asyncio.sleep(1.5 if is_patient else 30)
        except asyncio.CancelledError:
            self.rolled_back.set()
            if "stubborn" not in request.query_params:
                raise
        return PlainTextResponse("late")

    async def stream(self, request: Request) -> Response:
        async def pieces() -> Any:
            for _ in range(4):
                await asyncio.sleep(0.3)
                yield b"x"

        return StreamingResponse(pieces())

    async def cached(self, request: Request) -> Response:
        return PlainTextResponse("x", headers={"cache-control": "private, no-cache", "etag": '"1"'})

    async def same(self, request: Request) -> Response:
        return self.shared

    async def socket(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json({"id": websocket.state.request_id, "path": websocket.url.path})
        await websocket.close()

    def router(self) -> Router:
        return Router(
            [
                Route("/hello", self.hello),
                Route("/", self.hello),
                Route("/read", self.read, methods=["POST"]),
                Route("/upload", self.read, methods=["POST"]),
                Route("/fail/{how}", self.fail),
                Route("/down", self.down),
                Route("/broken", self.broken),
                Route("/slow", self.slow),
                Route("/stream", self.stream),
                Route("/cached", self.cached),
                Route("/same", self.same),
                WebSocketRoute("/ws", self.socket),
            ],
            redirect_slashes=False,
            lifespan=greet,
        )


@asynccontextmanager
async def greet(app: Any) -> AsyncIterator[dict[str, str]]:
    yield {"greeting": "from the lifespan"}


Serve = Callable[..., Running]


@pytest.fixture
def rooms() -> Rooms:
    return Rooms()


@pytest.fixture
def serve(rooms: Rooms) -> Iterator[Serve]:
    servers = Servers()
    yield lambda app=None, **options: servers(app or rooms.router(), **options)
    servers.stop()


@pytest.mark.covers("B052", "D050", "D051", "D057", "D059")
def test_parallel_requests_have_their_own_ids_everywhere(serve: Serve) -> None:
    server = serve()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: server.get(f"/hello?wait={0.05 * (n % 3)}"), range(30)))
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == 30
    assert all(UUID4.fullmatch(entry) and uuid.UUID(entry).version == 4 for entry in ids)
    assert [answer.json()["id"] for answer in answers] == ids
    assert [answer.json()["in_context"] for answer in answers] == ids
    assert isinstance(server.door, RequestIDMiddleware)
    assert {answer.json()["greeting"] for answer in answers} == {"from the lifespan"}


@pytest.mark.covers("D058")
def test_a_valid_id_is_passed_on_and_nothing_else_is(serve: Serve) -> None:
    server = serve()
    for given in (str(uuid.uuid4()), str(uuid.uuid4()).upper()):
        answer = server.get("/hello", headers={"X-Request-ID": given})
        assert answer.headers["x-request-id"] == answer.json()["id"] == given
    valid = str(uuid.uuid4())
    for given in (
        str(uuid.uuid1()),
        uuid.uuid4().hex,
        f"{{{valid}}}",
        f"{valid}, {valid}",
        "../../etc",
        "",
        f"{valid}0",
    ):
        minted = server.get("/hello", headers={"X-Request-ID": given}).headers["x-request-id"]
        assert UUID4.fullmatch(minted)
        assert minted not in (given, valid)


@pytest.mark.covers("B058")
def test_every_kind_of_response_has_the_eight_headers(serve: Serve) -> None:
    server = serve(allowed_hosts=["127.0.0.1"], request_timeout_seconds=1)
    answers = {
        200: server.get("/hello"),
        404: server.get("/fail/absent"),
        400: server.get("/hello", headers={"host": "elsewhere"}),
        413: httpx.post(server.url + "/read", content=b"x" * (LIMIT + 1)),
        500: server.get("/fail/value"),
        503: server.get("/down"),
        504: server.get("/slow"),
        405: httpx.put(server.url + "/hello"),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        for name in EIGHT:
            assert len(answer.headers.get_list(name)) == 1, (status, name)
        assert answer.headers["cache-control"] == "no-store"
        assert UUID4.fullmatch(answer.headers["x-request-id"])
        assert "strict-transport-security" not in answer.headers
    assert "unsafe" not in answers[200].headers["content-security-policy"]


def test_a_response_keeps_its_own_headers_and_shared_ones_do_not_grow(serve: Serve) -> None:
    server = serve()
    cached = server.get("/cached")
    assert cached.headers.get_list("cache-control") == ["private, no-cache"]
    assert all(name in cached.headers for name in EIGHT)
    first, second = server.get("/same"), server.get("/same")
    assert first.headers.get_list("x-frame-options") == ["SAMEORIGIN"]
    assert len(first.headers.raw) == len(second.headers.raw)
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


TUPLE_START = {"type": "http.response.start", "status": 204, "headers": ((b"x-own", b"1"),)}
HEADLESS_START = {"type": "http.response.start", "status": 204}


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """ASGI without Starlette: one message for every request, with headers as a tuple or with none."""
    if scope["type"] == "http":
        await send(TUPLE_START if scope["path"] == "/tuple" else HEADLESS_START)
        await send({"type": "http.response.body"})


def test_messages_of_bare_applications_are_dressed_and_never_changed(serve: Serve) -> None:
    server = serve(bare)
    for path, own in (("/tuple", ["1"]), ("/none", [])):
        first, second = server.get(path), server.get(path)
        assert first.status_code == 204
        assert all(name in first.headers for name in [*EIGHT, "x-request-id"])
        assert first.headers.get_list("x-own") == own
        assert len(first.headers.raw) == len(second.headers.raw)
    assert TUPLE_START["headers"] == ((b"x-own", b"1"),)
    assert "headers" not in HEADLESS_START


def test_a_trailing_slash_answers_like_none(serve: Serve) -> None:
    server = serve()
    for path in ("/hello/", "/hello//"):
        answer = server.get(path + "?a=1")
        assert (answer.status_code, answer.json()["path"], answer.json()["q"]) == (200, "/hello", "a=1")
    assert httpx.post(server.url + "/read/", content=b"12345").text == "5"
    assert server.get("/").json()["path"] == "/"
    assert server.get("//").status_code == 404
    prefixed = serve(root_path="/base")
    assert [prefixed.get(path).json()["path"] for path in ("/", "/hello/")] == ["/base/", "/base/hello"]


def host_request(*hosts: str) -> bytes:
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    return f"GET /hello HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode("latin-1")


def test_only_allowed_hosts_are_served(serve: Serve) -> None:
    server = serve(allowed_hosts=["Api.example.com", "*.duly.example", "[::1]"])
    good = [
        "api.example.com",
        "API.EXAMPLE.COM:8443",
        "api.example.com.",
        "a.duly.example",
        "b.a.duly.example:80",
        "[::1]:80",
    ]
    bad = [
        "é.example", "duly.example", "evilduly.example", "example.com", "api.example.com.evil", "[::2]",
        "api.example.com:80:80", "",
        "api.example.com:@evil.example", "api.example.com:x", "api.example.com/evil", "evil@api.example.com",
    ]  # fmt: skip
    for host in good * 2:
        assert b" 200 " in server.raw(host_request(host)).split(b"\r\n")[0], host
    for host in bad:
        answer = server.raw(host_request(host))
        assert b" 400 " in answer.split(b"\r\n")[0], host
        assert b"BAD_HOST" in answer, host
    assert b"BAD_HOST" in server.raw(host_request("api.example.com", "evil.example"))
    assert b"BAD_HOST" in server.raw(b"GET /hello HTTP/1.0\r\n\r\n")
    assert server.lines("400 Bad Request: /hello", len(bad) + 2)
    assert b" 200 " in serve(allowed_hosts=["*"]).raw(host_request("whatever"))


@pytest.mark.covers("B057")
def test_an_announced_body_over_the_limit_is_refused_before_it_is_sent(serve: Serve) -> None:
    server = serve()
    head = f"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: {LIMIT + 1}\r\n\r\n".encode()
    answer = server.raw(head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"BODY_TOO_LARGE" in answer
    assert httpx.post(server.url + "/read", content=b"x" * LIMIT).text == str(LIMIT)


def chunks(total: int) -> Iterator[bytes]:
    for start in range(0, total, 500):
        yield b"x" * min(500, total - start)


@pytest.mark.covers("B057")
def test_a_chunked_body_is_counted(serve: Serve) -> None:
    server = serve()
    assert httpx.post(server.url + "/read", content=chunks(LIMIT)).text == str(LIMIT)
    over = httpx.post(server.url + "/read", content=chunks(LIMIT + 1))
    assert (over.status_code, over.json()["code"], over.json()["path"]) == (413, "BODY_TOO_LARGE", "/read")
    assert httpx.post(server.url + "/read", content=b"x" * LIMIT).status_code == 200


@pytest.mark.covers("B057")
def test_fastapi_cannot_turn_too_large_into_a_parsing_error(serve: Serve) -> None:
    api = FastAPI()

    @api.post("/items")
    async def items(item: dict[str, str] = Body()) -> dict[str, str]:  # noqa: B008, FAST002
        return item

    server = serve(api)
    piece = b'{"a": "' + b"x" * LIMIT + b'"}'
    answer = httpx.post(server.url + "/items", content=iter([piece]), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")
    assert httpx.post(server.url + "/items", json={"a": "b"}).json() == {"a": "b"}


@pytest.mark.covers("A086", "C118")
def test_an_unexpected_error_is_logged_whole_and_answered_blind(serve: Serve) -> None:
    server = serve()
    answer = server.get("/fail/value?token=abc")
    assert answer.status_code == 500
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-request-id"] in answer.json()["message"]
    assert "4111" not in answer.text
    assert "ValueError" not in answer.text
    (line,) = server.lines("Unhandled ValueError in GET /fail/value")
    assert f" - ERROR - [{answer.headers['x-request-id'][:8]}] " in line
    assert server.lines("    Traceback")
    assert server.lines("    ValueError: card 4111")
    assert not server.lines("abc", 0)


@pytest.mark.covers("C109")
def test_known_errors_are_rendered_and_a_failing_dependency_names_its_cause(serve: Serve) -> None:
    server = serve()
    absent = server.get("/fail/absent")
    assert (absent.status_code, absent.json()["message"], absent.json()["path"]) == (
        404,
        "Nothing is here.",
        "/fail/absent",
    )
    assert server.get("/down").json()["code"] == "UNAVAILABLE"
    assert server.lines("UNAVAILABLE: ConnectionRefusedError: port 5432")
    assert not server.lines("Traceback", 0)


def test_an_answer_that_breaks_off_closes_the_connection_and_is_logged(serve: Serve) -> None:
    server = serve()
    with pytest.raises(httpx.RemoteProtocolError):
        server.get("/broken")
    assert server.lines("ValueError in the middle of the answer to GET /broken")
    assert server.get("/hello").status_code == 200
    assert server.lines("Request completed: GET /hello")  # written when nothing is left of it
    assert server.door.in_flight == 0


def test_a_request_past_its_time_is_cancelled_and_answered(serve: Serve, rooms: Rooms) -> None:
    server = serve(request_timeout_seconds=0.8)
    started = time.monotonic()
    answer = server.get("/slow")
    assert (answer.status_code, answer.json()["code"]) == (504, "TIMEOUT")
    assert 0.75 < time.monotonic() - started < 10  # of the thirty seconds that it would have taken
    assert rooms.rolled_back.is_set()
    assert server.lines("504 Gateway Timeout: /slow")
    with ThreadPoolExecutor(5) as pool:
        several = list(pool.map(lambda n: time.sleep(n / 20) or server.get("/slow"), range(5)))
    assert {entry.status_code for entry in several} == {504}
    assert server.get("/hello").status_code == 200


def test_the_time_limit_spares_the_patient_the_begun_and_the_stubborn(serve: Serve) -> None:
    server = serve(request_timeout_seconds=0.8)
    with ThreadPoolExecutor(4) as pool:
        patient, begun, stubborn, late = pool.map(server.get, ["/slow?patient", "/stream", "/slow?stubborn", "/slow"])
    assert patient.text == "late"
    assert begun.text == "xxxx"
    assert stubborn.text == "late"  # it answered all the same; nothing is sent twice
    assert late.status_code == 504


def test_in_flight_counts_what_is_inside(serve: Serve) -> None:
    server = serve()
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(server.get, "/hello?wait=3") for _ in range(3)]
        deadline = time.monotonic() + 20
        while server.door.in_flight < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.door.in_flight == 3
        assert {answer.result().status_code for answer in answers} == {200}
    assert server.lines("Request completed", 3)
    assert server.door.in_flight == 0


def test_a_client_that_leaves_is_no_error(serve: Serve) -> None:
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    (line,) = server.lines("Request completed: POST /read")
    assert " - Status: 499 - " in line
    assert not server.lines("ERROR", 0)
    assert not server.lines("Traceback", 0)


@pytest.mark.covers("A087", "A101", "B056", "C110", "C111", "D052", "D056", "D061", "D115", "E020", "E110")
def test_one_request_leaves_matching_lines(serve: Serve) -> None:
    server = serve()
    answer = server.get("/nonexistent?password=hunter2")
    short = answer.headers["x-request-id"][:8]
    assert answer.status_code == 404
    assert len(server.lines(f"[{short}]", 3)) == 3
    incoming, refusal, completed = server.lines(f"[{short}]", 3)
    head = rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d - INFO - \[{short}\] "
    assert re.fullmatch(head + "Incoming request: GET /nonexistent", incoming)
    assert re.fullmatch(head + "404 Not Found: /nonexistent", refusal)
    assert re.fullmatch(head + r"Request completed: GET /nonexistent - Status: 404 - \d+\.\d\d ms", completed)
    assert not server.lines("hunter2", 0)


def test_a_path_cannot_forge_a_line(serve: Serve) -> None:
    server = serve()
    server.get("/x%0A2025-10-09%2012:11:12%20-%20INFO%20-%20[2bcc1c11]%20forged%1b[31m")
    (line,) = server.lines("Request completed")
    assert "GET /x\\n2025-10-09" in line
    assert "\x1b" not in server.stream.getvalue()
    assert not any(entry.startswith("2025-10-09") for entry in server.stream.getvalue().splitlines())


@pytest.mark.covers("A100", "D053", "D113")
def test_json_lines_of_a_request_share_the_full_id(serve: Serve) -> None:
    server = serve(form="json", addresses=ClientAddresses(["127.0.0.0/8"]))
    answer = server.get("/fail/value", headers={"x-forwarded-for": "192.0.2.7"})
    lines = server.lines(answer.headers["x-request-id"], 4)
    entries = [json.loads(line) for line in lines]
    assert [entry["level"] for entry in entries] == ["INFO", "ERROR", "ERROR", "INFO"]
    assert (entries[3]["status"], entries[3]["client"], entries[3]["path"]) == (500, "192.0.2.7", "/fail/value")
    assert "Traceback" in entries[1]["exception"]


@pytest.mark.covers("C116")
def test_warning_level_hides_the_request_lines(serve: Serve) -> None:
    server = serve(log_level="warning")
    assert server.get("/hello").status_code == 200
    assert server.get("/fail/value").status_code == 500
    assert server.lines("Unhandled ValueError")
    assert "request:" not in server.stream.getvalue()
    assert "Request completed" not in server.stream.getvalue()


def test_websockets_get_an_id_and_the_host_check(serve: Serve) -> None:
    server = serve(allowed_hosts=["127.0.0.1"])
    given = str(uuid.uuid4())
    url = f"ws://127.0.0.1:{server.port}/ws/"
    with connect(url, additional_headers={"X-Request-ID": given}) as websocket:
        assert json.loads(websocket.recv()) == {"id": given, "path": "/ws"}
    other = serve(allowed_hosts=["elsewhere.example"])
    with pytest.raises(InvalidStatus, match="403"), connect(f"ws://127.0.0.1:{other.port}/ws"):
        pass


def test_behind_a_trusted_proxy_the_client_and_the_scheme_are_the_callers(serve: Serve) -> None:
    server = serve(addresses=ClientAddresses(["127.0.0.1"]))
    headers = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https")]
    answer = server.get("/hello", headers=headers)
    assert (answer.json()["client"], answer.json()["scheme"]) == ("192.0.2.7", "https")
    assert answer.headers["strict-transport-security"].startswith("max-age=31536000")
    direct = serve().get("/hello", headers=headers)
    assert (direct.json()["client"], direct.json()["scheme"]) == ("127.0.0.1", "http")
    assert "strict-transport-security" not in direct.headers
