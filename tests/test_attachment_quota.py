"""Size, count and quota, exact however many uploads come at once, and seen before a file is sent where they can be."""

import asyncio
from pathlib import Path

import pytest

from tests.fixtures.application import Api, Person, StartApp
from tests.fixtures.stored import Stored
from tests.raw_asgi import Asked, ask
from tests.test_attachments import attach, attached, kept, path_of

SIZE = 1000


async def total(stored: Stored) -> tuple[int, int]:
    """How many files the database has, and their bytes."""
    [[count, size]] = await stored.rows("SELECT count(*), CAST(coalesce(sum(size), 0) AS INTEGER) FROM attachments")
    return count, size


@pytest.mark.covers("A127")
async def test_of_32_uploads_at_once_one_byte_over_the_quota_31_fit(start_app: StartApp, stored: Stored) -> None:
    api = await start_app(attachment_quota_bytes=32 * SIZE - 1)
    ann, ben = await api.register(), await api.register()
    tasks = [await ann.add_task() for _ in range(4)]
    answers = await asyncio.gather(*(attach(ann, tasks[n % 4], b"x" * SIZE, f"{n}.txt") for n in range(32)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [201] * 31 + [413]
    [refused] = [answer.json() for answer in answers if answer.status_code == 413]
    assert refused["code"] == "QUOTA_EXCEEDED"
    assert "Delete some first" in refused["detail"]
    assert await total(stored) == (31, 31 * SIZE)
    assert len(kept(api)) == 31, "what was refused left its bytes"
    await fills_to_the_byte(ann, ben, stored, tasks[0]["id"])


async def fills_to_the_byte(ann: Person, ben: Person, stored: Stored, task_id: str) -> None:
    """What is left can be used, what is deleted too, and nobody else is concerned."""
    task = {"id": task_id}
    last = await attached(ann, task, b"x" * (SIZE - 1))
    assert (await attach(ann, task, b"x")).json()["code"] == "QUOTA_EXCEEDED"
    assert await total(stored) == (32, 32 * SIZE - 1)
    await attached(ben, await ben.add_task(), b"x" * SIZE)
    assert (await ann.delete(path_of(last))).status_code == 204
    await attached(ann, task, b"y" * (SIZE - 1))


@pytest.mark.covers("A127")
async def test_of_many_uploads_at_once_a_task_takes_fifty(api: Api, ann: Person, stored: Stored) -> None:
    task, other = await ann.add_task(), await ann.add_task()
    for n in range(47):
        await attached(ann, task, b"x", f"{n}.txt")
    answers = await asyncio.gather(*(attach(ann, task, b"x", f"late{n}.txt") for n in range(12)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 9
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"TOO_MANY_ATTACHMENTS"}
    assert await total(stored) == (50, 50)
    assert len(kept(api)) == 50
    assert (await ann.get(f"/tasks/{task['id']}/attachments")).json()["total"] == 50
    await attached(ann, other)


@pytest.mark.covers("A127")
async def test_the_largest_file_fits_and_one_byte_more_does_not(start_app: StartApp) -> None:
    for limit in (1_000_000, 1_048_576, 3_000_000):
        api = await start_app(attachment_max_bytes=limit)
        ann = await api.register()
        task = await ann.add_task()
        assert (await attached(ann, task, b"x" * limit))["size"] == limit
        for size in (limit + 1, limit + 70_000, 2 * limit):
            answer = await attach(ann, task, b"x" * size)
            assert (answer.status_code, answer.json()["code"]) == (413, "ATTACHMENT_TOO_LARGE")
            # What is not announced is counted as it comes.
            head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            headers = (
                (b"content-type", b"multipart/form-data; boundary=x"), (b"transfer-encoding", b"chunked"),
                (b"authorization", f"Bearer {ann.access_token}".encode()),
            )  # fmt: skip
            pieces = (head, b"x" * (size // 2), b"x" * (size - size // 2), b"\r\n--x--\r\n")
            path = f"/api/v1/tasks/{task['id']}/attachments"
            assert (await ask(api.app, Asked("POST", path, headers=headers, pieces=pieces))).status == 413
        assert [path.stat().st_size for path in kept(api)].count(limit) == 1


async def test_what_cannot_be_taken_is_refused_before_it_is_sent(start_app: StartApp, tmp_path: Path) -> None:
    """The body never comes: whoever waited for it would wait for ever."""
    api = await start_app(attachment_quota_bytes=200_000)
    ann = await api.register()
    task = await ann.add_task()
    cases = [
        (f"/api/v1/tasks/{task['id']}/attachments", b"30000000", 413),
        (f"/api/v1/tasks/{task['id']}/attachments", b"300000", 413),
        ("/api/v1/tasks/nobodys/attachments", b"3000", 404),
    ]
    for path, length, status in cases:
        headers = (
            (b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", length),
            (b"authorization", f"Bearer {ann.access_token}".encode()),
        )  # fmt: skip
        async with asyncio.timeout(10):
            answer = await ask(api.app, Asked("POST", path, headers=headers, pieces=(b"--x", b"never more")))
        assert answer.status == status, answer.body
        unsigned = Asked("POST", path, headers=headers[:2], pieces=(b"--x",))
        assert (await ask(api.app, unsigned)).status == 401
