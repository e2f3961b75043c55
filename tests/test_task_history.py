"""A task's history: what changed, from what, to what and in which session, newest first, for its owner alone."""

from typing import Any

import pytest

from duly.db.statements import Statement
from duly.db.unit import Database
from duly.tasks import history_queries
from tests.fixtures.application import Api, Person
from tests.fixtures.stored import Stored

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIELDS = ["title", "description", "completed", "completed_at", "priority", "due_date", "tags"]


async def history(person: Person, task: dict[str, Any], query: str = "") -> dict[str, Any]:
    response = await person.get(f"/tasks/{task['id']}/history{query}")
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    assert list(body) == ["items", "total", "limit", "offset", "next_cursor"]
    for item in body["items"]:
        assert list(item) == ["type", "at", "version", "session_id", "changes"]
        assert all(list(change) == ["from", "to"] for change in item["changes"].values())
    return body


async def session_of(person: Person) -> str:
    sessions = (await person.get("/auth/sessions")).json()["items"]
    [current] = [session["id"] for session in sessions if session["current"]]
    return str(current)


async def test_each_change_says_what_from_what_to_when_and_in_which_session(house: Api, carol: Person) -> None:
    phone = await house.log_in(carol.email)
    created = await carol.add_task("first", description="é\n🪴", tags=["a", "b"], due_date="2027-01-01T00:00:00Z")
    address = f"/tasks/{created['id']}"
    renamed = (await phone.patch(address, json={"title": "second", "tags": ["b", "a"], "priority": "medium"})).json()
    done = (await carol.patch(f"{address}/complete")).json()
    cleared = (await carol.put(address, json={"due_date": None, "description": None, "completed": False})).json()
    await phone.delete(address)
    restored = (await phone.post(f"{address}/restore")).json()
    body = await history(carol, created)
    assert (body["total"], body["limit"], body["offset"], body["next_cursor"]) == (6, 50, 0, None)
    newest_first = body["items"]
    assert [item["type"] for item in newest_first] == [
        "task.restored", "task.deleted", "task.reopened", "task.completed", "task.updated", "task.created",
    ]  # fmt: skip
    assert [item["version"] for item in newest_first] == [6, 5, 4, 3, 2, 1]
    here, there = await session_of(carol), await session_of(phone)
    assert [item["session_id"] for item in newest_first] == [there, there, here, here, there, here]
    changes = [item["changes"] for item in newest_first]
    assert changes[:2] == [{}, {}]
    assert changes[2] == {
        "description": {"from": "é\n🪴", "to": None}, "completed": {"from": True, "to": False},
        "completed_at": {"from": done["completed_at"], "to": None},
        "due_date": {"from": created["due_date"], "to": None},
    }  # fmt: skip
    assert changes[3] == {
        "completed": {"from": False, "to": True}, "completed_at": {"from": None, "to": done["completed_at"]},
    }  # fmt: skip
    assert changes[4] == {"title": {"from": "first", "to": "second"}, "tags": {"from": ["a", "b"], "to": ["b", "a"]}}
    assert changes[5] == {name: {"from": None, "to": created[name]} for name in FIELDS}
    moments = [task["updated_at"] for task in (restored, cleared, done, renamed, created)]
    assert [newest_first[place]["at"] for place in (0, 2, 3, 4, 5)] == moments


async def test_a_page_ends_where_the_next_begins_and_no_change_is_cut_in_two(carol: Person) -> None:
    task, other = await carol.add_task("0"), await carol.add_task("other")
    for number in range(1, 7):
        await carol.patch(f"/tasks/{task['id']}", json={"title": str(number)})
        await carol.patch(f"/tasks/{other['id']}", json={"title": str(number)})
    whole = (await history(carol, task))["items"]
    assert [item["changes"]["title"]["to"] for item in whole] == ["6", "5", "4", "3", "2", "1", "0"]
    assert [item["changes"]["title"]["from"] for item in whole] == ["5", "4", "3", "2", "1", "0", None]
    paged: list[Any] = []
    query = "?limit=3"
    while True:
        page = await history(carol, task, query)
        assert (page["total"], page["limit"]) == (7, 3)
        paged += page["items"]
        if page["next_cursor"] is None:
            break
        # What comes in between moves no page.
        await carol.patch(f"/tasks/{other['id']}", json={"title": f"{len(paged)}!"})
        query = f"?limit=3&cursor={page['next_cursor']}"
    assert paged == whole
    skipped = await history(carol, task, "?offset=2&limit=2")
    assert (skipped["items"], skipped["offset"], skipped["total"]) == (whole[2:4], 2, 7)
    assert (await history(carol, task, "?offset=7"))["items"] == []
    assert (await history(carol, task, "?limit=7"))["next_cursor"] is None


async def test_a_task_in_the_trash_still_has_its_history(carol: Person) -> None:
    task = await carol.add_task()
    await carol.delete(f"/tasks/{task['id']}")
    assert [item["type"] for item in (await history(carol, task))["items"]] == ["task.deleted", "task.created"]


async def test_nobody_elses_history_is_there(house: Api, carol: Person, dave: Person) -> None:
    task, other = await carol.add_task("one"), await carol.add_task("two")
    await carol.patch(f"/tasks/{task['id']}/complete")
    address = f"/tasks/{task['id']}/history"
    foreign, unknown = await dave.get(address), await dave.get("/tasks/nothing/history")
    assert (foreign.status_code, unknown.status_code) == (404, 404)
    assert foreign.json()["detail"] == unknown.json()["detail"] == "There is no such task."
    assert (await house.client.get(f"/api/v1{address}")).status_code == 401
    for strange in ("%00", "trash", "bulk", "x" * 65, "%C3%A9"):
        assert (await carol.get(f"/tasks/{strange}/history")).status_code == 404, strange
    cursor = (await history(carol, task, "?limit=1"))["next_cursor"]
    list_cursor = (await carol.get("/tasks?limit=1")).json()["next_cursor"]
    for wrong in (f"{cursor[:-1]}!", "x", list_cursor):
        response = await carol.get(address, params={"cursor": wrong})
        assert (response.status_code, response.json()["code"]) == (400, "BAD_CURSOR"), wrong
    of_another = await carol.get(f"/tasks/{other['id']}/history", params={"cursor": cursor})
    assert (of_another.status_code, of_another.json()["code"]) == (400, "BAD_CURSOR")
    for query in ("limit=0", "limit=101", "offset=-1", f"cursor={cursor}&offset=1", "sort=at", "limit=1.0"):
        assert (await carol.get(f"{address}?{query}")).status_code == 422, query
    assert (await carol.post(address)).headers["allow"] == "GET, HEAD"


async def test_a_change_from_outside_of_any_session_has_none(house: Api, carol: Person) -> None:
    task = await carol.add_task()
    stored = Stored(house.settings.database_url or "")
    await stored.rows("UPDATE tasks SET title = 'by hand', changed_by = NULL WHERE id = ?", task["id"])
    newest = (await history(carol, task))["items"][0]
    assert (newest["session_id"], newest["changes"]) == (None, {"title": {"from": "A task", "to": "by hand"}})


async def explain(database: Database, stored: Stored, statement: Statement, **values: Any) -> str:
    plan = statement.plan(database.dialect)
    verb = "EXPLAIN QUERY PLAN" if database.dialect.name == "sqlite" else "EXPLAIN"
    return str(await stored.rows(f"{verb} {plan.sql}", *plan.arguments(values)))


async def test_the_history_of_one_task_is_looked_up_among_very_many_changes(house: Api, carol: Person) -> None:
    database: Database = house.app.state.services.database
    stored = Stored(house.settings.database_url or "")
    task = await carol.add_task()
    await stored.rows(
        "INSERT INTO changes (user_id, position, type, task_id, at, task) "
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
        f"SELECT '{carol.user_id}', 1000 + i, 'task.updated', 'task-' || (i % 4000), at, 'null' "
        "FROM n CROSS JOIN changes WHERE task_id = ?",
        task["id"],
    )
    own = {"user_id": carol.user_id, "task_id": task["id"]}
    plans = {
        "the page": await explain(
            database, stored, history_queries.LIST_HISTORY, **own, before=2**62, limit=51, offset=0
        ),
        "the count": await explain(database, stored, history_queries.COUNT_HISTORY, **own),
        "emptying": await explain(database, stored, history_queries.EMPTY_CHANGES, **own),
    }
    for name, plan in plans.items():
        assert "ix_changes_task_id" in plan, (name, plan)
        assert "pk_changes" not in plan, (name, plan)
        assert "sqlite_autoindex_changes" not in plan, (name, plan)
    assert (await history(carol, task))["total"] == 1
