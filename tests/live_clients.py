"""Readers of the live feed as clients write them, over real sockets: Server-Sent Events and WebSocket."""

import asyncio
import contextlib
import itertools
import json
import socket as socketlib
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import Popen
from sys import executable
from typing import Any, Protocol

import httpx
import jwt
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from duly.kit.clock import now
from duly.kit.jwt import AccessTokens
from duly.kit.secrets import derive_key
from tests.fixtures.application import PASSWORD, Person
from tests.fixtures.server import Server, environment, free_port, wait_until_ready

Change = dict[str, Any]
PATIENCE = 10.0
KINDS = ("sse", "websocket")
SECRET = "a-key-that-is-only-in-the-live-tests-1"
_numbers = itertools.count(1)


class Reader(Protocol):
    """What both have in common: where the stream began, what came, and, when it is over, why."""

    cursor: str
    ending: str | None

    async def next(self) -> Change | None:
        """The next change, in the form of GET /changes; None when the stream is over."""
        ...


class EventReader:
    """`GET /events`. `ending` is the code of the last event, None when the connection broke."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.cursor = ""
        self.ending: str | None = None
        self.reconnect: bool | None = None
        self.comments: list[str] = []
        self._lines = response.aiter_lines()

    async def event(self) -> dict[str, str] | None:
        """The next event's fields; None at the end."""
        fields: dict[str, str] = {}
        try:
            async for line in self._lines:
                if not line:
                    if fields:
                        return fields
                    continue
                name, _, value = line.partition(":")
                if not name:
                    self.comments.append(value.strip())
                    continue
                assert name not in fields, "a field stands twice in one event"
                fields[name] = value.removeprefix(" ")
        except httpx.TransportError:
            pass
        return None

    async def next(self) -> Change | None:
        """See `Reader`."""
        event = await self.event()
        if event is None:
            return None
        data: dict[str, Any] = json.loads(event["data"])
        if event["event"] == "end":
            self.ending, self.reconnect = data["code"], data["reconnect"]
            assert await self.event() is None, "something came after the end"
            return None
        assert event["id"] == data["cursor"]
        assert event["event"] == data["type"]
        return data


class SocketReader:
    """`/ws`. `ending` is the close code as text, and `reason` what the server said to it."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.cursor = ""
        self.ending: str | None = None
        self.reason = ""

    async def message(self) -> dict[str, Any] | None:
        """The next message; None at the end."""
        try:
            found: dict[str, Any] = json.loads(await self.connection.recv())
        except ConnectionClosed as closed:
            self.ending = str(closed.rcvd.code) if closed.rcvd else None
            self.reason = closed.rcvd.reason if closed.rcvd else ""
            return None
        return found

    async def next(self) -> Change | None:
        """See `Reader`."""
        message = await self.message()
        if message is None:
            return None
        assert list(message) == ["type", "cursor", "event", "task_id", "at", "task"]
        assert message.pop("type") == "change"
        return {("type" if name == "event" else name): value for name, value in message.items()}


@contextlib.asynccontextmanager
async def events(
    base_url: str, token: str, since: str | None = None, path: str = "/api/v1/events"
) -> AsyncIterator[Any]:
    """An `EventReader` that is ready, resumed by `Last-Event-ID`."""
    headers = {"Authorization": f"Bearer {token}"} | ({"Last-Event-ID": since} if since else {})
    async with (
        httpx.AsyncClient(base_url=base_url, trust_env=False, timeout=httpx.Timeout(PATIENCE, read=60)) as client,
        client.stream("GET", path, headers=headers) as response,
    ):
        if response.status_code != 200:
            await response.aread()
            raise Refused(response.status_code, response.json().get("code", ""))
        reader = EventReader(response)
        ready = await reader.event()
        if ready is None:
            raise ConnectionError("the stream broke before it was ready")
        assert ready["event"] == "ready", ready
        reader.cursor = ready["id"]
        assert json.loads(ready["data"]) == {"cursor": reader.cursor}
        yield reader


@contextlib.asynccontextmanager
async def socket(base_url: str, token: str, since: str | None = None, path: str = "/api/v1/ws") -> AsyncIterator[Any]:
    """A `SocketReader` that is ready."""
    async with connect(base_url.replace("http", "ws") + path, proxy=None) as connection:
        greeting = {"type": "auth", "token": token} | ({"since": since} if since else {})
        await connection.send(json.dumps(greeting))
        reader = SocketReader(connection)
        ready = await reader.message()
        if ready is None:
            raise Refused(int(reader.ending or 0), reader.reason)
        assert list(ready) == ["type", "cursor"]
        assert ready["type"] == "ready"
        reader.cursor = ready["cursor"]
        yield reader


class Refused(Exception):
    """The stream did not begin: an HTTP status or a close code, and the code that says why."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code


OPEN = {"sse": events, "websocket": socket}


async def collect(reader: Reader, count: int) -> list[Change]:
    """So many changes, each waited for."""
    found: list[Change] = []
    while len(found) < count:
        async with asyncio.timeout(PATIENCE):
            change = await reader.next()
        assert change is not None, f"over after {len(found)}: {reader.ending}"
        found.append(change)
    return found


async def over(reader: Reader) -> list[Change]:
    """What still comes until the stream is over."""
    found: list[Change] = []
    async with asyncio.timeout(PATIENCE):
        while (change := await reader.next()) is not None:
            found.append(change)
    return found


async def feed(client: httpx.AsyncClient, token: str, since: str | None = None) -> list[Change]:
    """The whole of GET /changes, or what comes after a cursor."""
    found: list[Change] = []
    while True:
        query = {"limit": "100"} | ({"since": since} if since else {})
        answer = await client.get("/api/v1/changes", params=query, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["items"]
        since = page["next_cursor"]
        if not page["has_more"]:
            return found


async def register(client: httpx.AsyncClient) -> Person:
    """Somebody new."""
    email = f"reader{next(_numbers)}@example.com"
    answer = await client.post("/api/v1/auth/register", json={"email": email, "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    return Person(client, body["user"]["id"], email, body["access_token"], body["refresh_token"])


def short_lived(person: Person, *, seconds: int) -> str:
    """A token of the person's session that expires soon, from a server whose key is `SECRET`."""
    claims = jwt.decode(person.access_token, options={"verify_signature": False})
    tokens = AccessTokens(derive_key(SECRET, "access-token"), "duly", "duly", seconds)
    return tokens.issue(user_id=person.user_id, session_id=claims["sid"], token_id=claims["jti"], issued_at=now())


async def small_socket(base_url: str) -> socketlib.socket:
    """A connection whose client's side holds little, so that a server soon finds out that nobody reads."""
    host, port = base_url.removeprefix("http://").split(":")
    connection = socketlib.socket()
    connection.setsockopt(socketlib.SOL_SOCKET, socketlib.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
    return connection


@contextlib.asynccontextmanager
async def deaf_reader(base_url: str, token: str) -> AsyncIterator[socketlib.socket]:
    """A client of /events that reads the first event and then nothing, with small buffers."""
    loop = asyncio.get_running_loop()
    with await small_socket(base_url) as connection:
        head = f"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        await loop.sock_sendall(connection, head.encode())
        answer = b""
        while b"event: ready" not in answer:
            piece = await loop.sock_recv(connection, 1024)
            assert piece, answer
            answer += piece
        yield connection


async def fill(person: Person) -> None:
    """More changes than the buffers of any connection hold: 8 MB."""
    tasks = [{"op": "create", "task": {"title": "large", "description": "🪴" * 2000}}] * 100
    for _ in range(10):
        answer = await person.post("/tasks/bulk", json={"operations": tasks})
        assert answer.status_code == 200, answer.text


def serve(folder: Path, port: int | None = None, **settings: Any) -> Server:
    """`duly serve`, ready; whoever starts it ends it."""
    port = port or free_port()
    output = folder / f"server-{port}.log"
    with output.open("wb") as log:
        process = Popen(
            [executable, "-m", "duly", "serve"], cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env=environment(folder, port=port, **settings),
        )  # fmt: skip
    server = Server(process, f"http://127.0.0.1:{port}", output)
    wait_until_ready(server)
    return server
