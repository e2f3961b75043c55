"""The trash: what lies in it is out of sight, comes back as it was, and is moved by exactly one of many."""

import asyncio
from collections import Counter

import pytest

from tests.fixtures.application import Api, Person
from tests.test_tasks import FIELDS

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_deleted_task_lies_in_the_trash_and_nowhere_else(carol: Person) -> None:
    task = await carol.add_task("old", tags=["home"])
    kept = await carol.add_task("kept")
    await carol.delete(f"/tasks/{task['id']}")
    page = (await carol.get("/tasks/trash")).json()
    [trashed] = page["items"]
    assert (page["total"], page["next_cursor"], list(trashed)) == (1, None, FIELDS)
    assert trashed == task | {"version": 2, "updated_at": trashed["updated_at"]}
    assert (await carol.get("/tasks")).json()["items"] == [kept]


async def test_nothing_but_restoring_reaches_a_task_in_the_trash(carol: Person) -> None:
    task = await carol.add_task()
    address = f"/tasks/{task['id']}"
    await carol.delete(address)
    [before] = (await carol.get("/tasks/trash")).json()["items"]
    for method, path in (("GET", ""), ("PUT", ""), ("PATCH", ""), ("DELETE", ""), ("PATCH", "/complete")):
        options = {"json": {"title": "x"}} if method in {"PUT", "PATCH"} and not path else {}
        response = await carol.request(method, address + path, **options)
        assert (response.status_code, response.json()["detail"]) == (404, "There is no such task."), method
    stale = await carol.patch(address, json={"title": "x"}, headers={"If-Match": '"1"'})
    assert stale.status_code == 404
    assert (await carol.get("/tasks/trash")).json()["items"] == [before]


async def test_a_restored_task_is_as_it_was_with_a_new_version(carol: Person) -> None:
    task = await carol.add_task("back", completed=True, due_date="2027-01-01T00:00:00Z", tags=["a"], priority="urgent")
    await carol.delete(f"/tasks/{task['id']}")
    response = await carol.post(f"/tasks/{task['id']}/restore")
    restored = response.json()
    assert (response.status_code, response.headers["etag"]) == (200, '"3"')
    assert restored == task | {"version": 3, "updated_at": restored["updated_at"]}
    assert restored["updated_at"] > task["updated_at"]
    assert (await carol.get(f"/tasks/{task['id']}")).json() == restored
    assert (await carol.get("/tasks/trash")).json()["items"] == []


async def test_restoring_is_for_the_owner_and_may_be_repeated(house: Api, carol: Person, dave: Person) -> None:
    task = await carol.add_task()
    address = f"/tasks/{task['id']}/restore"
    untouched = await carol.post(address)
    assert (untouched.status_code, untouched.json(), untouched.headers["etag"]) == (200, task, '"1"')
    await carol.delete(f"/tasks/{task['id']}")
    assert (await dave.post(address)).status_code == 404
    assert (await house.client.post(f"/api/v1{address}")).status_code == 401
    assert (await carol.get("/tasks/trash")).json()["total"] == 1
    answers = [(await carol.post(address)).json() for _ in range(2)]
    assert answers[0] == answers[1] == (await carol.get(f"/tasks/{task['id']}")).json()
    for task_id in ("nothing", task["user_id"]):
        assert (await carol.post(f"/tasks/{task_id}/restore")).status_code == 404


async def test_each_sees_only_their_own_trash(house: Api, carol: Person, dave: Person) -> None:
    task = await carol.add_task()
    await carol.delete(f"/tasks/{task['id']}")
    assert (await dave.get("/tasks/trash")).json()["items"] == []
    assert (await house.client.get("/api/v1/tasks/trash")).status_code == 401


async def test_the_trash_has_the_filters_orders_and_pages_of_a_list(carol: Person) -> None:
    for title, priority in (("b", "low"), ("a", "high"), ("d", "low"), ("c", "low")):
        task = await carol.add_task(title, priority=priority)
        await carol.delete(f"/tasks/{task['id']}")
    first = (await carol.get("/tasks/trash?priority=low&sort=title&limit=2")).json()
    rest = (await carol.get(f"/tasks/trash?priority=low&sort=title&cursor={first['next_cursor']}")).json()
    assert [task["title"] for task in first["items"] + rest["items"]] == ["b", "c", "d"]
    assert (first["total"], rest["total"], rest["next_cursor"]) == (3, 3, None)
    assert (await carol.get(f"/tasks?priority=low&sort=title&cursor={first['next_cursor']}")).status_code == 400
    assert (await carol.get("/tasks/trash?limit=0")).status_code == 422


async def test_of_many_deletes_and_restores_at_once_one_takes_effect(carol: Person) -> None:
    task = await carol.add_task()
    deletes = await asyncio.gather(*(carol.delete(f"/tasks/{task['id']}") for _ in range(20)))
    assert Counter(response.status_code for response in deletes) == {204: 1, 404: 19}
    restores = await asyncio.gather(*(carol.post(f"/tasks/{task['id']}/restore") for _ in range(20)))
    assert [(response.status_code, response.headers["etag"]) for response in restores] == [(200, '"3"')] * 20
    changes = (await carol.get("/changes")).json()["items"]
    assert [change["type"] for change in changes] == ["task.created", "task.deleted", "task.restored"]
    assert (await carol.get("/tasks")).json()["total"] == 1
