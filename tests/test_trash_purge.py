"""What has lain in the trash for thirty days goes for good: the task, and whatever the feed knew of it."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from duly.db.database import open_database
from duly.db.unit import Database
from duly.kit.clock import now
from duly.operations import replays
from duly.settings import Settings
from duly.tasks.trash import AT_ONCE, TRASH_DAYS, purge_trash
from duly.web import idempotency
from tests.commands import answer, run_duly
from tests.fixtures.application import Api, Person
from tests.fixtures.stored import Stored
from tests.second_connection import second_connection

LONG_AGO = timedelta(days=TRASH_DAYS, seconds=1)
NOT_YET = timedelta(days=TRASH_DAYS, seconds=-60)


@pytest.fixture
def purging(api: Api) -> Database:
    """The application's own database."""
    database: Database = api.app.state.services.database
    return database


async def throw_away(person: Person, stored: Stored, title: str, since: timedelta) -> dict[str, Any]:
    """A task that has lain in the trash since then."""
    task = await person.add_task(title)
    assert (await person.delete(f"/tasks/{task['id']}")).status_code == 204
    await put_back(stored, since, task["id"])
    return task


async def put_back(stored: Stored, since: timedelta, *ids: str) -> None:
    """Let them have been deleted then."""
    moment: datetime = now() - since
    for task_id in ids:
        await stored.rows("UPDATE tasks SET deleted_at = ? WHERE id = ?", moment, task_id)


async def many_thrown_away(person: Person, stored: Stored, count: int) -> Sequence[str]:
    """Tasks that have lain in the trash for too long."""
    ids: list[str] = []
    for first in range(0, count, 100):
        titles = [f"task {number}" for number in range(first, min(first + 100, count))]
        operations: list[dict[str, Any]] = [{"op": "create", "task": {"title": title}} for title in titles]
        created = (await person.post("/tasks/bulk", json={"operations": operations})).json()["results"]
        some = [result["task"]["id"] for result in created]
        operations = [{"op": "delete", "id": task_id} for task_id in some]
        assert (await person.post("/tasks/bulk", json={"operations": operations})).json()["failed"] == 0
        ids += some
    await stored.rows("UPDATE tasks SET deleted_at = ? WHERE deleted_at IS NOT NULL", now() - LONG_AGO)
    return ids


async def test_after_thirty_days_a_task_goes_and_before_that_it_stays(
    purging: Database, ann: Person, ben: Person, stored: Stored
) -> None:
    old = await throw_away(ann, stored, "an old secret", LONG_AGO)
    young = await throw_away(ann, stored, "nearly old", NOT_YET)
    his = await throw_away(ben, stored, "his", 2 * LONG_AGO)
    kept = await ann.add_task("kept")
    assert await purge_trash(purging) == 2
    assert [task["id"] for task in (await ann.get("/tasks/trash")).json()["items"]] == [young["id"]]
    assert (await ben.get("/tasks/trash")).json()["items"] == []
    assert (await ann.get("/tasks")).json()["items"] == [kept]
    for person, task in ((ann, old), (ben, his)):
        assert (await person.post(f"/tasks/{task['id']}/restore")).status_code == 404
        assert (await person.get(f"/tasks/{task['id']}/history")).status_code == 404
    assert (await ann.post(f"/tasks/{young['id']}/restore")).status_code == 200
    assert await purge_trash(purging) == 0


async def test_of_a_purged_task_the_feed_keeps_the_places_and_nothing_else(
    purging: Database, ann: Person, stored: Stored
) -> None:
    kept = await ann.add_task("kept")
    old = await throw_away(ann, stored, "an old secret", LONG_AGO)
    before = (await ann.get("/changes")).json()
    assert await purge_trash(purging) == 1
    after = (await ann.get("/changes")).json()
    assert len(after["items"]) == len(before["items"]) == 4
    assert after["next_cursor"] == before["next_cursor"]
    for then, now_ in zip(before["items"], after["items"], strict=True):
        assert now_ == (then if then["task_id"] == kept["id"] else {**then, "task": None})
    assert await stored.value("SELECT count(*) FROM changes WHERE task_id = ? AND task <> 'null'", old["id"]) == 0
    assert await stored.value("SELECT count(*) FROM changes WHERE task LIKE '%secret%'") == 0
    assert await stored.value("SELECT pending FROM task_counters WHERE user_id = ?", ann.user_id) == 1
    assert [item["type"] for item in (await ann.get(f"/tasks/{kept['id']}/history")).json()["items"]] == [
        "task.created"
    ]


async def test_a_search_after_the_purge_finds_what_is_left(purging: Database, ann: Person, stored: Stored) -> None:
    kept = await ann.add_task("one secret is kept")
    await throw_away(ann, stored, "one secret that was looked for", LONG_AGO)
    assert (await ann.get("/tasks/trash?search=secret")).json()["total"] == 1
    # This one goes before anybody looks for it.
    await throw_away(ann, stored, "another secret", LONG_AGO)
    assert await purge_trash(purging) == 2
    assert (await ann.get("/tasks/trash?search=secret")).json()["items"] == []
    assert (await ann.get("/tasks?search=secret")).json()["items"] == [kept]
    assert await stored.value("SELECT count(*) FROM task_words") == 1


async def test_two_purges_at_once_take_each_task_once(
    purging: Database, ann: Person, stored: Stored, tmp_path: Path
) -> None:
    await many_thrown_away(ann, stored, 2 * AT_ONCE + 50)
    young = await throw_away(ann, stored, "young", NOT_YET)
    assert (await ann.get("/tasks/trash?limit=10")).json()["total"] == 2 * AT_ONCE + 51
    other = await open_database(Settings(_env_file=None, database_url=stored.url, data_dir=tmp_path))
    try:
        counts = await asyncio.gather(*(purge_trash(database) for database in (purging, other, purging, other)))
    finally:
        await other.close()
    assert sum(counts) == 2 * AT_ONCE + 50
    assert await stored.rows("SELECT id FROM tasks") == [(young["id"],)]
    assert await stored.value("SELECT count(DISTINCT task_id) FROM changes WHERE task <> 'null'") == 1
    # What was counted before is not remembered, although nothing was added to the feed.
    for query in ("?limit=10", "?limit=1&offset=1"):
        assert (await ann.get(f"/tasks/trash{query}")).json()["total"] == 1, query


async def test_of_restoring_and_purging_at_once_one_wins(purging: Database, ann: Person, stored: Stored) -> None:
    ids = await many_thrown_away(ann, stored, 60)
    restores = (ann.post(f"/tasks/{task_id}/restore") for task_id in ids)
    *answers, purged = await asyncio.gather(*restores, purge_trash(purging))
    restored = {task_id for task_id, response in zip(ids, answers, strict=True) if response.status_code == 200}
    assert {response.status_code for response in answers} <= {200, 404}
    assert len(restored) + purged == len(ids)
    rows = await stored.rows("SELECT id FROM tasks WHERE deleted_at IS NULL")
    assert {row[0] for row in rows} == restored
    assert (await ann.get("/tasks?limit=1")).json()["total"] == len(restored)
    assert (await ann.get("/tasks/trash")).json()["total"] == 0


async def test_a_task_that_is_being_restored_is_left_alone(purging: Database, ann: Person, stored: Stored) -> None:
    task = await throw_away(ann, stored, "saved", LONG_AGO)
    async with second_connection(stored.url) as outside:
        await outside.run("BEGIN")
        await outside.run(f"UPDATE tasks SET deleted_at = NULL WHERE id = '{task['id']}'")
        purge = asyncio.create_task(purge_trash(purging))
        # On SQLite it waits for the one writer.
        await asyncio.wait({purge}, timeout=0.1)
        await outside.run("COMMIT")
        assert await purge == 0
    assert (await ann.get(f"/tasks/{task['id']}")).json()["title"] == "saved"
    assert (await ann.get("/changes")).json()["items"][0]["task"]["title"] == "saved"


@pytest.mark.covers("B081")
async def test_the_sweep_command_removes_what_has_expired_and_says_how_much(
    ann: Person, stored: Stored, tmp_path: Path
) -> None:
    await throw_away(ann, stored, "old", LONG_AGO)
    await throw_away(ann, stored, "young", NOT_YET)
    for key in ("yesterday's", "today's"):
        await ann.post("/tasks", json={"title": "kept"}, headers={"Idempotency-Key": key})
    yesterday = now() - replays.LIFE - timedelta(seconds=1)
    await stored.rows("UPDATE idempotency_keys SET created_at = ? WHERE key = 'yesterday''s'", yesterday)
    lines = answer(await run_duly(tmp_path, "sweep", database_url=stored.url)).splitlines()
    assert {"tasks in the trash: 1", "answers kept for retries: 1", "delivered mails: 0"} <= set(lines)
    assert all(line.rpartition(": ")[2].isdigit() for line in lines)
    assert await stored.rows("SELECT key FROM idempotency_keys") == [("today's",)]
    assert await stored.value("SELECT count(*) FROM tasks WHERE deleted_at IS NOT NULL") == 1
    again = answer(await run_duly(tmp_path, "sweep", database_url=stored.url)).splitlines()
    assert "tasks in the trash: 0" in again


def test_an_answer_is_kept_as_long_as_its_key_is_honoured() -> None:
    assert replays.LIFE == idempotency.LIFE
