"""The machine's clock jumps a day ahead and an hour back while Duly runs: everybody can go on, and nothing waits a day.

libfaketime gives the server a clock that the test sets; the time that passes (the monotonic clock) stays true.
"""

import asyncio
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from tests.fixtures.application import PASSWORD
from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import StartServer
from tests.fixtures.smtp import MailServer

PATIENCE = 20.0


class Clock:
    """The clock of a server; set as an offset in seconds."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not found:
            skip_or_fail("libfaketime is needed: apt-get install libfaketime")
        self._file = folder / "clock"
        self.jump(0)
        self.settings = {
            "ld_preload": found[0], "faketime_timestamp_file": self._file, "faketime_cache_duration": 1,
            "faketime_dont_fake_monotonic": 1, "dont_fake_monotonic": 1,
        }  # fmt: skip

    def jump(self, seconds: int) -> None:
        """Soon the clock is this far from the true one; the server looks once a second."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.replace(self._file)

    @staticmethod
    async def has_jumped(client: httpx.AsyncClient, seconds: int) -> None:
        """Until the server's answers bear the new time."""
        deadline = time.monotonic() + PATIENCE
        while True:
            said = parsedate_to_datetime((await client.get("/health/live")).headers["date"])
            if abs((said - datetime.now(UTC)).total_seconds() - seconds) < 60:
                return
            assert time.monotonic() < deadline, said
            await asyncio.sleep(0.05)


class Visitor:
    """Somebody who does what people do, and is told nothing that a client could not deal with."""

    def __init__(self, client: httpx.AsyncClient, number: int) -> None:
        self.client = client
        self.email = f"visitor{number}@example.com"
        self.tokens: dict[str, Any] = {}
        self.cursor = ""
        self.done = 0

    async def ask(self, method: str, path: str, expected: tuple[int, ...], **options: Any) -> httpx.Response:
        """A signed request; every status that is not expected is a failure."""
        headers = {"Authorization": f"Bearer {self.tokens.get('access_token', 'x.y.z')}", **options.pop("headers", {})}
        answer = await self.client.request(method, f"/api/v1{path}", headers=headers, **options)
        assert answer.status_code in expected, (path, answer.status_code, answer.text)
        return answer

    async def register(self) -> None:
        account = {"email": self.email, "password": PASSWORD}
        self.tokens = (await self.ask("POST", "/auth/register", (201,), json=account)).json()

    async def go_on(self) -> None:
        """As a client does: refresh when the token has run out, and log in when that does not help."""
        if (await self.ask("GET", "/auth/me", (200, 401))).status_code == 401:
            body = {"refresh_token": self.tokens["refresh_token"]}
            answer = await self.ask("POST", "/auth/refresh", (200, 401), json=body)
            if answer.status_code == 401:
                answer = await self.ask("POST", "/auth/login", (200,), json={"email": self.email, "password": PASSWORD})
            self.tokens = answer.json()
        await self.ask("GET", "/auth/me", (200,))

    async def work(self) -> None:
        """Write, repeat it, change it, list, search, follow the feed, look at the sessions; twice over."""
        for _ in range(2):
            self.done += 1
            title = f"Task number {self.done}"
            key = {"Idempotency-Key": f"key-{self.done}"}
            first = await self.ask("POST", "/tasks", (201,), json={"title": title}, headers=key)
            again = await self.ask("POST", "/tasks", (201,), json={"title": title}, headers=key)
            assert again.json()["id"] == first.json()["id"]
            changed = await self.ask("PATCH", f"/tasks/{first.json()['id']}", (200,), json={"priority": "high"})
            assert changed.json()["version"] == 2
        listed = (await self.ask("GET", "/tasks", (200,))).json()
        assert listed["total"] == self.done
        found = (await self.ask("GET", "/tasks", (200,), params={"search": title})).json()
        assert [task["title"] for task in found["items"]] == [title]
        await self.ask("GET", "/tasks/stats", (200,))
        await self.ask("GET", "/auth/sessions", (200,))
        query = {"since": self.cursor} if self.cursor else {}
        feed = (await self.ask("GET", "/changes", (200,), params=query)).json()
        assert [change["type"] for change in feed["items"]] == ["task.created", "task.updated"] * 2
        self.cursor = feed["next_cursor"]


async def test_nobody_is_stuck_when_the_clock_jumps_ahead_and_back(
    start_server: StartServer, mail_server: MailServer, database_url: str, tmp_path: Path
) -> None:
    clock = Clock(tmp_path)
    server = await asyncio.to_thread(
        start_server, database_url=database_url, rate_limit_enabled="true", rate_limit_user="2000/hour",
        public_url="https://tasks.example.com", **mail_server.settings, **clock.settings,
    )  # fmt: skip
    async with httpx.AsyncClient(base_url=server.base_url, timeout=PATIENCE, trust_env=False) as client:
        visitors = [Visitor(client, number) for number in range(4)]
        for number, seconds in enumerate((0, 86_400, -3600, 0)):
            clock.jump(seconds)
            await clock.has_jumped(client, seconds)
            newcomer = visitors[number]
            mail_server.mode = "451" if seconds > 0 else "ok"
            await newcomer.register()
            for visitor in {visitors[0], newcomer}:
                await visitor.go_on()
                await visitor.work()
            if seconds > 0:
                await until_tried(mail_server)
            else:
                # Also what was put off while the clock was a day ahead.
                for visitor in visitors[: number + 1]:
                    await mail_server.wait_for(visitor.email, seconds=PATIENCE)
            assert (await client.get("/health/ready")).status_code == 200
        for visitor in visitors:
            assert len(mail_server.to(visitor.email)) == 1
    assert "Traceback" not in server.log()
    assert await asyncio.to_thread(server.stop) == 0


async def until_tried(mail_server: MailServer) -> None:
    """Until a mail was put off."""
    before = mail_server.connections
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while mail_server.connections < before + 1:
        assert asyncio.get_running_loop().time() < deadline, "nobody tried to send the mail"
        await asyncio.sleep(0.02)
