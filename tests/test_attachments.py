"""Files of tasks, over HTTP: what goes up comes down the same, to its owner alone, and nothing of it is left behind."""

import asyncio
import contextlib
import hashlib
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import httpx
import pytest

from duly.db.unit import Database
from duly.files.local import LocalFiles
from duly.files.store import new_key
from duly.kit.clock import now
from duly.tasks import attachments
from tests.fixtures.application import Api, Person, StartApp
from tests.fixtures.object_store import ObjectStore
from tests.fixtures.server import StartServer
from tests.fixtures.stored import Stored
from tests.second_connection import second_connection

shared = pytest.mark.asyncio(loop_scope="module")
FIELDS = ["id", "task_id", "name", "content_type", "size", "sha256", "created_at"]
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(50)
NAMES = {
    "receipt.doc": "receipt.doc",
    'say "hi"; name=x.txt': 'say "hi"; name=x.txt',
    "100%.txt": "100%.txt",
    "Grüße, 世界 💥👩‍👩‍👧.txt": "Grüße, 世界 💥👩‍👩‍👧.txt",
    "e\u0301.txt": "\xe9.txt",
    "'; DROP TABLE tasks; --": "'; DROP TABLE tasks; --",
    "  blanks .txt ": "blanks .txt",
    "a/b/c.txt": "c.txt",
    "..": "file",
    "/": "file",
    ".profile": ".profile",
    "x" * 300 + ".tar": "x" * 251 + ".tar",
    "x" * 300: "x" * 255,
    "x." + "y" * 300: "x." + "y" * 253,
}


async def attach(
    person: Person, task: dict[str, Any], data: bytes = b"text", name: str = "a.txt", **options: Any
) -> Any:
    """Upload a file; the answer."""
    return await person.post(f"/tasks/{task['id']}/attachments", files={"file": (name, data)}, **options)


async def attached(person: Person, task: dict[str, Any], data: bytes = b"text", name: str = "a.txt") -> dict[str, Any]:
    """The JSON of a file that was taken."""
    answer = await attach(person, task, data, name)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def path_of(file: dict[str, Any]) -> str:
    return f"/tasks/{file['task_id']}/attachments/{file['id']}"


def kept(api: Api) -> list[Path]:
    """The files that lie in the store."""
    return [path for path in (api.settings.data_dir / "files").rglob("*") if path.is_file()]


async def until(condition: Any) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.02)
    assert condition()


@pytest.mark.covers("A127", "A138")
async def test_a_file_goes_up_comes_down_and_goes_away(api: Api, ann: Person) -> None:
    task = await ann.add_task()
    empty = {"items": [], "total": 0, "limit": 50, "offset": 0, "next_cursor": None}
    assert (await ann.get(f"/tasks/{task['id']}/attachments")).json() == empty
    data = os.urandom(3_000_000)
    answer = await attach(ann, task, data, "photo.raw", headers={"Content-Type-Hint": "ignored"})
    file = answer.json()
    assert (answer.status_code, list(file)) == (201, FIELDS)
    assert answer.headers["location"] == f"/api/v1{path_of(file)}"
    digest = hashlib.sha256(data).hexdigest()
    assert (file["task_id"], file["name"], file["size"], file["sha256"]) == (task["id"], "photo.raw", len(data), digest)
    second = await attached(ann, task, PNG, "two.png")
    assert second["content_type"] == "image/png"
    listed = (await ann.get(f"/tasks/{task['id']}/attachments")).json()
    assert listed == {**empty, "items": [file, second], "total": 2}
    page = (await ann.get(f"/tasks/{task['id']}/attachments?limit=1&offset=1")).json()
    assert page == {**empty, "items": [second], "total": 2, "limit": 1, "offset": 1}
    down = await ann.get(path_of(file))
    assert (down.status_code, down.content) == (200, data)
    assert len(kept(api)) == 2
    assert (await ann.delete(path_of(file))).status_code == 204
    await until(lambda: len(kept(api)) == 1)
    for method in ("GET", "DELETE"):
        assert (await ann.request(method, path_of(file))).status_code == 404
    assert (await ann.get(f"/tasks/{task['id']}/attachments")).json()["items"] == [second]


@shared
async def test_a_download_says_what_it_is_and_is_never_shown(carol: Person) -> None:
    file = await attached(carol, await carol.add_task(), b"<script>alert(1)</script>" * 1000, "Grüße.html")
    down = await carol.get(path_of(file), headers={"Accept-Encoding": "gzip"})
    assert down.headers["content-type"] == "text/plain; charset=utf-8"
    assert down.headers["content-disposition"] == (
        "attachment; filename=\"Gr__e.html\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe.html"
    )
    assert down.headers["x-content-type-options"] == "nosniff"
    assert down.headers["content-security-policy"].startswith("sandbox; default-src 'none';")
    assert down.headers["cache-control"] == "no-store"
    assert down.headers["cross-origin-resource-policy"] == "same-origin"
    assert down.headers["content-length"] == "25000"
    assert "content-encoding" not in down.headers
    assert down.headers["etag"] == f'"{file["sha256"]}"'


@shared
async def test_parts_heads_and_what_is_held_already(carol: Person) -> None:
    data = bytes(range(256)) * 4
    file = await attached(carol, await carol.add_task(), data)
    tag = f'"{file["sha256"]}"'
    parts = {
        "bytes=0-0": (206, data[:1]), "bytes=10-19": (206, data[10:20]), "bytes=1000-": (206, data[1000:]),
        "bytes=-24": (206, data[-24:]), "bytes=1000-99999": (206, data[1000:]), "Bytes= 5-6": (206, data[5:7]),
        "bytes=-9999": (200, data), "bytes=0-": (200, data), "bytes=1024-": (200, data), "bytes=-0": (200, data),
        "bytes=9-5": (200, data), "bytes=0-1,4-5": (200, data), "bytes=" + "0-," * 5000: (200, data),
        "lines=1-2": (200, data), "bytes=٣-٤".encode(): (200, data), "bytes=" + "9" * 400 + "-": (200, data),
    }  # fmt: skip
    for wanted, (status, expected) in parts.items():
        answer = await carol.get(path_of(file), headers={"Range": wanted})  # type: ignore[dict-item]
        assert (answer.status_code, answer.content) == (status, expected), wanted
        assert answer.headers["content-length"] == str(len(expected))
    assert (await carol.get(path_of(file), headers={"Range": "bytes=1-2"})).headers["content-range"] == "bytes 1-2/1024"
    for condition, status in ((tag, 206), ('"other"', 200), ("Sat, 21 Nov 2026 00:00:00 GMT", 200)):
        headers = {"Range": "bytes=0-1", "If-Range": condition}
        assert (await carol.get(path_of(file), headers=headers)).status_code == status
    for held, status in (
        (tag, 304),
        (f"W/{tag}", 304),
        (f'"x", {tag}', 304),
        ("*", 304),
        ('"x"', 200),
        (tag[:-2], 200),
    ):
        answer = await carol.get(path_of(file), headers={"If-None-Match": held})
        assert (answer.status_code, answer.headers["etag"]) == (status, tag)
    head = await carol.request("HEAD", path_of(file))
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "1024")


@pytest.mark.covers("A127")
@shared
async def test_names_come_back_as_they_were_without_folders_and_controls(carol: Person) -> None:
    task = await carol.add_task()
    for sent, name in NAMES.items():
        file = await attached(carol, task, b"x", sent)
        assert file["name"] == name
        down = await carol.get(path_of(file))
        quoted = down.headers["content-disposition"].partition("filename*=UTF-8''")[2]
        assert httpx.QueryParams(f"name={quoted.replace('+', '%2B')}")["name"] == name
        assert down.headers["content-disposition"].isascii()
        assert down.headers["content-disposition"].isprintable()


@pytest.mark.covers("A127")
@shared
async def test_to_everybody_else_there_is_no_such_file(carol: Person, dave: Person) -> None:
    task, other_task, daves = await carol.add_task(), await carol.add_task(), await dave.add_task()
    file, daves_file = await attached(carol, task), await attached(dave, daves)
    wrong = [
        (dave, task["id"], file["id"]), (dave, daves["id"], file["id"]), (carol, other_task["id"], file["id"]),
        (carol, daves["id"], file["id"]), (carol, task["id"], daves_file["id"]), (carol, "x" * 65, file["id"]),
        (carol, task["id"], "x" * 65), (carol, task["id"], "%00"), (carol, "nobody's", file["id"]),
    ]  # fmt: skip
    for who, task_id, file_id in wrong:
        for method in ("GET", "HEAD", "DELETE"):
            assert (await who.request(method, f"/tasks/{task_id}/attachments/{file_id}")).status_code == 404
    for who, whose in ((dave, task), (carol, daves), (carol, {"id": "nobody's"})):
        assert (await who.get(f"/tasks/{whose['id']}/attachments")).status_code == 404
        assert (await attach(who, whose)).status_code == 404
    assert (await carol.get(path_of(file))).content == b"text"
    assert (await dave.get(path_of(daves_file))).content == b"text"


@shared
async def test_in_the_trash_a_task_shows_no_files_and_restored_it_has_them(house: Api, carol: Person) -> None:
    task = await carol.add_task()
    file = await attached(carol, task)
    await carol.delete(f"/tasks/{task['id']}")
    for method in ("GET", "DELETE"):
        assert (await carol.request(method, path_of(file))).status_code == 404
    assert (await carol.get(f"/tasks/{task['id']}/attachments")).status_code == 404
    assert (await attach(carol, task)).status_code == 404
    await carol.post(f"/tasks/{task['id']}/restore")
    assert (await carol.get(path_of(file))).content == b"text"


@shared
async def test_a_task_and_its_feed_stay_as_they_were(carol: Person) -> None:
    task = await carol.add_task()
    feed = (await carol.get("/changes")).json()
    await carol.delete(path_of(await attached(carol, task)))
    assert (await carol.get(f"/tasks/{task['id']}")).json() == task
    assert (await carol.get("/changes")).json()["items"] == feed["items"]


@pytest.mark.covers("A127")
@shared
async def test_what_is_no_upload_of_one_file_is_refused_and_leaves_nothing(house: Api, carol: Person) -> None:
    before = kept(house)
    address = f"/tasks/{(await carol.add_task())['id']}/attachments"
    two = [("file", ("a", b"a")), ("file", ("b", b"b"))]
    file = {"file": ("a", b"a")}
    sent: list[tuple[dict[str, Any], int]] = [
        ({}, 415), ({"json": {"file": "a"}}, 415), ({"data": {"file": "a"}}, 415),
        ({"content": b"a", "headers": {"Content-Type": "application/octet-stream"}}, 415),
        ({"files": file, "headers": {"Content-Encoding": "gzip"}}, 415),
        ({"content": b"a", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"content": b"a", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400),
        ({"files": two}, 422), ({"files": {"other": ("a", b"a")}}, 422), ({"files": {"file": ("a", b"")}}, 422),
        ({"files": file, "data": {"note": "x"}}, 422), ({"files": {"file": (None, b"a")}}, 422),
        ({"files": file, "params": {"name": "b"}}, 422), ({"files": file, "headers": {"Idempotency-Key": ""}}, 422),
    ]  # fmt: skip
    for options, status in sent:
        answer = await carol.post(address, **options)
        assert answer.status_code == status, (options, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await carol.get(address)).json()["total"] == 0
    assert kept(house) == before


async def test_a_retry_gets_the_first_answer_and_makes_no_second_file(start_app: StartApp) -> None:
    api = await start_app(attachment_quota_bytes=1500)
    ann = await api.register()
    task = await ann.add_task()
    key = {"Idempotency-Key": "once"}
    first = await attach(ann, task, b"x" * 1000, headers=key)
    # Although nothing more fits into the quota.
    again = await attach(ann, task, b"x" * 1000, headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    for data, name in ((b"y" * 1000, "a.txt"), (b"x" * 1000, "b.txt")):
        other = await attach(ann, task, data, name, headers=key)
        assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (await attach(ann, task, b"x" * 1000)).json()["code"] == "QUOTA_EXCEEDED"
    at_once = await asyncio.gather(*(attach(ann, task, b"z", headers={"Idempotency-Key": "many"}) for _ in range(8)))
    assert {answer.status_code for answer in at_once} == {201}
    assert len({answer.json()["id"] for answer in at_once}) == 1
    assert len(kept(api)) == 2


async def test_bytes_that_are_gone_are_a_fault_that_is_logged(
    api: Api, ann: Person, caplog: pytest.LogCaptureFixture
) -> None:
    file = await attached(ann, await ann.add_task())
    [path] = kept(api)
    path.unlink()
    answer = await ann.get(path_of(file))
    assert (answer.status_code, answer.json()["code"]) == (500, "FILE_MISSING")
    assert "which attachment" in caplog.text
    assert (await ann.delete(path_of(file))).status_code == 204


@pytest.mark.covers("E092")
async def test_without_attachments_there_is_no_such_address(start_app: StartApp) -> None:
    api = await start_app(attachments_enabled=False)
    ann = await api.register()
    task = await ann.add_task()
    for method in ("GET", "POST"):
        answer = await ann.request(method, f"/tasks/{task['id']}/attachments", files={"file": b"x"})
        assert answer.status_code == 404
    assert (await ann.get(f"/tasks/{task['id']}/attachments/x")).status_code == 404
    assert not [path for path in api.app.openapi()["paths"] if "attachments" in path]
    assert not (api.settings.data_dir / "files").exists()


async def test_the_sweep_removes_what_no_task_has_and_nothing_else(
    api: Api, ann: Person, database: Database, stored: Stored
) -> None:
    task, purged = await ann.add_task(), await ann.add_task()
    file = await attached(ann, task)
    await attached(ann, purged)
    files = LocalFiles(api.settings.data_dir / "files")
    for name in ("orphan", "upload under way"):
        path = api.settings.data_dir / name
        path.write_bytes(b"x")
        with path.open("rb") as source:
            await files.put(new_key(), source)
    async with second_connection(stored.url) as outside:
        await outside.run(f"DELETE FROM tasks WHERE id = '{purged['id']}'")
    paths = {path: path.read_bytes() for path in kept(api)}
    assert len(paths) == 4
    # All of them are young: each could belong to an upload whose row is not there yet.
    assert await attachments.sweep(database, files) == 0
    old = now() + timedelta(minutes=61)
    young = next(path for path, data in paths.items() if data == b"x")
    os.utime(young, (old.timestamp(), old.timestamp()))
    young.with_name(f"{young.name}.part").write_bytes(b"cut off")
    assert await attachments.sweep(database, files, moment=old) == 3
    assert len(kept(api)) == 2
    assert young in kept(api)
    assert (await ann.get(path_of(file))).content == b"text"
    files.close()


async def test_a_sweep_that_cannot_look_up_the_files_removes_none(
    api: Api, ann: Person, database: Database, database_url: str
) -> None:
    await attached(ann, await ann.add_task())
    files = LocalFiles(api.settings.data_dir / "files")
    async with second_connection(database_url) as outside:
        await outside.run("ALTER TABLE attachments RENAME TO elsewhere")
    with pytest.raises((apsw.SQLError, asyncpg.UndefinedTableError)):
        await attachments.sweep(database, files, moment=now() + timedelta(days=1))
    assert len(kept(api)) == 1
    files.close()


async def test_an_object_store_serves_and_its_outage_is_a_503_for_files_alone(
    start_app: StartApp, object_store: ObjectStore
) -> None:
    api = await start_app(files_url=object_store.files_url)
    ann = await api.register()
    task = await ann.add_task()
    data = os.urandom(7_000_000)
    file, small = await attached(ann, task, data), await attached(ann, task, b"small")
    assert (await ann.get(path_of(file))).content == data
    assert (await ann.get(path_of(file), headers={"Range": "bytes=6999990-"})).content == data[-10:]
    assert len(object_store.keys()) == 2
    assert (await ann.delete(path_of(file))).status_code == 204
    await until(lambda: len(object_store.keys()) == 1)
    object_store.stop()
    for answer in (await attach(ann, task), await ann.get(path_of(small))):
        assert (answer.status_code, answer.json()["code"]) == (503, "FILES_UNAVAILABLE")
        assert int(answer.headers["retry-after"]) > 0
    assert (await ann.get(f"/tasks/{task['id']}/attachments")).json()["items"] == [small]
    assert (await ann.delete(path_of(small))).status_code == 204
    object_store.start()
    assert (await attach(ann, task)).status_code == 201


async def test_who_leaves_in_the_middle_of_a_download_ends_the_reading(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(data_dir=tmp_path / "data")
    open_files = Path(f"/proc/{server.process.pid}/fd")
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=30) as client:
        api = Api(None, client, None)  # type: ignore[arg-type]
        ann = await api.register("ann@example.com")
        file = await attached(ann, await ann.add_task(), bytes(20_000_000))

        def is_read() -> bool:
            for link in open_files.iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                    if "/data/files/" in str(link.readlink()):
                        return True
            return False

        async with client.stream("GET", f"/api/v1{path_of(file)}", headers=ann.headers) as answer:
            async for _ in answer.aiter_raw(1000):
                break
            await until(is_read)
        await until(lambda: not is_read())
    assert "Traceback" not in server.log()
