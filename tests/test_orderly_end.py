"""SIGTERM with everything open at once: what runs is finished, listeners are told, who is stuck holds nothing up."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fixtures.application import Person
from tests.fixtures.server import Server
from tests.live_clients import SECRET, deaf_reader, events, register, serve, socket

SIZE = 400_000
# Ten seconds are promised; the rest is for a busy machine.
LONGEST_END = 13.0
MORE_NOTICE = 1.5
PATIENCE = 20.0
pytestmark = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


class SlowUpload:
    """An attachment that is sent in halves."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def begin(cls, server: Server, person: Person, task: str) -> "SlowUpload":
        """Send the head and the first half."""
        address = urlsplit(server.base_url)
        upload = cls(*await asyncio.open_connection(address.hostname, address.port))
        body = upload.body()
        head = "\r\n".join(
            (
                f"POST /api/v1/tasks/{task}/attachments HTTP/1.1", "Host: x", f"Content-Length: {len(body)}",
                f"Authorization: Bearer {person.access_token}", "Content-Type: multipart/form-data; boundary=cut",
                "\r\n",
            )
        )  # fmt: skip
        upload._writer.write(head.encode() + body[: len(body) // 2])
        await upload._writer.drain()
        return upload

    @staticmethod
    def body() -> bytes:
        """One file as multipart."""
        head = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
        return head + b"\1" * SIZE + b"\r\n--cut--\r\n"

    async def finish(self) -> tuple[int, bytes]:
        """Send the rest; the status and the body of the answer."""
        body = self.body()
        self._writer.write(body[len(body) // 2 :])
        await self._writer.drain()
        answer = await self._reader.read()
        self.close()
        head, _, content = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), content

    def close(self) -> None:
        """Hang up."""
        self._writer.transport.abort()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


async def test_with_everything_open_and_some_of_it_stuck_it_ends_in_time_and_loses_nothing(
    database_url: str, tmp_path: Path, stack: AsyncExitStack
) -> None:
    settings = {"database_url": database_url, "secret_key": SECRET, "log_level": "info"}
    # Longer than the half second that is the default, so that a slow machine can ask while it lasts.
    server = await asyncio.to_thread(serve, tmp_path, **settings, drain_notice_seconds=0.5 + MORE_NOTICE)
    stack.callback(server.kill)
    client = await stack.enter_async_context(httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20))
    person = await register(client)
    task = (await person.add_task("A"))["id"]

    upload = await SlowUpload.begin(server, person, task)
    stuck = await SlowUpload.begin(server, person, task)
    stack.callback(stuck.close)
    await stack.enter_async_context(deaf_reader(server.base_url, person.access_token))
    deaf = await stack.enter_async_context(socket(server.base_url, person.access_token))
    deaf.connection.transport.pause_reading()
    stack.callback(deaf.connection.transport.abort)
    sse = await stack.enter_async_context(events(server.base_url, person.access_token))
    web = await stack.enter_async_context(socket(server.base_url, person.access_token))

    begun = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        while (await client.get("/health/ready")).status_code != 503:  # noqa: ASYNC110 - another process says it
            await asyncio.sleep(0.01)
        noticed = time.monotonic() - begun
        assert (await client.get("/health/live")).status_code == 200
        assert (await sse.next(), sse.ending, sse.reconnect) == (None, "SERVER_RESTARTS", True)
        assert (await web.next(), web.ending) == (None, "1012")
        told = time.monotonic() - begun
        status, content = await upload.finish()
    assert status == 201, content
    assert await asyncio.to_thread(server.process.wait, PATIENCE) == 0
    ended = time.monotonic() - begun
    print(f"\nnot ready after {noticed:.2f} s, streams told after {told:.2f} s, gone after {ended:.2f} s")  # noqa: T201
    assert ended < LONGEST_END + MORE_NOTICE
    await check_after_the_restart(tmp_path, settings, person, task, json.loads(content)["id"])


async def check_after_the_restart(
    folder: Path, settings: dict[str, str], person: Person, task: str, attachment: str
) -> None:
    """The finished upload is there, byte for byte, and nothing of the stuck one."""
    again = await asyncio.to_thread(serve, folder, **settings)
    try:
        async with httpx.AsyncClient(
            base_url=f"{again.base_url}/api/v1", headers=person.headers, trust_env=False
        ) as client:
            listed = (await client.get(f"/tasks/{task}/attachments")).json()["items"]
            assert [one["id"] for one in listed] == [attachment]
            assert (await client.get(f"/tasks/{task}/attachments/{attachment}")).content == b"\1" * SIZE
        kept = [path.stat().st_size for path in (folder / "files").rglob("*") if path.is_file()]
        assert kept == [SIZE]
    finally:
        again.kill()
