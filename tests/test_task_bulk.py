"""Many changes in one request: a result for each, in order; together or each on its own; and only one's own tasks."""

import asyncio
import itertools
from typing import Any

import pytest

from tests.fixtures.application import Api, Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

Body = dict[str, Any]
NOBODYS = "019aa0c4-5a3e-7c31-9d5e-0f1b6f0c2a11"


async def bulk(person: Person, *operations: Any, atomic: bool = False, **options: Any) -> Body:
    """The answer to a batch that can be read."""
    response = await person.post("/tasks/bulk", json={"operations": operations, "atomic": atomic}, **options)
    assert response.status_code == 200, response.text
    body: Body = response.json()
    assert list(body) == ["results", "succeeded", "failed"]
    assert [result["index"] for result in body["results"]] == list(range(len(operations)))
    assert [result["op"] for result in body["results"]] == [operation["op"] for operation in operations]
    for result in body["results"]:
        assert list(result) == ["index", "op", "status", "task", "error"]
        assert (result["error"] is None) == (result["status"] < 300)
        assert (result["task"] is None) == (result["status"] >= 300 or result["op"] == "delete")
    assert body["failed"] == sum(result["error"] is not None for result in body["results"])
    assert body["succeeded"] + body["failed"] == len(operations)
    return body


def statuses(body: Body) -> list[int]:
    return [result["status"] for result in body["results"]]


def create(title: str = "A task", **fields: Any) -> Body:
    return {"op": "create", "task": {"title": title, **fields}}


async def everything(person: Person) -> list[Any]:
    """All that a batch could have changed."""
    paths = ("/tasks?sort=title", "/tasks/trash?sort=title", "/changes?limit=100")
    return [(await person.get(path)).json()["items"] for path in paths]


@pytest.mark.covers("A071")
async def test_each_operation_has_the_code_and_the_task_of_its_single_call(carol: Person) -> None:
    task, thrown = await carol.add_task("one", priority="low"), await carol.add_task("two")
    assert (await carol.delete(f"/tasks/{thrown['id']}")).status_code == 204
    body = await bulk(
        carol, create("new", tags=["a"]), {"op": "update", "id": task["id"], "changes": {"title": "uno"}, "version": 1},
        {"op": "complete", "id": task["id"]}, {"op": "reopen", "id": task["id"], "version": 3},
        {"op": "restore", "id": thrown["id"], "version": 2}, {"op": "delete", "id": task["id"]},
        {"op": "restore", "id": thrown["id"]},
    )  # fmt: skip
    assert (statuses(body), body["succeeded"]) == ([201, 200, 200, 200, 200, 204, 200], 7)
    new, updated, done, open_again, restored, _, as_it_is = (result["task"] for result in body["results"])
    assert (await carol.get(f"/tasks/{new['id']}")).json() == new
    assert (new["title"], new["tags"]) == ("new", ["a"])
    assert (updated["title"], updated["priority"], updated["version"]) == ("uno", "low", 2)
    assert (done["completed"], open_again["completed"], open_again["version"]) == (True, False, 4)
    assert restored == as_it_is == (await carol.get(f"/tasks/{thrown['id']}")).json()
    [trashed] = (await carol.get("/tasks/trash")).json()["items"]
    assert (trashed["id"], trashed["version"]) == (task["id"], 5)
    changes = (await carol.get("/changes")).json()["items"][3:]
    assert [(change["type"], change["task_id"]) for change in changes] == [
        ("task.created", new["id"]), ("task.updated", task["id"]), ("task.completed", task["id"]),
        ("task.reopened", task["id"]), ("task.restored", thrown["id"]), ("task.deleted", task["id"]),
    ]  # fmt: skip


@pytest.mark.covers("A071")
async def test_what_is_refused_has_its_own_code_and_stops_no_other(carol: Person) -> None:
    task = await carol.add_task("kept")
    own = {"id": task["id"]}
    body = await bulk(
        carol, create(" "), create("x" * 201, colour="red"), {"op": "complete", "id": NOBODYS}, create("good"),
        {"op": "delete", **own, "version": 9}, {"op": "update", **own, "changes": {"priority": "later"}},
        {"op": "update", **own, "changes": {"title": "b", "version": 7}}, {"op": "restore", **own, "version": 3},
        {"op": "update", **own, "changes": {"title": "b", "version": 1}, "version": 2}, {"op": "delete", "id": "a\x00"},
        {"op": "restore", "id": "é"}, {"op": "reopen", "id": "x" * 255}, {"op": "update", "id": "", "changes": {}},
        {"op": "complete", **own, "version": 1},
    )  # fmt: skip
    assert statuses(body) == [422, 422, 404, 201, 412, 422, 412, 412, 412, 404, 404, 404, 404, 200]
    assert (body["succeeded"], body["failed"]) == (2, 12)
    single = await carol.post("/tasks", json={"title": "x" * 201, "colour": "red"})
    problem = single.json()
    error = body["results"][1]["error"]
    assert error == {"code": problem["code"], "message": problem["detail"], "errors": problem["errors"]}
    assert [fault["field"] for fault in error["errors"]] == ["title", "colour"]
    missing, stale = body["results"][2]["error"], body["results"][4]["error"]
    assert missing == {"code": "NOT_FOUND", "message": "There is no such task.", "errors": None}
    assert (stale["code"], stale["errors"]) == ("STALE_VERSION", None)
    titles = [(item["title"], item["completed"]) for item in (await everything(carol))[0]]
    assert titles == [("good", False), ("kept", True)]


@pytest.mark.covers("A071")
@pytest.mark.parametrize("atomic", [False, True])
async def test_somebody_elses_tasks_are_not_there(carol: Person, dave: Person, atomic: bool) -> None:
    his, thrown = await dave.add_task("his"), await dave.add_task("thrown away")
    await dave.delete(f"/tasks/{thrown['id']}")
    before = await everything(dave)
    foreign = [
        {"op": "update", "id": his["id"], "changes": {"title": "hers"}}, {"op": "complete", "id": his["id"]},
        {"op": "delete", "id": his["id"], "version": 1}, {"op": "restore", "id": thrown["id"]},
    ]  # fmt: skip
    for operation in foreign:
        body = await bulk(carol, create("own"), operation, atomic=atomic)
        assert statuses(body) == ([424, 404] if atomic else [201, 404])
        unknown = await bulk(carol, {**operation, "id": NOBODYS}, atomic=atomic)
        assert unknown["results"][0]["error"] == body["results"][1]["error"]
    assert await everything(dave) == before


@pytest.mark.parametrize(
    ("refused", "status", "code"),
    [
        ({"op": "complete", "id": NOBODYS}, 404, "NOT_FOUND"),
        (create(""), 422, "VALIDATION_ERROR"),
        ({"op": "delete", "id": "\n"}, 404, "NOT_FOUND"),
    ],
    ids=["found out late", "cannot be read", "no id"],
)
async def test_an_atomic_batch_with_one_refusal_changes_nothing(
    house: Api, carol: Person, refused: Body, status: int, code: str
) -> None:
    task = await carol.add_task("same")
    before, told = await everything(carol), list[str]()
    house.app.state.services.database.listeners.append(told.append)
    operations = (create("first"), {"op": "delete", "id": task["id"]}, refused, create("last"))
    body = await bulk(carol, *operations, atomic=True)
    assert (statuses(body), body["succeeded"]) == ([424, 424, status, 424], 0)
    assert body["results"][2]["error"]["code"] == code
    assert {result["error"]["code"] for result in body["results"] if result["status"] == 424} == {"NOT_APPLIED"}
    assert await everything(carol) == before
    assert carol.user_id not in told
    good = await bulk(carol, *operations[:2], operations[3], atomic=True)
    assert (statuses(good), good["failed"]) == ([201, 204, 201], 0)
    titles = [[item["title"] for item in items] for items in (await everything(carol))[:2]]
    assert titles == [["first", "last"], ["same"]]


async def test_of_an_atomic_batch_everything_that_cannot_be_read_is_said_at_once(carol: Person) -> None:
    body = await bulk(carol, create(""), create("good"), create("x" * 201), {"op": "delete", "id": "é"}, atomic=True)
    assert statuses(body) == [422, 424, 422, 404]


async def test_a_batch_is_idempotent_as_a_whole(carol: Person) -> None:
    key = {"Idempotency-Key": "a batch"}
    sent = {"operations": [create("once"), {"op": "complete", "id": NOBODYS}], "atomic": False}
    first, second = [await carol.post("/tasks/bulk", json=sent, headers=key) for _ in range(2)]
    assert (first.status_code, second.status_code, first.json()) == (200, 200, second.json())
    assert ("idempotency-replayed" in first.headers, second.headers["idempotency-replayed"]) == (False, "true")
    assert (await carol.get("/tasks")).json()["total"] == 1
    other = await carol.post("/tasks/bulk", json={**sent, "atomic": True}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    at_once = {"operations": [create("at once")]}
    answers = await asyncio.gather(
        *(carol.post("/tasks/bulk", json=at_once, headers={"Idempotency-Key": "many"}) for _ in range(8))
    )
    ids = {answer.json()["results"][0]["task"]["id"] for answer in answers if answer.status_code == 200}
    assert ({answer.status_code for answer in answers} <= {200, 409}, len(ids)) == (True, 1)
    assert (await carol.get("/tasks")).json()["total"] == 2


async def test_the_answer_to_an_atomic_batch_of_which_nothing_was_done_is_not_kept(carol: Person) -> None:
    task = await carol.add_task()
    await carol.delete(f"/tasks/{task['id']}")
    operations = (create("new"), {"op": "complete", "id": task["id"]})
    key = {"Idempotency-Key": "again"}
    assert statuses(await bulk(carol, *operations, atomic=True, headers=key)) == [424, 404]
    await carol.post(f"/tasks/{task['id']}/restore")
    assert statuses(await bulk(carol, *operations, atomic=True, headers=key)) == [201, 200]
    assert statuses(await bulk(carol, *operations, atomic=True, headers=key)) == [201, 200]
    assert (await carol.get("/tasks")).json()["total"] == 2


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({}, "operations"),
        ({"operations": []}, "operations"),
        ({"operations": [create()] * 101}, "operations"),
        ({"operations": {}}, "operations"),
        ({"operations": [create()], "atomic": "yes"}, "atomic"),
        ({"operations": [create()], "atomic": 1}, "atomic"),
        ({"operations": [create()], "dry_run": True}, "dry_run"),
        ({"operations": [create(), {"op": "zq7"}]}, "operations.1"),
        ({"operations": [{"op": ["zq7"], "id": "zq7"}]}, "operations.0"),
        ({"operations": [{"task": {"title": "zq7"}}]}, "operations.0"),
        ({"operations": ["zq7"]}, "operations.0"),
        ({"operations": [{"op": "create"}]}, "operations.0"),
        ({"operations": [{"op": "create", "task": None}]}, "operations.0"),
        ({"operations": [{"op": "create", "task": ["zq7"]}]}, "operations.0"),
        ({"operations": [{**create(), "id": "zq7"}]}, "operations.0"),
        ({"operations": [{"op": "update", "changes": {}}]}, "operations.0"),
        ({"operations": [{"op": "update", "id": NOBODYS}]}, "operations.0"),
        ({"operations": [{"op": "delete", "id": None}]}, "operations.0"),
        ({"operations": [{"op": "delete", "id": 7}]}, "operations.0"),
        ({"operations": [{"op": "delete", "id": "x" * 256}]}, "operations.0"),
        ({"operations": [{"op": "delete", "id": NOBODYS, "version": 0}]}, "operations.0"),
        ({"operations": [{"op": "delete", "id": NOBODYS, "version": "1"}]}, "operations.0"),
        ({"operations": [{"op": "complete", "id": NOBODYS, "completed": True}]}, "operations.0"),
    ],
)
async def test_a_batch_of_another_shape_is_refused_as_a_whole(carol: Person, sent: Body, field: str) -> None:
    response = await carol.post("/tasks/bulk", json=sent)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    [fault] = response.json()["errors"]
    assert fault["field"].startswith(field)
    assert "zq7" not in response.text
    assert await everything(carol) == [[], [], []]


async def test_a_batch_is_for_those_who_are_signed_in_and_at_one_address(house: Api, carol: Person) -> None:
    sent = {"operations": [create()]}
    assert (await house.client.post("/api/v1/tasks/bulk", json=sent)).status_code == 401
    assert (await house.client.post("/api/tasks/bulk", json=sent, headers=carol.headers)).status_code == 200
    for method in ("GET", "PUT", "DELETE"):
        response = await carol.request(method, "/tasks/bulk")
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
    wrong = await carol.post("/tasks/bulk", content=b"{", headers={"Content-Type": "application/json"})
    assert wrong.status_code == 400
    assert (await carol.post("/tasks/bulk", content=b"a=1")).status_code == 415


async def test_a_hundred_operations_are_one_transaction_told_once(house: Api, carol: Person) -> None:
    told: list[str] = []
    house.app.state.services.database.listeners.append(told.append)
    body = await bulk(carol, *(create(f"{number:03}") for number in range(100)))
    assert statuses(body) == [201] * 100
    assert told == [carol.user_id]
    changes = (await carol.get("/changes?limit=100")).json()["items"]
    assert [change["task"]["title"] for change in changes] == [f"{number:03}" for number in range(100)]
    ids = [result["task"]["id"] for result in body["results"]]
    done = await bulk(carol, *({"op": "complete", "id": task_id} for task_id in reversed(ids)))
    assert [result["task"]["title"] for result in done["results"]] == [f"{99 - number:03}" for number in range(100)]
    assert (await carol.get("/tasks?status=completed")).json()["total"] == 100


async def test_batches_that_name_the_same_tasks_in_other_orders_all_come_through(carol: Person) -> None:
    tasks = [await carol.add_task(str(number)) for number in range(4)]

    async def write(order: tuple[Body, ...]) -> list[int]:
        changes = ({"op": "update", "id": task["id"], "changes": {"description": "x"}} for task in order)
        return statuses(await bulk(carol, *changes))

    async def write_one(task: Body) -> list[int]:
        return [(await carol.patch(f"/tasks/{task['id']}", json={"priority": "high"})).status_code]

    orders = itertools.permutations(tasks)
    answers = await asyncio.gather(*map(write, orders), *map(write_one, tasks * 3))
    assert {status for answer in answers for status in answer} == {200}
    versions = {task["version"] for task in (await carol.get("/tasks")).json()["items"]}
    assert versions == {1 + 24 + 3}
