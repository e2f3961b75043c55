"""The change feed: one change for each write, in order, without a gap, and none before its transaction commits."""

import asyncio
from typing import Any

import pytest

from tests.fixtures.application import Api, Person
from tests.second_connection import SecondConnection, second_connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

Change = dict[str, Any]


async def feed(person: Person, since: str | None = None, limit: int = 100) -> list[Change]:
    """Everything after `since`, in as many pages as it takes."""
    found: list[Change] = []
    while True:
        query = f"&since={since}" if since else ""
        response = await person.get(f"/changes?limit={limit}{query}")
        assert response.status_code == 200, response.text
        page = response.json()
        assert list(page) == ["items", "next_cursor", "has_more"]
        found += page["items"]
        since = page["next_cursor"]
        if not page["has_more"]:
            return found
        assert len(page["items"]) == limit


async def positions(outside: SecondConnection, person: Person) -> list[int]:
    rows = await outside.run(f"SELECT position FROM changes WHERE user_id = '{person.user_id}' ORDER BY position")
    return [row[0] for row in rows]


async def test_each_write_is_one_change_of_its_kind_with_the_task_that_was_answered(carol: Person) -> None:
    task = await carol.add_task("first", due_date="2027-01-01T00:00:00Z", tags=["a", 'b"c'], description="é\n🪴")
    address = f"/tasks/{task['id']}"
    answers = [
        ("task.created", task),
        ("task.updated", (await carol.patch(address, json={"title": "second"})).json()),
        ("task.updated", (await carol.put(address, json={"due_date": None, "tags": []})).json()),
        ("task.completed", (await carol.patch(f"{address}/complete")).json()),
        ("task.updated", (await carol.patch(f"{address}/complete", json={"completed": True})).json()),
        ("task.reopened", (await carol.patch(f"{address}/complete", json={"completed": False})).json()),
        ("task.completed", (await carol.patch(address, json={"completed": True, "title": "third"})).json()),
        ("task.reopened", (await carol.put(address, json={"completed": False})).json()),
    ]
    await carol.delete(address)
    restored = (await carol.post(f"{address}/restore")).json()
    changes = await feed(carol)
    assert [change["type"] for change in changes] == [
        *(kind for kind, _ in answers), "task.deleted", "task.restored",
    ]  # fmt: skip
    assert {change["task_id"] for change in changes} == {task["id"]}
    for change, (kind, answer) in zip(changes, answers, strict=False):
        assert (change["task"], change["at"]) == (answer, answer["updated_at"]), kind
    assert changes[-2]["task"] is None
    assert (changes[-1]["task"], changes[-1]["at"]) == (restored, restored["updated_at"])
    assert [change["at"] for change in changes] == sorted(change["at"] for change in changes)
    assert list(changes[0]) == ["cursor", "type", "task_id", "at", "task"]


async def test_what_changes_nothing_leaves_no_change(carol: Person, dave: Person) -> None:
    task = await carol.add_task()
    address = f"/tasks/{task['id']}"
    answers = [
        await carol.patch(address, json={}),
        await carol.patch(address, json={"version": 1, "id": "other"}),
        await carol.patch(address, json={"title": "x"}, headers={"If-Match": '"7"'}),
        await carol.patch(address, json={"title": ""}),
        await dave.patch(address, json={"title": "x"}),
        await dave.delete(address),
        await carol.post(f"{address}/restore"),
        await carol.post("/tasks", json={"title": ""}),
    ]
    assert [response.status_code for response in answers] == [200, 200, 412, 422, 404, 404, 200, 422]
    assert answers[0].json() == answers[1].json() == answers[6].json() == task
    assert [change["type"] for change in await feed(carol)] == ["task.created"]
    assert await feed(dave) == []


async def test_since_goes_on_where_the_last_page_ended(carol: Person) -> None:
    empty = (await carol.get("/changes")).json()
    assert (empty["items"], empty["has_more"]) == ([], False)
    for number in range(5):
        await carol.add_task(str(number))
    changes = await feed(carol, since=empty["next_cursor"])
    assert [change["task"]["title"] for change in changes] == ["0", "1", "2", "3", "4"]
    for limit in (1, 2, 5):
        assert await feed(carol, limit=limit) == changes
    for limit, has_more in ((4, True), (5, False), (6, False)):
        assert (await carol.get(f"/changes?limit={limit}")).json()["has_more"] is has_more, limit
    for number, change in enumerate(changes):
        assert await feed(carol, since=change["cursor"]) == changes[number + 1 :]
    last = (await carol.get(f"/changes?since={changes[-1]['cursor']}")).json()
    assert (last["items"], last["next_cursor"], last["has_more"]) == ([], changes[-1]["cursor"], False)
    await carol.add_task("later")
    [later] = await feed(carol, since=last["next_cursor"])
    assert later["task"]["title"] == "later"


async def test_a_cursor_of_somebody_else_or_of_another_list_is_400(house: Api, carol: Person, dave: Person) -> None:
    for number in range(2):
        await carol.add_task(str(number))
    cursor = (await feed(carol))[0]["cursor"]
    list_cursor = (await carol.get("/tasks?limit=1")).json()["next_cursor"]
    flipped = ("B" if cursor[0] == "A" else "A") + cursor[1:]
    for person, since in ((dave, cursor), (carol, list_cursor), (carol, flipped), (carol, cursor[:-1]), (carol, "1")):
        response = await person.get("/changes", params={"since": since})
        assert (response.status_code, response.json()["code"]) == (400, "BAD_CURSOR"), since
    for query in ("limit=0", "limit=101", "cursor=x", "since=a&limit=1.0", f"since={'A' * 2049}", "offset=1"):
        assert (await carol.get(f"/changes?{query}")).status_code == 422, query
    assert (await house.client.get("/api/v1/changes")).status_code == 401


async def test_each_reads_only_their_own_changes(carol: Person, dave: Person) -> None:
    await carol.add_task("hers")
    await dave.add_task("his")
    assert [change["task"]["title"] for change in await feed(carol)] == ["hers"]
    assert [change["task"]["title"] for change in await feed(dave)] == ["his"]


@pytest.mark.covers("E078")
async def test_fifty_writers_at_once_leave_no_gap_and_counters_that_are_right(house: Api, carol: Person) -> None:
    tasks = [await carol.add_task(str(number)) for number in range(10)]

    async def write(number: int) -> int:
        address = f"/tasks/{tasks[number % 10]['id']}"
        if number % 5 == 0:
            return (await carol.post("/tasks", json={"title": f"new {number}"})).status_code
        if number % 5 == 1:
            return (await carol.patch(f"{address}/complete")).status_code
        return (await carol.patch(address, json={"description": str(number)})).status_code

    statuses = await asyncio.gather(*(write(number) for number in range(50)))
    assert (statuses.count(200), statuses.count(201)) == (40, 10)
    async with second_connection(house.settings.database_url or "") as outside:
        assert await positions(outside, carol) == list(range(1, 61))
        counted = await outside.run(
            f"SELECT position, pending, completed FROM task_counters WHERE user_id = '{carol.user_id}'"
        )
        rows = await outside.run(
            "SELECT sum(CASE WHEN completed THEN 0 ELSE 1 END), sum(CASE WHEN completed THEN 1 ELSE 0 END) "
            f"FROM tasks WHERE user_id = '{carol.user_id}'"
        )
    assert tuple(counted[0]) == (60, *rows[0])
    versions: dict[str, list[int]] = {}
    for change in await feed(carol, limit=7):
        versions.setdefault(change["task_id"], []).append(change["task"]["version"])
    assert sum(map(len, versions.values())) == 60
    assert all(seen == list(range(1, len(seen) + 1)) for seen in versions.values())


async def test_nothing_is_seen_before_its_commit_and_order_is_the_order_of_commits(house: Api, carol: Person) -> None:
    one, two = await carol.add_task("one"), await carol.add_task("two")
    before = await feed(carol)
    async with second_connection(house.settings.database_url or "") as outside:
        await outside.run("BEGIN")
        await outside.run(f"UPDATE tasks SET title = 'changed outside' WHERE id = '{one['id']}'")
        writer = asyncio.create_task(carol.patch(f"/tasks/{two['id']}", json={"title": "changed inside"}))
        # The writer waits for the transaction outside, whose place in the feed comes first.
        for _ in range(5):
            assert await feed(carol) == before
        assert not writer.done()
        await outside.run("COMMIT")
        assert (await writer).status_code == 200
    titles = [change["task"]["title"] for change in (await feed(carol))[2:]]
    assert titles == ["changed outside", "changed inside"]


async def test_what_is_rolled_back_leaves_neither_a_change_nor_a_gap(house: Api, carol: Person) -> None:
    task = await carol.add_task("same")
    async with second_connection(house.settings.database_url or "") as outside:
        await outside.run("BEGIN")
        await outside.run(f"UPDATE tasks SET completed = true WHERE id = '{task['id']}'")
        assert await positions(outside, carol) == [1, 2]
        await outside.run("ROLLBACK")
        await carol.patch(f"/tasks/{task['id']}", json={"title": "next"})
        assert await positions(outside, carol) == [1, 2]
    assert [change["type"] for change in await feed(carol)] == ["task.created", "task.updated"]
    assert (await carol.get("/tasks?status=pending")).json()["total"] == 1


async def test_a_change_knows_the_session_that_made_it(house: Api, carol: Person) -> None:
    other = await house.log_in(carol.email)
    task = await carol.add_task()
    await other.patch(f"/tasks/{task['id']}/complete")
    sessions = []
    for person in (carol, other):
        listed = (await person.get("/auth/sessions")).json()
        sessions += [session["id"] for session in listed["items"] if session["current"]]
    async with second_connection(house.settings.database_url or "") as outside:
        rows = await outside.run(f"SELECT session_id FROM changes WHERE task_id = '{task['id']}' ORDER BY position")
    assert [row[0] for row in rows] == sessions
