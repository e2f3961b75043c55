"""What a live stream waits for, and how long: clients that do not read, do not speak, or have nothing to hear.

The waiting is done once, for all of them together.
"""

import asyncio
import contextlib
import json
import re
import time
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.fixtures.application import Person
from tests.fixtures.server import Server
from tests.live_clients import (
    Refused,
    collect,
    deaf_reader,
    events,
    fill,
    register,
    serve,
    small_socket,
    socket,
)

MEBIBYTE = 1024 * 1024


def resident_bytes(server: Server) -> int:
    """The memory that the process has now."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


async def silent_socket(server: Server) -> float:
    """After how many seconds a WebSocket is closed that never says who it is."""
    begun = time.monotonic()
    async with connect(server.base_url.replace("http", "ws") + "/api/v1/ws", proxy=None) as connection:
        await connection.wait_closed()
        assert (connection.close_code, connection.close_reason) == (4401, "NOT_AUTHENTICATED")
    return time.monotonic() - begun


async def heartbeat(server: Server, person: Person) -> float:
    """After how many seconds a stream without changes says something."""
    begun = time.monotonic()
    headers = {**person.headers, "accept-encoding": "identity"}
    async with (
        httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=30) as client,
        client.stream("GET", "/api/v1/events", headers=headers) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith(":"):
                assert line == ": ping"
                break
    return time.monotonic() - begun


async def deaf_socket(server: Server, person: Person) -> None:
    """A WebSocket whose client stops reading is closed, and says why to a client that reads again."""
    address = server.base_url.replace("http", "ws") + "/api/v1/ws"
    held = await small_socket(server.base_url)
    async with connect(address, sock=held, proxy=None, max_queue=2, ping_interval=None) as connection:
        await connection.send(json.dumps({"type": "auth", "token": person.access_token}))
        assert json.loads(await connection.recv())["type"] == "ready"
        await fill(person)
        await until_logged(server, 2)
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.recv()
        assert (connection.close_code, connection.close_reason) == (1013, "TOO_SLOW")


async def deaf_stream(server: Server, person: Person) -> None:
    """The same over SSE, where the connection breaks; nothing of it stays in the server."""
    async with deaf_reader(server.base_url, person.access_token):
        await fill(person)
        await until_logged(server, 2)


async def filled_and_read(server: Server, person: Person) -> None:
    """The same over SSE, with a client that takes everything at once."""
    async with events(server.base_url, person.access_token) as reader:
        await asyncio.gather(fill(person), collect(reader, 1000))


async def until_logged(server: Server, count: int) -> None:
    async with asyncio.timeout(25):
        while True:
            if (await asyncio.to_thread(server.log)).count("its client took nothing") >= count:
                return
            await asyncio.sleep(0.1)


@pytest.mark.covers("A139")
async def test_who_does_not_read_or_speak_is_let_go_and_nobody_else_suffers(tmp_path: Path) -> None:
    server = await asyncio.to_thread(serve, tmp_path)
    try:
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=30) as client:
            people = [await register(client) for _ in range(4)]
            # What writing and reading so much costs by itself is not what is looked at here.
            await asyncio.gather(*(filled_and_read(server, person) for person in people[2:]))
            before = resident_bytes(server)
            async with events(server.base_url, people[3].access_token) as reader:
                waiting = asyncio.gather(
                    silent_socket(server),
                    heartbeat(server, people[2]),
                    deaf_socket(server, people[0]),
                    deaf_stream(server, people[1]),
                )
                # Meanwhile somebody else's changes come as ever.
                while not waiting.done():
                    task = await people[3].add_task("on")
                    assert (await collect(reader, 1))[0]["task"] == task
                    await asyncio.sleep(0.2)
                silent, beat, *_ = await waiting
            assert 10 <= silent < 15
            assert 15 <= beat < 20
            # Each of the two that did not read had 9 MB to take; a page of it and the connection's buffer were held.
            assert resident_bytes(server) - before < 40 * MEBIBYTE
            for person in people[:2]:
                await all_is_free(server, person)
            assert "Traceback" not in server.log()
    finally:
        server.kill()


async def all_is_free(server: Server, person: Person) -> None:
    """Ten streams can be opened: none of those that were dropped is still counted."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(socket(server.base_url, person.access_token))
        with pytest.raises(Refused):
            await stack.enter_async_context(socket(server.base_url, person.access_token))
