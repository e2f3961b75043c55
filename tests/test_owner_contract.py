"""Tasks through the owner contract: whose address it is, and what each of its six operations does."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_asyncio
from fastapi.dependencies.models import Dependant

from duly.contracts.owner.ownership import validate_user_ownership
from duly.contracts.owner.tasks import router
from duly.web.dependencies import get_current_user, get_database, open_single_unit, open_unit
from duly.web.route import ContractRoute
from tests.fixtures.application import Api, Person
from tests.fixtures.owners import PLACES, SIX, Operation, Owner, check_refusal, faulty_fields

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = "019aa0c4-5a3e-7c31-9d5e-0f1b6f0c2a11"
FIELDS = [
    "id", "user_id", "title", "description", "completed", "completed_at", "priority", "due_date", "tags", "version",
    "created_at", "updated_at",
]  # fmt: skip
each_operation = pytest.mark.parametrize("operation", SIX, ids=[operation.id for operation in SIX])


@pytest_asyncio.fixture(loop_scope="module", params=PLACES)
async def owner(carol: Person, request: pytest.FixtureRequest) -> Owner:
    """Somebody new, at either address."""
    return Owner(carol, request.param)


@pytest_asyncio.fixture(loop_scope="module")
async def victim(dave: Person) -> Owner:
    """Somebody else, who has a task."""
    return Owner(dave)


async def titles(owner: Owner, **query: Any) -> list[str]:
    answer = await owner.call("GET", params=query)
    assert answer.status_code == 200, answer.text
    return [task["title"] for task in answer.json()["tasks"]]


# Whose address it is


@each_operation
@pytest.mark.covers(
    "C045", "C047", "C048", "C054", "C062", "C068", "C071", "C077", "C081", "C084", "C090", "C098", "C123", "C124",
    "C125", "C134",
)  # fmt: skip
async def test_anothers_address_is_403_whatever_else_is_wrong(
    owner: Owner, victim: Owner, operation: Operation
) -> None:
    task = await victim.add_task("Dave's own")
    mine = await owner.add_task("Carol's own")
    before = (await victim.call("GET")).json()
    for named in (victim.person.user_id, UNKNOWN, "x", owner.person.user_id.upper(), f"{owner.person.user_id} "):
        stranger = Owner(owner.person, owner.place, named)
        for task_id in (task["id"], mine["id"], UNKNOWN, "x" * 200):
            check_refusal(await stranger.do(operation, task_id), 403, "USER_MISMATCH")
        for wrong in (
            {"json": {"title": 5, "colour": "red"}}, {"content": b"{", "headers": {"Content-Type": "application/json"}},
            {"content": b"x", "headers": {"Content-Type": "text/plain"}}, {"params": {"nonsense": "1", "limit": "0"}},
            {"headers": {"If-Match": "nonsense", "Idempotency-Key": ""}},
        ):  # fmt: skip
            check_refusal(await stranger.do(operation, UNKNOWN, **wrong), 403, "USER_MISMATCH")
    assert (await victim.call("GET")).json() == before
    assert await titles(owner) == ["Carol's own"]


@each_operation
@pytest.mark.covers("C134")
async def test_anothers_task_below_ones_own_address_is_not_there(
    owner: Owner, victim: Owner, operation: Operation
) -> None:
    task = await victim.add_task("Dave's own")
    if operation.has_task:
        check_refusal(await owner.do(operation, task["id"]), 404, "NOT_FOUND")
    assert (await victim.call("GET", f"/{task['id']}")).json() == task
    assert task["title"] not in await titles(owner)


@pytest.mark.covers("C044", "C082", "C105")
async def test_every_route_asks_for_the_user_the_owner_and_the_database() -> None:
    def walk(dependant: Dependant) -> Iterator[Any]:
        yield dependant.call
        for part in dependant.dependencies:
            yield from walk(part)

    routes = [route for route in router.routes if isinstance(route, ContractRoute)]
    assert {route.operation_id for route in routes} == {operation.id for operation in SIX}
    for route in routes:
        asked = set(walk(route.dependant))
        assert {get_current_user, validate_user_ownership} <= asked
        assert asked & {open_unit, open_single_unit, get_database}
        assert all(inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call) for call in asked)


# What the operations do


@pytest.mark.covers("C055", "C063", "C069", "C073", "C074", "C079", "C080", "C086", "C126")
async def test_a_task_lives_from_its_creation_to_the_trash(owner: Owner) -> None:
    answer = await owner.call("POST", json={"title": "  Call the plumber  "})
    task = answer.json()
    assert (answer.status_code, list(task), answer.headers["etag"]) == (201, FIELDS, '"1"')
    assert (task["title"], task["description"], task["completed"]) == ("Call the plumber", None, False)
    at = f"/{task['id']}"
    assert answer.headers["location"] == f"/api/{owner.person.user_id}/tasks{at}"
    found = await owner.person.client.get(answer.headers["location"], headers=owner.person.headers)
    assert (found.status_code, found.json(), found.headers["etag"]) == (200, task, '"1"')
    page = (await owner.call("GET")).json()
    assert page == {"tasks": [task], "pagination": {"total": 1, "limit": 50, "offset": 0, "has_more": False}}
    wanted = {
        "title": "Call another plumber", "description": "The tap.", "completed": True, "priority": "urgent",
        "due_date": "2026-12-01T17:00:00.000000Z", "tags": ["house"],
    }  # fmt: skip
    changed = (await owner.call("PUT", at, json=wanted)).json()
    assert {name: changed[name] for name in wanted} == wanted
    assert changed["completed_at"] is not None
    reopened = (await owner.call("PATCH", f"{at}/complete", json={"completed": False})).json()
    assert (reopened["completed"], reopened["completed_at"], reopened["title"]) == (False, None, wanted["title"])
    assert (await owner.call("GET", at)).json() == reopened
    gone = await owner.call("DELETE", at)
    assert (gone.status_code, gone.json()["success"], list(gone.json())) == (200, True, ["success", "message"])
    assert isinstance(gone.json()["message"], str)
    check_refusal(await owner.call("GET", at), 404, "NOT_FOUND")
    assert (await owner.call("GET")).json()["tasks"] == []
    assert [one["id"] for one in (await owner.person.get("/tasks/trash")).json()["items"]] == [task["id"]]


@pytest.mark.covers("C064", "C065", "C066", "C096", "C127")
async def test_a_new_task_has_a_title_and_the_caller_as_its_owner(owner: Owner, victim: Owner) -> None:
    other = victim.person.user_id
    task = await owner.add_task("Mine", user_id=other)
    assert task["user_id"] == owner.person.user_id
    assert await titles(victim) == []
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "title"), ({"description": "no title"}, "title"), ({"title": ""}, "title"), ({"title": " "}, "title"),
        ({"title": None}, "title"), ({"title": 5}, "title"), ({"title": "x" * 201}, "title"),
        ({"title": "x", "description": "y" * 2001}, "description"), ({"title": "x", "completed": "yes"}, "completed"),
        ({"title": "x", "priority": "later"}, "priority"), ({"title": "x", "due_date": "tomorrow"}, "due_date"),
        ({"title": "x", "tags": ["a"] * 21}, "tags"), ({"title": "x", "colour": "red"}, "colour"),
        ({"title": "x", "id": UNKNOWN}, "id"), ({"title": "a\x00b"}, "title"),
    ]  # fmt: skip
    for body, field in wrong:
        assert faulty_fields(await owner.call("POST", json=body)) == {field}, body
    assert faulty_fields(await owner.call("POST", json=["x"])) == {"body"}
    assert faulty_fields(await owner.call("POST")) == {"body"}
    assert await titles(owner) == ["Mine"]


@pytest.mark.covers("C074", "C075")
async def test_an_update_merges_and_reads_over_what_only_the_server_sets(owner: Owner, victim: Owner) -> None:
    task = await owner.add_task("Old", description="Stays", tags=["a"])
    at = f"/{task['id']}"
    renamed = (await owner.call("PUT", at, json={**task, "title": "New", "user_id": victim.person.user_id})).json()
    changing = {"title": "New", "version": 2, "updated_at": renamed["updated_at"]}
    assert renamed == {**task, **changing}
    cleared = (await owner.call("PUT", at, json={"description": None, "tags": None})).json()
    assert (cleared["description"], cleared["tags"], cleared["title"]) == (None, [], "New")
    for body, field in (({"title": None}, "title"), ({"completed": None}, "completed"), ({"colour": 1}, "colour")):
        assert faulty_fields(await owner.call("PUT", at, json=body)) == {field}
    assert (await owner.call("GET", at)).json() == cleared


@pytest.mark.covers("C087", "C088")
async def test_the_state_is_set_and_never_turned_over(owner: Owner) -> None:
    task = await owner.add_task()
    at = f"/{task['id']}/complete"
    for completed in (True, True, False, False, True):
        answer = await owner.call("PATCH", at, json={"completed": completed})
        assert (answer.status_code, answer.json()["completed"]) == (200, completed)
    assert faulty_fields(await owner.call("PATCH", at)) == {"body"}
    for body, field in (({}, "completed"), ({"completed": None}, "completed"), ({"completed": "true"}, "completed"),
                        ({"completed": 1}, "completed"), ({"completed": False, "title": "x"}, "title")):  # fmt: skip
        assert faulty_fields(await owner.call("PATCH", at, json=body)) == {field}, body
    assert (await owner.call("GET", f"/{task['id']}")).json()["completed"] is True


@pytest.mark.covers("C060", "C087")
async def test_a_stale_version_is_refused_and_a_current_one_answers_304(owner: Owner) -> None:
    task = await owner.add_task("First")
    at = f"/{task['id']}"
    assert (await owner.call("GET", at, headers={"If-None-Match": '"1"'})).status_code == 304
    assert (await owner.call("PUT", at, json={"title": "Second"}, headers={"If-Match": '"1"'})).status_code == 200
    assert (await owner.call("GET", at, headers={"If-None-Match": '"1"'})).json()["title"] == "Second"
    for method, path, options in (
        ("PUT", at, {"json": {"title": "x"}, "headers": {"If-Match": '"1"'}}),
        ("PUT", at, {"json": {"title": "x", "version": 1}}),
        ("PATCH", f"{at}/complete", {"json": {"completed": True}, "headers": {"If-Match": '"1"'}}),
        ("DELETE", at, {"headers": {"If-Match": '"1"'}}),
    ):  # fmt: skip
        check_refusal(await owner.call(method, path, **options), 412, "STALE_VERSION")
    assert (await owner.call("GET", at)).json()["title"] == "Second"
    assert (await owner.call("DELETE", at, headers={"If-Match": '"2"'})).status_code == 200


async def test_a_retry_with_its_key_makes_no_second_task(owner: Owner) -> None:
    key = {"Idempotency-Key": "the same"}
    first = await owner.call("POST", json={"title": "Once"}, headers=key)
    again = await owner.call("POST", json={"title": "Once"}, headers=key)
    assert (again.status_code, again.content, again.headers["location"], again.headers["idempotency-replayed"]) == (
        201, first.content, first.headers["location"], "true",
    )  # fmt: skip
    other = await owner.call("POST", json={"title": "Twice"}, headers=key)
    check_refusal(other, 422, "IDEMPOTENCY_KEY_REUSED")
    assert await titles(owner) == ["Once"]


# Lists


@pytest.mark.covers("C057", "C058", "C060", "C129")
async def test_three_pages_are_the_whole_list(owner: Owner) -> None:
    for number in range(7):
        await owner.add_task(f"Task {number}")
    whole = (await owner.call("GET")).json()
    assert whole["pagination"] == {"total": 7, "limit": 50, "offset": 0, "has_more": False}
    found: list[dict[str, Any]] = []
    for offset, size, more in ((0, 3, True), (3, 3, True), (6, 1, False)):
        page = (await owner.call("GET", params={"limit": 3, "offset": offset})).json()
        assert page["pagination"] == {"total": 7, "limit": 3, "offset": offset, "has_more": more}
        assert len(page["tasks"]) == size
        found += page["tasks"]
    assert found == whole["tasks"]
    assert [task["title"] for task in found] == [f"Task {number}" for number in reversed(range(7))]
    last = (await owner.call("GET", params={"limit": 7})).json()
    assert last["pagination"]["has_more"] is False
    beyond = (await owner.call("GET", params={"offset": 8})).json()
    assert beyond == {"tasks": [], "pagination": {"total": 7, "limit": 50, "offset": 8, "has_more": False}}


@pytest.mark.covers("C056", "C059")
async def test_status_filters_the_list_and_its_total(owner: Owner) -> None:
    for number in range(5):
        await owner.add_task(str(number), completed=number < 2)
    for status, wanted in (("all", ["4", "3", "2", "1", "0"]), ("pending", ["4", "3", "2"]), ("completed", ["1", "0"])):
        assert await titles(owner, status=status) == wanted
        page = (await owner.call("GET", params={"status": status, "limit": 1})).json()
        assert page["pagination"] == {"total": len(wanted), "limit": 1, "offset": 0, "has_more": True}


@pytest.mark.covers("C056", "C057", "C127")
async def test_a_query_that_is_not_valid_is_422(owner: Owner) -> None:
    for name, values in (
        ("status", ["done", "", "ALL", "true"]), ("limit", ["0", "-1", "101", "x", "1.0", "", "9" * 30]),
        ("offset", ["-1", "x", "1000001", ""]), ("sort", ["title"]), ("user_id", ["x"]), ("cursor", ["x"]),
    ):  # fmt: skip
        for value in values:
            named = faulty_fields(await owner.call("GET", params={name: value}))
            assert len(named) == 1, (name, value)
            assert named <= {f"query.{name}", "query"}


@pytest.mark.covers("C051", "C052")
async def test_both_addresses_have_the_same_tasks_and_no_trailing_slash_matters(carol: Person) -> None:
    short, long = Owner(carol, "/api"), Owner(carol, "/api/v1")
    task = await short.add_task("One of them")
    assert (await long.call("GET")).json() == (await short.call("GET", "/")).json()
    assert (await long.call("GET", f"/{task['id']}/")).json() == task
    answer = await long.call("PATCH", f"/{task['id']}/complete/", json={"completed": True})
    assert (answer.status_code, answer.history) == (200, [])


@pytest.mark.covers("C052")
async def test_the_document_shows_each_operation_once(house: Api) -> None:
    paths = house.app.openapi()["paths"]
    found = {
        operation["operationId"]: (method.upper(), path)
        for path, methods in paths.items()
        for method, operation in methods.items()
        if "owner: tasks" in operation.get("tags", ())
    }
    assert found == {operation.id: (operation.method, f"/api/{{user_id}}/tasks{operation.path}") for operation in SIX}
    assert not [path for path in paths if path.startswith("/api/v1/{user_id}/")]


@pytest.mark.covers("C051")
@pytest.mark.parametrize("word", ["v1", "auth", "users", "admins", "password", "tasks"])
async def test_a_word_of_other_addresses_is_no_user_id(carol: Person, word: str) -> None:
    for place in PLACES:
        for path in ("", f"/{UNKNOWN}", f"/{UNKNOWN}/complete", "/x/y"):
            answer = await carol.client.get(f"{place}/{word}/tasks{path}", headers=carol.headers)
            if (place, word, path) != ("/api", "v1", ""):
                assert answer.status_code in {404, 405}, answer.text
                assert "success" not in answer.json()
    assert "items" in (await carol.client.get("/api/v1/tasks", headers=carol.headers)).json()
