"""Commit before the reply: a commit that fails is never answered 2xx, and leaves nothing of its request behind."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.fixtures.application import PASSWORD, Api, Person
from tests.second_connection import SecondConnection, second_connection

TABLES = (
    "users",
    "sessions",
    "refresh_tokens",
    "blacklisted_tokens",
    "tasks",
    "task_counters",
    "changes",
    "idempotency_keys",
)
TRAPPED = ("users", "sessions", "tasks")
Snapshot = dict[str, list[Any]]


@pytest.fixture
async def outside(api: Api) -> AsyncIterator[SecondConnection]:
    """A second connection, which sees only what was committed."""
    async with second_connection(api.settings.database_url or "") as connection:
        yield connection


async def set_traps(outside: SecondConnection, dialect: str) -> None:
    """From now on every transaction that wrote such a row runs well until its COMMIT, which the database refuses."""
    if dialect == "postgresql":
        await outside.run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused at commit'; END $$"
        )
        for table in TRAPPED:
            await outside.run(
                f"CREATE CONSTRAINT TRIGGER trap AFTER INSERT OR UPDATE ON {table} DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        return
    await outside.run("CREATE TABLE bait (id INTEGER PRIMARY KEY)")
    await outside.run("CREATE TABLE trap (id INTEGER REFERENCES bait DEFERRABLE INITIALLY DEFERRED)")
    for table in TRAPPED:
        for event in ("INSERT", "UPDATE"):
            await outside.run(
                f"CREATE TRIGGER trap_{table}_{event} AFTER {event} ON {table} BEGIN INSERT INTO trap VALUES (1); END"
            )


async def remove_traps(outside: SecondConnection, dialect: str) -> None:
    if dialect == "postgresql":
        await outside.run("DROP FUNCTION refuse() CASCADE")
        return
    for table in TRAPPED:
        for event in ("INSERT", "UPDATE"):
            await outside.run(f"DROP TRIGGER trap_{table}_{event}")


async def snapshot(outside: SecondConnection) -> Snapshot:
    return {table: sorted(map(repr, await outside.run(f"SELECT * FROM {table}"))) for table in TABLES}


KEYED = {"Idempotency-Key": "k"}
CREATE_ONCE: dict[str, Any] = {"json": {"title": "new"}, "headers": KEYED}
# {open} and {trashed} are the ids of two tasks.
WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/tasks", {"json": {"title": "new"}}),
    ("POST", "/tasks", CREATE_ONCE),
    ("PUT", "/tasks/{open}", {"json": {"title": "put"}}),
    ("PATCH", "/tasks/{open}", {"json": {"title": "patched"}}),
    ("PATCH", "/tasks/{open}", {"json": {"title": "patched"}, "headers": KEYED | {"If-Match": "*"}}),
    ("PATCH", "/tasks/{open}/complete", {}),
    ("PATCH", "/tasks/{open}/complete", {"json": {"completed": True}}),
    ("DELETE", "/tasks/{open}", {}),
    ("POST", "/tasks/{trashed}/restore", {}),
    ("POST", "/auth/register", {"json": {"email": "new@example.com", "password": PASSWORD}}),
    ("POST", "/auth/login", {"json": {"email": "ann@example.com", "password": PASSWORD}}),
    ("POST", "/auth/refresh", {"json": {"refresh_token": "that of the person"}}),
    ("POST", "/auth/logout", {"json": {"all_sessions": True}}),
    ("POST", "/auth/logout", {}),
]


async def send(person: Person, write: tuple[str, str, dict[str, Any]], ids: dict[str, str]) -> httpx.Response:
    method, path, options = write
    if "refresh_token" in options.get("json", {}):
        options = {"json": {"refresh_token": person.refresh_token}}
    return await person.request(method, path.format(**ids), **options)


@pytest.mark.covers("E054", "E011", "A140", "C102", "C106")
async def test_a_commit_that_fails_is_never_2xx_and_leaves_nothing(
    api: Api, outside: SecondConnection, dialect: str
) -> None:
    ann = await api.register("ann@example.com")
    ids = {"open": (await ann.add_task("open"))["id"], "trashed": (await ann.add_task("trashed"))["id"]}
    await ann.delete(f"/tasks/{ids['trashed']}")
    tasks = (await ann.get("/tasks")).json()
    before = await snapshot(outside)
    await set_traps(outside, dialect)
    for write in WRITES:
        response = await send(ann, write, ids)
        assert response.status_code in {500, 503}, (write, response.text)
        assert response.headers["content-type"] == "application/problem+json", write
        assert await snapshot(outside) == before, write
        # What the process remembers is not ahead of the database: the session still lives, the counters are right.
        assert (await ann.get("/tasks")).json() == tasks, write
    await remove_traps(outside, dialect)
    for write in WRITES[:-1]:
        response = await send(ann, write, ids)
        assert response.status_code in {200, 201, 204}, (write, response.text)
        assert "idempotency-replayed" not in response.headers
    assert (await send(ann, WRITES[-1], ids)).status_code == 401


@pytest.mark.covers("E054", "C107")
async def test_a_key_whose_effect_failed_at_commit_can_be_used_again(
    api: Api, ann: Person, outside: SecondConnection, dialect: str
) -> None:
    await set_traps(outside, dialect)
    refused = await ann.post("/tasks", **CREATE_ONCE)
    assert refused.status_code in {500, 503}
    await remove_traps(outside, dialect)
    created = await ann.post("/tasks", **CREATE_ONCE)
    assert (created.status_code, created.headers.get("idempotency-replayed")) == (201, None)
    again = await ann.post("/tasks", **CREATE_ONCE)
    assert (again.content, again.headers["idempotency-replayed"]) == (created.content, "true")
    assert (await ann.get("/tasks")).json()["total"] == 1


@pytest.mark.covers("E054", "A140", "C106")
async def test_a_step_that_fails_takes_the_steps_before_it_along(
    api: Api, ann: Person, outside: SecondConnection, dialect: str
) -> None:
    """The task, its counter, its change and its key are one transaction: without the feed there is none of them."""
    task = await ann.add_task()
    before = await snapshot(outside)
    if dialect == "postgresql":
        await outside.run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused at once'; END $$"
        )
        await outside.run("CREATE TRIGGER wall BEFORE INSERT ON changes FOR EACH ROW EXECUTE FUNCTION refuse()")
    else:
        await outside.run("CREATE TRIGGER wall BEFORE INSERT ON changes BEGIN SELECT RAISE(ABORT, 'refused'); END")
    for headers in ({}, {"Idempotency-Key": "k"}):
        assert (await ann.post("/tasks", json={"title": "x"}, headers=headers)).status_code == 500
        assert (await ann.patch(f"/tasks/{task['id']}", json={"title": "x"}, headers=headers)).status_code == 500
    assert (await ann.delete(f"/tasks/{task['id']}")).status_code == 500
    assert await snapshot(outside) == before
    assert (await ann.get("/tasks")).json()["items"] == [task]
