"""Requests that are small to send and dear to read: each is answered soon, and others are served meanwhile."""

import asyncio
import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from duly.kit.texts import clean_text
from tests.fixtures.application import PASSWORD
from tests.fixtures.server import Server, StartServer
from tests.test_hostile_files import peak
from tests.test_slow_clients import reset_peak

MIB = 1024**2
# Of these the worst took 0.1 s alone on two cores, and minutes before there were bounds.
SOON = 20.0
FORM = "application/x-www-form-urlencoded"


def filled(unit: bytes, head: bytes = b"[", tail: bytes = b"]", size: int = MIB) -> bytes:
    """One body of about `size` bytes: the same value again and again."""
    return head + b",".join([unit] * ((size - len(head) - len(tail)) // (len(unit) + 1))) + tail


def names(count: int) -> bytes:
    return b"{" + b",".join(b'"%x":1' % number for number in range(count)) + b"}"


BULK = b'{"operations":['
MARKS = "\u0301\u0316".encode()
BOMBS: dict[str, tuple[str, bytes, set[int]]] = {
    "names": ("/tasks", names(100_000), {400}),
    "names at the login": ("/auth/login", names(5_000), {400}),
    "names behind an escaped colon": ("/tasks", b'{"\\u003a":1,' + names(90_000)[1:], {400}),
    "names in a hundred operations": (
        "/tasks/bulk", filled(b'{"op":"create","task":' + names(1000) + b"}", BULK, b"]}"), {400}),
    "lists": ("/tasks", filled(b"[]"), {400}),
    "lists in lists": ("/tasks", filled(b"[" * 60 + b"]" * 60), {400}),
    "depth": ("/tasks", b"[" * 500_000 + b"]" * 500_000, {400}),
    "operations": ("/tasks/bulk", filled(b"{}", BULK, b"]}"), {400}),
    "tags": ("/tasks", filled(b'"a"', b'{"title":"a","tags":[', b"]}"), {400}),
    "digits": ("/tasks", b'{"title":' + b"9" * (MIB - 20) + b"}", {400}),
    "marks in a title": ("/tasks", b'{"title":"' + MARKS * 260_000 + b'"}', {422}),
    "marks in descriptions": (
        "/tasks/bulk",
        filled(b'{"op":"create","task":{"title":"a","description":"' + MARKS * 3900 + b'"}}', BULK, b"]}"), {200}),
    "blanks": ("/tasks", b'{"title":"a","description":"' + b" " * (MIB - 40) + b'"}', {201}),
    "an address": ("/auth/register", b'{"password":"x","email":"a@' + b"xn--a." * 10_000 + b'c"}', {422}),
    "marks in an address": ("/auth/login", b'{"password":"x","email":"' + MARKS * 15_000 + b'"}', {422}),
    "marks in a password": ("/auth/login", b'{"email":"a@b.c","password":"' + MARKS * 15_000 + b'"}', {422}),
    "a megabyte at the login": ("/auth/login", b" " * MIB, {413}),
    "fields": ("/auth/login", b"&" * 65_000, {400, 422}),
    "escapes": ("/auth/login", b"username=" + b"%41" * 21_000, {422}),
    "a megabyte of fields": ("/auth/login", b"a=&" * 300_000, {413}),
}  # fmt: skip


class Client:
    """Somebody signed in to a real server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.http = httpx.Client(base_url=f"{server.base_url}/api/v1", trust_env=False, timeout=60)
        answer = self.http.post("/auth/register", json={"email": "ann@example.com", "password": PASSWORD}).json()
        self.http.headers["Authorization"] = f"Bearer {answer['access_token']}"

    def timed(self, method: str, path: str, **options: Any) -> httpx.Response:
        begun = time.monotonic()
        answer = self.http.request(method, path, **options)
        assert time.monotonic() - begun < SOON, path
        assert answer.status_code < 500, answer.text
        assert answer.status_code < 400 or len(answer.content) <= 8192
        return answer


@pytest.fixture
def client(start_server: StartServer) -> Iterator[Client]:
    client = Client(start_server())
    yield client
    client.http.close()
    assert "Traceback" not in client.server.log()


def test_no_body_of_a_megabyte_holds_the_server(client: Client) -> None:
    for name, (path, body, statuses) in BOMBS.items():
        assert len(body) <= MIB, name
        kind = FORM if body[:1] in b"&ua" else "application/json"
        answer = client.timed("POST", path, content=body, headers={"Content-Type": kind})
        assert answer.status_code in statuses, (name, answer.text)


def test_marks_are_put_in_order_in_a_time_that_grows_with_their_number() -> None:
    # 200,000 of them took a minute with the library alone.
    text = "a" + "\u0301\u0316\u0f73" * 70_000
    begun = time.monotonic()
    cleaned = clean_text(text)
    assert time.monotonic() - begun < SOON
    assert cleaned.startswith("\u00e1")
    assert cleaned.count("\u0316") == 70_000


def test_a_compressed_body_is_never_unpacked(client: Client) -> None:
    bomb = gzip.compress(b'{"title":"' + bytes(100 * MIB) + b'"}', 9)
    task = client.http.post("/tasks", json={"title": "a"}).json()["id"]
    before = peak(client.server.process.pid)
    for coding in ("gzip", "deflate", "br", "GZIP", "identity, gzip"):
        headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
        assert client.timed("POST", "/tasks", content=bomb, headers=headers).status_code == 415
        assert client.timed("POST", "/auth/login", content=bomb[:60_000], headers=headers).status_code in {400, 415}
        headers["Content-Type"] = "multipart/form-data; boundary=x"
        assert client.timed("POST", f"/tasks/{task}/attachments", content=bomb, headers=headers).status_code == 415
        assert client.timed("POST", "/tasks/import", content=bomb, headers=headers).status_code == 415
    assert peak(client.server.process.pid) - before < 30 * MIB


def test_heads_full_of_values_are_read_soon(client: Client) -> None:
    task = client.http.post("/tasks", json={"title": "a"}).json()["id"]
    path = f"/tasks/{task}"
    file = client.http.post(f"{path}/attachments", files={"file": ("a.bin", bytes(range(250)) * 4)}).json()["id"]
    tags = ",".join(f'"{number}"' for number in range(1000, 9000))
    assert client.timed("GET", path, headers={"If-None-Match": tags}).status_code == 200
    assert client.timed("PATCH", path, json={"title": "b"}, headers={"If-Match": tags}).status_code in {400, 412}
    assert client.timed("PATCH", path, json={"title": "b"}, headers={"If-Match": "W/" * 30_000}).status_code == 400
    assert client.timed("GET", path, headers={"Cookie": "a=b;" * 15_000}).status_code == 200
    assert client.timed("GET", path, headers={"Accept-Language": "de;q=0.1," * 6000}).status_code == 200
    assert client.timed("GET", path, headers={"Accept-Encoding": "gzip;q=0," * 6000}).status_code == 200
    assert client.timed("GET", f"/tasks?{'a=1&' * 12_000}").status_code == 422
    assert client.timed("GET", f"/tasks?search={'%CC%81%CC%96' * 4000}").status_code == 422
    for token in ("a." * 30_000, "eyJ" * 20_000, f"{'a' * 20_000}.{'b' * 20_000}.c"):
        assert client.timed("GET", path, headers={"Authorization": f"Bearer {token}"}).status_code == 401
    for ranges in ("0-," * 1000, ",".join(["0-99"] * 1000), ",".join(f"{n}-{n + 500}" for n in range(400)),
                   "9" * 30_000 + "-", " " * 30_000 + "x"):  # fmt: skip
        answer = client.timed("GET", f"{path}/attachments/{file}", headers={"Range": f"bytes={ranges}"})
        assert (answer.status_code, len(answer.content)) == (200, 1000)
    answer = client.timed("GET", f"{path}/attachments/{file}", headers={"Range": f"bytes=-{'9' * 18}"})
    assert len(answer.content) == 1000


async def half(base: str, path: str, headers: dict[str, str]) -> httpx.Response | None:
    """A large body of which the end takes its time; None where the server waited for it."""

    async def pieces() -> Any:
        for _ in range(9):
            yield b" " * 100_000
        await asyncio.sleep(4)

    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=2.5) as client:
        try:
            return await client.post(path, content=pieces(), headers=headers)
        except httpx.HTTPError:
            return None


async def test_many_large_bodies_at_once_are_held_in_bounded_memory(start_server: StartServer) -> None:
    server = await asyncio.to_thread(start_server)
    client = await asyncio.to_thread(Client, server)
    before = reset_peak(server)
    headers = {"Authorization": client.http.headers["Authorization"], "Content-Type": "application/json"}
    answers = asyncio.gather(*[half(server.base_url, "/api/v1/tasks", headers) for _ in range(150)])
    await asyncio.sleep(1)
    # What is small goes on as ever.
    assert (await asyncio.to_thread(client.http.post, "/tasks", json={"title": "small"})).status_code == 201
    found = [answer for answer in await answers if answer is not None]
    # Those that were held to their end are blank, which is no JSON.
    assert {answer.status_code for answer in found} <= {400, 503}
    refused = [answer for answer in found if answer.status_code == 503]
    assert refused
    assert {(answer.json()["code"], answer.headers["retry-after"]) for answer in refused} == {("BUSY", "1")}
    assert len(refused) < 150
    assert peak(server.process.pid) - before < 180 * MIB
    # All of it is given back: there is room for as many again.
    body = json.dumps({"title": "a"}).encode().ljust(900_000)
    for _ in range(80):
        answer = await asyncio.to_thread(client.http.post, "/tasks", content=body, headers=headers)
        assert answer.status_code == 201
    client.http.close()
    assert "Traceback" not in server.log()
