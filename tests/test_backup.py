"""`duly backup`: all that was acknowledged before it began, whole or not at all, while others go on."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from duly.cli.backing_up import Silence
from duly.operations.archive import BadArchive
from duly.operations.archive_reading import read_rows, verify
from duly.operations.backup import write_file
from duly.settings import Settings
from tests.backups import CONTENT, KEY, backup, client_of, furnish
from tests.commands import answer, refusal
from tests.fixtures.application import PASSWORD, Api, Person, StartApp
from tests.fixtures.server import Server, StartServer, environment
from tests.fixtures.stored import Stored

WRITERS = 8


def settings_of(url: str, folder: Path, **more: Any) -> Settings:
    return Settings(_env_file=None, database_url=url, data_dir=folder, secret_key=KEY, **more)


def titles_in(path: Path) -> set[str]:
    """The titles of all tasks of a verified backup."""
    with path.open("rb") as file:
        archive = verify(file, Silence())
        return {
            row[table.columns.index("title")]
            for table, rows in read_rows(file, archive)
            if table.name == "tasks"
            for row in rows
        }


@pytest.mark.covers("B081")
async def test_any_tar_reads_it_and_it_is_for_its_owner_alone_and_holds_no_key(
    start_server: StartServer, database_url: str, dialect: str, tmp_path: Path
) -> None:
    await furnish(start_server(database_url=database_url, secret_key=KEY))
    path = tmp_path / "x.tar"
    said = answer(await backup(tmp_path, path, database_url=database_url))
    assert (said.startswith(f"{path}: "), path.stat().st_mode & 0o777) == (True, 0o600)
    assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []  # noqa: PTH208
    with tarfile.open(path) as tar:
        names = tar.getnames()
        pieces = [tar.extractfile(name) for name in names if name.startswith("files/")]
        assert b"".join(piece.read() for piece in pieces if piece) == CONTENT
        head = json.load(tar.extractfile("duly-backup.json") or io.BytesIO())
    assert (names[0], names[-2:]) == ("duly-backup.json", ["manifest.json", "sha256"])
    assert (head["format"], head["version"], head["dialect"]) == ("duly.backup", 1, dialect)
    raw = path.read_bytes()
    assert KEY.encode() not in raw
    assert PASSWORD.encode() not in raw


async def test_a_file_that_exists_is_replaced_only_when_asked_and_only_by_a_whole_one(
    database_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(b"yesterday's")
    assert "--overwrite" in refusal(await backup(tmp_path, path, database_url=database_url))
    gone = f"{database_url}_gone"
    refusal(await backup(tmp_path, path, "--overwrite", database_url=gone, startup_timeout_seconds=0))
    assert path.read_bytes() == b"yesterday's"
    answer(await backup(tmp_path, path, "--overwrite", database_url=database_url))
    assert titles_in(path) == set()


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
def test_it_goes_through_a_pipe(database_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "duly", "backup", "-", "--quiet"]
    environ = environment(tmp_path, database_url=database_url, secret_key=KEY)
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, timeout=60, check=True)
    (tmp_path / "piped.tar").write_bytes(done.stdout)
    assert titles_in(tmp_path / "piped.tar") == set()
    assert b"-: " in done.stderr


async def write_on(server: Server, headers: dict[str, str], told: list[tuple[float, str]], name: str) -> None:
    """Create tasks until cancelled, and note when each was acknowledged."""
    async with httpx.AsyncClient(base_url=server.base_url, headers=headers, trust_env=False, timeout=60) as client:
        number = 0
        while True:
            title = f"{name}-{number}"
            done = await client.post("/api/v1/tasks", json={"title": title})
            assert done.status_code == 201, done.text
            told.append((time.monotonic(), title))
            number += 1


async def back_up_under_writes(
    server: Server, url: str, folder: Path, *, writers: int, least: int
) -> tuple[Path, set[str], list[tuple[float, str]]]:
    """A backup made while writers write: its file, what was acknowledged before it began, and everything."""
    async with client_of(server) as client:
        body = {"email": "writer@example.com", "password": PASSWORD}
        token = (await client.post("/auth/register", json=body)).json()["access_token"]
    told: list[tuple[float, str]] = []
    headers = {"Authorization": f"Bearer {token}"}
    tasks = [asyncio.create_task(write_on(server, headers, told, f"w{i}")) for i in range(writers)]
    try:
        while len(told) < least:
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in tasks)
        begun = time.monotonic()
        path = folder / "under-writes.tar"
        answer(await backup(folder, path, database_url=url))
        await asyncio.sleep(0.2)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return path, {title for moment, title in told if moment <= begun}, told


@pytest.mark.covers("B081")
async def test_it_holds_all_that_was_acknowledged_before_it_began(
    start_server: StartServer, database_url: str, tmp_path: Path
) -> None:
    server = start_server(database_url=database_url, secret_key=KEY)
    path, before, told = await back_up_under_writes(server, database_url, tmp_path, writers=WRITERS, least=50)
    found = titles_in(path)
    assert before <= found
    # The writers went on meanwhile, or nothing was shown.
    assert len(told) > len(before)


# Backs up, and is killed when a part of the attachments is written.
_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from duly.cli import migrating  # knows every table
from duly.operations.backup import write_file
from duly.settings import Settings

class Killed:
    def begin(self, step, total):
        self.step = step

    def advance(self, count):
        if self.step == "attachments":
            os.kill(os.getpid(), signal.SIGKILL)

url, folder, key, path = sys.argv[1:]
settings = Settings(_env_file=None, database_url=url, data_dir=folder, secret_key=key)
asyncio.run(write_file(settings, Path(path), Killed()))
"""


def drafts_in(folder: Path) -> list[int]:
    """How long each part of a backup is."""
    return [draft.stat().st_size for draft in folder.glob(".x.tar.*.part")]


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_killed_in_the_middle_it_leaves_nothing_under_the_name(
    api: Api, ann: Person, database_url: str, tmp_path: Path
) -> None:
    task = await ann.add_task()
    for number in range(3):
        files = {"file": (f"{number}", os.urandom(1024 * 1024))}
        assert (await ann.post(f"/tasks/{task['id']}/attachments", files=files)).status_code == 201
    path = tmp_path / "x.tar"
    command = [sys.executable, "-c", _KILLED, database_url, str(tmp_path), KEY, str(path)]
    killed = await asyncio.to_thread(subprocess.run, command, cwd=tmp_path, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert [size > 0 for size in drafts_in(tmp_path)] == [True]
    assert not path.exists()
    answer(await backup(tmp_path, path, database_url=database_url))


class Meanwhile(Silence):
    """Does something when the backup comes to the attachments: its snapshot is open, and no byte is copied yet."""

    def __init__(self, act: Any) -> None:
        self._act = act

    def begin(self, step: str, total: int) -> None:
        if step == "attachments":
            self._act()


@pytest.mark.covers("B081")
async def test_a_file_that_is_purged_meanwhile_is_left_out_and_one_that_is_lost_is_named(
    start_app: StartApp, database_url: str, stored: Stored, tmp_path: Path
) -> None:
    api = await start_app(secret_key=KEY)
    ann = await api.register()
    task = await ann.add_task()
    upload = f"/tasks/{task['id']}/attachments"
    kept, purged, lost, altered = [
        (await ann.post(upload, files={"file": (name, name.encode() * 9)})).json()
        for name in ("kept", "purged", "lost", "altered")
    ]
    keys = dict(await stored.rows("SELECT id, key FROM attachments"))
    store = tmp_path / "files"

    def act() -> None:
        # Its row goes first, as when it is deleted; by another thread, since this one is in the loop.
        thread = subprocess.run([sys.executable, "-c", _DELETE, database_url, purged["id"]], check=True, timeout=30)
        assert thread.returncode == 0
        for gone in (purged, lost):
            (store / keys[gone["id"]]).unlink()
        (store / keys[altered["id"]]).write_bytes(b"something else")

    path = tmp_path / "x.tar"
    made = await write_file(settings_of(database_url, tmp_path), path, Meanwhile(act))
    assert set(made.missing) == {lost["id"], altered["id"]}
    with path.open("rb") as file:
        archive = verify(file, Silence())
        rows = [row for table, rows in read_rows(file, archive) if table.name == "attachments" for row in rows]
    assert {row[0] for row in rows} == {kept["id"], lost["id"], altered["id"]}
    assert archive.manifest.unused == [keys[altered["id"]]]


_DELETE = """
import sys, asyncio, apsw, asyncpg
url, name = sys.argv[1:]
if url.startswith("sqlite"):
    link = apsw.Connection(url.removeprefix("sqlite:///"))
    link.set_busy_timeout(5000)
    link.execute("DELETE FROM attachments WHERE id = ?", (name,))
else:
    async def run():
        link = await asyncpg.connect(url)
        await link.execute("DELETE FROM attachments WHERE id = $1", name)
        await link.close()
    asyncio.run(run())
"""


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_bytes_that_are_lost_are_said_with_exit_code_1_and_the_backup_stays(
    api: Api, ann: Person, database_url: str, tmp_path: Path
) -> None:
    task = await ann.add_task()
    file = (await ann.post(f"/tasks/{task['id']}/attachments", files={"file": ("a", b"text")})).json()
    for path in (tmp_path / "files").rglob("*"):
        if path.is_file():
            path.unlink()
    line = refusal(await backup(tmp_path, tmp_path / "x.tar", database_url=database_url))
    assert file["id"] in line
    assert titles_in(tmp_path / "x.tar") == {task["title"]}


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_every_flipped_byte_and_every_cut_is_found(database_url: str, ann: Person, tmp_path: Path) -> None:
    task = await ann.add_task()
    await ann.post(f"/tasks/{task['id']}/attachments", files={"file": ("a", os.urandom(700))})
    path = tmp_path / "x.tar"
    await write_file(settings_of(database_url, tmp_path), path, Silence())
    whole = path.read_bytes()
    verify(io.BytesIO(whole), Silence())
    for place in range(0, len(whole), 37):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        with pytest.raises(BadArchive):
            verify(io.BytesIO(bytes(flipped)), Silence())
    for size in range(0, len(whole), 256):
        with pytest.raises(BadArchive):
            verify(io.BytesIO(whole[:size]), Silence())
    with pytest.raises(BadArchive):
        verify(io.BytesIO(whole + b"\0"), Silence())
