"""An application in which every table has rows, because people used it."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from duly.db.shapes import CARRIED
from tests.fixtures.application import PASSWORD, Api, Person
from tests.second_connection import second_connection

FILE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
KEY = {"Idempotency-Key": "once-and-only-once"}
PATIENCE = 30
# What the application goes on to write by itself when nobody asks it anything any more.
_LATE = ("SELECT count(*) FROM outbox WHERE state = 'waiting'", "SELECT count(*) FROM audit_log WHERE position IS NULL")


@dataclass(slots=True)
class Filled:
    """Who used it, what they know of it, and what they were told at the end."""

    ann: Person
    ben: Person
    tasks: list[dict[str, Any]]
    trashed: dict[str, Any]
    attachment: dict[str, Any]
    answer: dict[str, Any]
    cursor: str
    positions: int


class Silent:
    """Watches a copy and says nothing."""

    def begin(self, step: str, table: str, total: int) -> None: ...

    def advance(self, rows: int) -> None: ...


async def fill_everything(api: Api) -> Filled:
    """Accounts, sessions ended and open, tasks, trash, a file, kept answers, mails and audit; every table has a row."""
    ann, ben = await api.register(), await api.register()
    tasks = [
        await ann.add_task(f"Tâche {number} 🌱", description='"quoted"\\\n\tand 末', tags=["b", "a é"], priority="high")
        for number in range(3)
    ]
    tasks.append(await ann.add_task("Due", due_date="2031-05-05T05:05:05.000005Z"))
    await ann.patch(f"/tasks/{tasks[0]['id']}", json={"completed": True})
    trashed = await ann.add_task("Thrown away")
    await ann.delete(f"/tasks/{trashed['id']}")
    await ben.add_task("Somebody else's")
    uploaded = await ann.post(f"/tasks/{tasks[1]['id']}/attachments", files={"file": ("dot.png", FILE)})
    assert uploaded.status_code == 201, uploaded.text
    answer = await ann.post("/tasks", json={"title": "Asked twice"}, headers=KEY)
    assert answer.status_code == 201, answer.text
    wrong = {"email": ann.email, "password": "no-such-password-1"}
    assert (await api.client.post("/api/v1/auth/login", json=wrong)).status_code == 401
    assert (await (await api.log_in(ann.email, PASSWORD)).post("/auth/logout")).status_code == 204
    changes = (await ann.get("/changes?limit=100")).json()
    await _wait_for_every_table(str(api.settings.database_url))
    return Filled(
        ann, ben, tasks, trashed, uploaded.json(), answer.json(), changes["next_cursor"], len(changes["items"])
    )


async def _wait_for_every_table(url: str) -> None:
    """Mails are made, and audit entries linked, a moment after what they tell of."""
    deadline = time.monotonic() + PATIENCE
    async with second_connection(url) as other:
        while True:
            empty = [table for table in CARRIED if not await other.value(f"SELECT count(*) FROM {table}")]
            late = [sql for sql in _LATE if await other.value(sql)]
            if not empty and not late:
                return
            assert time.monotonic() < deadline, f"nothing was written to {empty}, or {late} does not end"
            await asyncio.sleep(0.05)
