"""What the tests of backups share: a house with people, tasks and files, and the same seen again after a restore."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx

from tests.commands import Done, run_duly
from tests.fixtures.application import PASSWORD
from tests.fixtures.server import Server

KEY = "the-key-of-the-backed-up-house-0123456789"
CONTENT = b"bytes of an attachment " * 40_000  # close to a MiB
EMAIL = "ann@example.com"


async def furnish(server: Server) -> dict[str, Any]:
    """Somebody with tasks in every state and a file; what they saw."""
    async with client_of(server) as client:
        body = {"email": EMAIL, "password": PASSWORD}
        answer = await client.post("/auth/register", json=body)
        assert answer.status_code == 201, answer.text
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        fields: dict[str, Any] = {"tags": ["Ä", "b"], "priority": "high", "due_date": "2030-01-02T03:04:05.678901Z"}
        tasks = [(await client.post("/tasks", json={"title": f"task {i} 💥", **fields})).json() for i in range(5)]
        await client.post(f"/tasks/{tasks[1]['id']}/complete")
        await client.delete(f"/tasks/{tasks[2]['id']}")
        upload = {"file": ("notes.bin", CONTENT)}
        file = await client.post(f"/tasks/{tasks[0]['id']}/attachments", files=upload)
        assert file.status_code == 201, file.text
        return await look_around(client)


def client_of(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"{server.base_url}/api/v1", trust_env=False, timeout=60)


async def look_around(client: httpx.AsyncClient) -> dict[str, Any]:
    """All that somebody sees of their own."""
    tasks = (await client.get("/tasks", params={"limit": 100, "sort": "created_at"})).json()
    changes = (await client.get("/changes", params={"limit": 100})).json()
    found = {
        "tasks": tasks["items"],
        "total": tasks["total"],
        "trash": (await client.get("/tasks/trash")).json()["items"],
        "stats": (await client.get("/tasks/stats")).json(),
        "changes": [{**change, "cursor": None} for change in changes["items"]],
        "cursor": changes["next_cursor"],
        "files": {},
    }
    for task in tasks["items"]:
        for file in (await client.get(f"/tasks/{task['id']}/attachments")).json()["items"]:
            path = f"/tasks/{task['id']}/attachments/{file['id']}"
            found["files"][file["id"]] = (await client.get(path)).content
    return found


async def come_back(server: Server, seen: dict[str, Any]) -> None:
    """After a restore: the login works, everything is there, the old cursor resumes, and work goes on."""
    async with client_of(server) as client:
        answer = await client.post("/auth/login", json={"email": EMAIL, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        found = await look_around(client)
        assert {**found, "cursor": None} == {**seen, "cursor": None}
        assert list(found["files"].values()) == [CONTENT]
        made = (await client.post("/tasks", json={"title": "after the restore"})).json()
        later = (await client.get("/changes", params={"since": seen["cursor"]})).json()["items"]
        assert [(change["type"], change["task_id"]) for change in later] == [("task.created", made["id"])]
        hits = (await client.get("/tasks", params={"search": "restore"})).json()["items"]
        assert [task["id"] for task in hits] == [made["id"]]


async def backup(folder: Path, target: Path, *words: str, **settings: Any) -> Done:
    """Run `duly backup`."""
    return await run_duly(folder, "backup", str(target), "--quiet", *words, secret_key=KEY, **settings)


async def restore(folder: Path, source: Path, *words: str, **settings: Any) -> Done:
    """Run `duly restore` for a house in `folder`."""
    given = {"secret_key": KEY, **settings}
    return await run_duly(folder, "restore", str(source), "--quiet", "--yes", *words, **given)


async def damage(source: Path, target: Path, place: int) -> Path:
    """A copy with one flipped byte."""
    await asyncio.to_thread(shutil.copy, source, target)
    with target.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 0x41]))
    return target
