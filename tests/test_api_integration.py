"""The story of the README from the first request to the last, and two people who never see each other's things."""

from typing import Any

import pytest

from tests.fixtures.application import PASSWORD, Api, Person, StartApp


@pytest.mark.covers("A041", "A055", "A084", "A088", "A136", "B018", "B028", "B069")
@pytest.mark.covers("B089", "C126", "D077", "E063", "E064", "E065", "E072")
async def test_from_registering_to_logging_out(api: Api) -> None:
    """Register, log in, create, list, complete, delete, log out; every status of the task endpoints on the way."""
    client = api.client
    account = {"email": "ann@example.com", "password": PASSWORD, "name": "Ann"}
    registered = await client.post("/api/v1/auth/register", json=account)
    assert registered.status_code == 201
    assert registered.json()["user"]["email"] == "ann@example.com"

    login = await client.post("/api/v1/auth/login", json={"email": account["email"], "password": PASSWORD})
    assert (login.status_code, login.json()["token_type"]) == (200, "bearer")
    headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
    me = (await client.get("/api/v1/auth/me", headers=headers)).json()
    assert (me["email"], me["name"]) == ("ann@example.com", "Ann")

    created = await client.post("/api/v1/tasks", headers=headers, json={"title": "Buy milk", "priority": "high"})
    assert created.status_code == 201
    address = created.headers["location"]
    await client.post("/api/v1/tasks", headers=headers, json={"title": "Water the plants"})
    listed = (await client.get("/api/v1/tasks", headers=headers)).json()
    assert [task["title"] for task in listed["items"]] == ["Water the plants", "Buy milk"]

    refused = await client.put(address, headers=headers, json={"title": ""})
    unreadable = await client.put(address, headers=headers, content=b"{")
    assert (refused.status_code, unreadable.status_code) == (422, 415)
    json = {**headers, "Content-Type": "application/json"}
    assert (await client.put(address, headers=json, content=b"{")).status_code == 400
    updated = await client.put(address, headers=headers, json={"title": "Buy oat milk"})
    assert (updated.status_code, updated.json()["priority"]) == (200, "high")

    done = await client.patch(f"{address}/complete", headers=headers, json={"completed": True})
    assert (done.status_code, done.json()["completed"]) == (200, True)
    assert (await client.get("/api/v1/tasks?status=completed", headers=headers)).json()["total"] == 1

    deleted = await client.delete(address, headers=headers)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await client.get(address, headers=headers)).status_code == 404
    kinds = [change["type"] for change in (await client.get("/api/v1/changes", headers=headers)).json()["items"]]
    assert kinds == ["task.created", "task.created", "task.updated", "task.completed", "task.deleted"]

    assert (await client.post("/api/v1/auth/logout", headers=headers)).status_code == 204
    assert (await client.get("/api/v1/tasks", headers=headers)).status_code == 401
    first = {"Authorization": f"Bearer {registered.json()['access_token']}"}
    assert (await client.get("/api/v1/tasks", headers=first)).json()["total"] == 1


@pytest.mark.covers("B028", "E096", "C134", "E045", "E069", "B031", "B039", "A084")
async def test_two_people_are_apart_in_every_method(api: Api, ann: Person, ben: Person) -> None:
    task, trashed = await ann.add_task("hers", tags=["t"]), await ann.add_task("hers too")
    await ann.delete(f"/tasks/{trashed['id']}")
    address = f"/tasks/{task['id']}"
    before = [(await ann.get(path)).content for path in (address, "/tasks", "/tasks/trash", "/changes")]
    attempts: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", address, {}), ("HEAD", address, {}), ("PUT", address, {"json": {"title": "his"}}),
        ("PATCH", address, {"json": {"title": "his"}}), ("PATCH", address, {"json": {}}),
        ("PATCH", f"{address}/complete", {}), ("PATCH", f"{address}/complete", {"json": {"completed": True}}),
        ("DELETE", address, {}), ("POST", f"{address}/restore", {}), ("POST", f"/tasks/{trashed['id']}/restore", {}),
    ]  # fmt: skip
    absent = {}
    for method, path, options in attempts:
        unknown = path.replace(task["id"], ann.user_id).replace(trashed["id"], ann.user_id)
        foreign, absent = await ben.request(method, path, **options), await ben.request(method, unknown, **options)
        assert (foreign.status_code, absent.status_code) == (404, 404), (method, path)
        if method != "HEAD":
            personal = {"instance": "", "request_id": ""}
            assert foreign.json() | personal == absent.json() | personal, (method, path)
        assert (await api.client.request(method, f"/api/v1{path}", **options)).status_code == 401, (method, path)
    for path in ("/tasks", "/tasks?tag=t", "/tasks?status=pending", "/tasks/trash", "/changes"):
        assert (await ben.get(path)).json()["items"] == [], path
    after = [(await ann.get(path)).content for path in (address, "/tasks", "/tasks/trash", "/changes")]
    assert after == before


@pytest.mark.covers("A085", "C102", "D013", "E055")
async def test_what_was_answered_is_there_after_a_restart(start_app: StartApp) -> None:
    first = await start_app()
    ann = await first.register()
    task = await ann.add_task("kept", tags=["a"], due_date="2027-01-01T00:00:00Z")
    # Another process on the same database and data folder, as after a restart: tokens and cursors are still good.
    second = await start_app()
    again = Person(second.client, ann.user_id, ann.email, ann.access_token, ann.refresh_token)
    assert (await again.get(f"/tasks/{task['id']}")).json() == task
    cursor = (await ann.get("/changes")).json()["next_cursor"]
    await again.patch(f"/tasks/{task['id']}", json={"title": "changed there"})
    [change] = (await ann.get(f"/changes?since={cursor}")).json()["items"]
    assert change["task"]["title"] == "changed there"


@pytest.mark.covers("A042", "B062", "C006")
@pytest.mark.parametrize("prefix", ["/api", "/api/v1"])
async def test_the_unversioned_addresses_are_the_current_version(api: Api, ann: Person, prefix: str) -> None:
    client, headers = api.client, ann.headers
    created = await client.post(f"{prefix}/tasks", headers=headers, json={"title": "x"})
    assert created.status_code == 201
    address = f"{prefix}/tasks/{created.json()['id']}"
    for method, path, status in (
        ("GET", address, 200), ("GET", f"{prefix}/tasks", 200), ("PUT", address, 200), ("PATCH", address, 200),
        ("PATCH", f"{address}/complete", 200), ("GET", f"{prefix}/changes", 200), ("DELETE", address, 204),
        ("GET", f"{prefix}/tasks/trash", 200), ("POST", f"{address}/restore", 200), ("GET", f"{prefix}/auth/me", 200),
    ):  # fmt: skip
        options = {"json": {"title": "y"}} if method in {"PUT", "PATCH"} and path == address else {}
        assert (await client.request(method, path, headers=headers, **options)).status_code == status, (method, path)
