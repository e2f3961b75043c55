"""The database's own triggers: whoever writes a task, in whatever way, it is counted and in the feed."""

import random
from typing import Any

import pytest

from tests.fixtures.application import Api, Person
from tests.schemas import run_sql

T = "2026-03-04T05:06:07.080910Z"
COUNT = """
    SELECT coalesce(sum(CASE WHEN completed THEN 0 ELSE 1 END), 0),
    coalesce(sum(CASE WHEN completed THEN 1 ELSE 0 END), 0)
    FROM tasks WHERE user_id = '{}' AND deleted_at IS NULL"""


async def sql(api: Api, statement: str) -> list[tuple[Any, ...]]:
    """What an operator runs in the database's own client."""
    return await run_sql(str(api.settings.database_url), statement)


async def counters(api: Api, person: Person) -> tuple[int, int, int]:
    """Position, open and done, as the triggers keep them."""
    rows = await sql(api, f"SELECT position, pending, completed FROM task_counters WHERE user_id = '{person.user_id}'")
    return rows[0][0], rows[0][1], rows[0][2]


async def recount(api: Api, person: Person) -> tuple[int, int]:
    """Open and done, counted row by row."""
    rows = await sql(api, COUNT.format(person.user_id))
    return int(rows[0][0]), int(rows[0][1])


async def feed(person: Person) -> list[dict[str, Any]]:
    """Every change."""
    found: list[dict[str, Any]] = []
    parameters: dict[str, Any] = {"limit": 100}
    while True:
        page = (await person.get("/changes", params=parameters)).json()
        found += page["items"]
        if not page["has_more"]:
            return found
        parameters["since"] = page["next_cursor"]


def insert(person: Person, task_id: str, completed: str = "false") -> str:
    return (
        "INSERT INTO tasks (id, user_id, title, title_key, completed, priority, due_key, tags, version, created_at, "
        f"updated_at) VALUES ('{task_id}', '{person.user_id}', 'By hand', 'by hand', {completed}, 'low', "
        f"'9999-12-31T23:59:59.999999Z', '[\"a\", \"b\"]', 1, '{T}', '{T}')"
    )


@pytest.mark.parametrize(
    ("statement", "kinds", "open_and_done"),
    [
        ("UPDATE tasks SET completed = true WHERE NOT completed", ["task.completed"] * 2, (0, 3)),
        ("UPDATE tasks SET title = 'Other'", ["task.updated"] * 3, (2, 1)),
        ("UPDATE tasks SET completed = NOT completed", ["task.completed", "task.completed", "task.reopened"], (1, 2)),
        (f"UPDATE tasks SET deleted_at = '{T}'", ["task.deleted"] * 3, (0, 0)),
        (f"UPDATE tasks SET deleted_at = '{T}', completed = true WHERE NOT completed", ["task.deleted"] * 2, (0, 1)),
        ("DELETE FROM tasks WHERE completed", ["task.deleted"], (2, 0)),
        ("DELETE FROM tasks", ["task.deleted"] * 3, (0, 0)),
    ],
)
async def test_an_operator_s_statement_is_counted_and_fed_row_by_row(
    api: Api, ann: Person, statement: str, kinds: list[str], open_and_done: tuple[int, int]
) -> None:
    ben = await api.register()
    for title in ("One", "Two"):
        await ann.add_task(title)
    await ann.add_task("Three", completed=True)
    await sql(api, statement)
    position, *counted = await counters(api, ann)
    assert tuple(counted) == open_and_done == await recount(api, ann)
    changes = await feed(ann)
    assert position == len(changes)
    assert sorted(change["type"] for change in changes[3:]) == sorted(kinds)
    listed = (await ann.get("/tasks")).json()
    assert listed["total"] == sum(open_and_done) == len(listed["items"])
    assert await counters(api, ben) == (0, 0, 0)


async def test_an_operator_s_insert_is_counted_and_fed(api: Api, ann: Person) -> None:
    await sql(api, insert(ann, "by-hand-1"))
    await sql(api, insert(ann, "by-hand-2", "true"))
    assert await counters(api, ann) == (2, 1, 1)
    listed = (await ann.get("/tasks")).json()
    assert {item["id"] for item in listed["items"]} == {"by-hand-1", "by-hand-2"}
    assert [change["task"]["id"] for change in await feed(ann)] == ["by-hand-1", "by-hand-2"]
    assert (await feed(ann))[0]["at"] == T


async def test_emptying_the_trash_tells_nobody_twice(api: Api, ann: Person) -> None:
    task = await ann.add_task()
    await ann.delete(f"/tasks/{task['id']}")
    before = await feed(ann)
    await sql(api, "DELETE FROM tasks WHERE deleted_at IS NOT NULL")
    assert await feed(ann) == before
    assert await counters(api, ann) == (2, 0, 0)


async def test_what_an_operator_does_in_the_trash_shows_nobody_the_task(api: Api, ann: Person) -> None:
    task = await ann.add_task()
    await ann.delete(f"/tasks/{task['id']}")
    await sql(api, "UPDATE tasks SET completed = true, title = 'Other'")
    trashed = insert(ann, "by-hand").replace("version,", "version, deleted_at,").replace(", 1,", f", 1, '{T}',")
    await sql(api, trashed)
    assert replay(await feed(ann)) == {}
    assert (await counters(api, ann))[1:] == (0, 0)
    restored = await ann.post(f"/tasks/{task['id']}/restore")
    assert replay(await feed(ann)) == {task["id"]: restored.json()}


async def test_a_user_s_row_takes_everything_along(api: Api, ann: Person, ben: Person) -> None:
    for person in (ann, ben):
        await person.add_task("One")
        await person.add_task("Two", completed=True)
    await sql(api, f"DELETE FROM users WHERE id = '{ann.user_id}'")
    for table in ("tasks", "task_counters", "changes", "sessions"):
        assert await sql(api, f"SELECT DISTINCT user_id FROM {table}") == [(ben.user_id,)]
    assert await counters(api, ben) == (2, 1, 1)


@pytest.mark.parametrize("column", ["id", "user_id"])
async def test_a_task_keeps_its_id_and_its_user(api: Api, ann: Person, ben: Person, column: str) -> None:
    await ann.add_task()
    with pytest.raises(Exception, match="a task keeps its id and its user"):
        await sql(api, f"UPDATE tasks SET {column} = '{ben.user_id}'")
    await sql(api, "UPDATE tasks SET user_id = user_id, id = id, title = 'Same owner'")
    assert await counters(api, ann) == (2, 1, 0)
    assert await counters(api, ben) == (0, 0, 0)


async def test_a_write_that_is_undone_leaves_no_change_and_no_count(api: Api, ann: Person) -> None:
    await ann.add_task()
    before = await counters(api, ann)
    with pytest.raises(Exception, match=r"(?i)check|priority"):
        await sql(api, f"{insert(ann, 'good')}; {insert(ann, 'bad').replace('low', 'none')}")
    if (await sql(api, "SELECT count(*) FROM tasks")) == [(1,)]:
        assert await counters(api, ann) == before
    assert (await counters(api, ann))[1:] == await recount(api, ann)


ODD = [
    {
        "title": 'Quotes " and \\ and / and \u2028',
        "description": "tab\tline\nend",
        "tags": ['"', "\\", "é"],
    },
    {"title": "🦉 नमस्ते \u200f", "description": "{}[],:", "due_date": "0001-01-02T00:00:00Z"},
    {"title": "x" * 200, "description": "𝄞" * 2000, "due_date": "9999-12-30T23:59:59.999999Z", "priority": "urgent"},
    {
        "title": "null",
        "description": "true",
        "completed": True,
        "due_date": "2026-02-28T23:59:59.1+02:00",
        "tags": ["null"],
    },
    {"title": "'; DROP TABLE tasks; --", "description": None, "tags": ["$$", "%s", "a,b"]},
]


@pytest.mark.parametrize("fields", ODD)
async def test_the_feed_holds_each_task_byte_for_byte_as_it_was_answered(
    api: Api, ann: Person, fields: dict[str, Any]
) -> None:
    created = await ann.post("/tasks", json=fields)
    assert created.status_code == 201, created.text
    path = f"/tasks/{created.json()['id']}"
    documents = [created.text, (await ann.patch(path, json={"priority": "low"})).text]
    documents.append((await ann.patch(f"{path}/complete")).text)
    assert (await ann.get(path)).text == documents[-1]
    answered = (await ann.get("/changes")).text
    kept = await sql(api, f"SELECT task FROM changes WHERE user_id = '{ann.user_id}' ORDER BY position")
    assert [row[0] for row in kept] == documents
    for document in documents:
        assert f'"task":{document}' in answered


class Walk:
    """Random operations of two people and an operator; the API's own refusals are part of it."""

    def __init__(self, api: Api, people: list[Person], seed: int) -> None:
        self.api = api
        self.people = people
        self.random = random.Random(seed)  # noqa: S311 - the same walk each time
        self.ids: list[str] = []
        self.steps = [
            self.create, self.create, self.change, self.change, self.toggle, self.trash, self.restore,
            self.change_many, self.insert, self.remove,
        ]  # fmt: skip

    def somebody(self) -> Person:
        return self.random.choice(self.people)

    def some_path(self) -> str:
        return f"/tasks/{self.random.choice(self.ids or ['none'])}"

    async def create(self) -> None:
        done = self.random.random() < 0.3
        headers = {"Idempotency-Key": f"key{self.random.randrange(5)}"} if self.random.random() < 0.2 else {}
        response = await self.somebody().post("/tasks", json={"title": "T", "completed": done}, headers=headers)
        if response.status_code == 201:
            self.ids.append(response.json()["id"])

    async def change(self) -> None:
        fields = [{"title": "U"}, {"completed": True}, {"completed": False, "priority": "high"}, {}, {"title": ""}]
        headers = {"If-Match": f'"{self.random.randrange(1, 4)}"'} if self.random.random() < 0.3 else {}
        await self.somebody().patch(self.some_path(), json=self.random.choice(fields), headers=headers)

    async def toggle(self) -> None:
        await self.somebody().patch(f"{self.some_path()}/complete")

    async def trash(self) -> None:
        await self.somebody().delete(self.some_path())

    async def restore(self) -> None:
        await self.somebody().post(f"{self.some_path()}/restore")

    async def change_many(self) -> None:
        setting = self.random.choice(["completed = NOT completed", f"deleted_at = '{T}'", "deleted_at = NULL"])
        await sql(
            self.api, f"UPDATE tasks SET {setting}, version = version + 1 WHERE id LIKE '%{self.random.choice('0a5')}'"
        )

    async def insert(self) -> None:
        self.ids.append(f"hand{len(self.ids)}")
        await sql(self.api, insert(self.somebody(), self.ids[-1], self.random.choice(["true", "false"])))

    async def remove(self) -> None:
        await sql(self.api, f"DELETE FROM tasks WHERE id = '{self.random.choice(self.ids or ['none'])}'")

    async def run(self, count: int) -> None:
        for _ in range(count):
            await self.random.choice(self.steps)()


def replay(changes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The tasks that somebody has who only follows the feed."""
    tasks: dict[str, dict[str, Any]] = {}
    for change in changes:
        if change["type"] == "task.deleted":
            tasks.pop(change["task_id"], None)
        else:
            tasks[change["task_id"]] = change["task"]
    return tasks


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_after_a_random_walk_the_counters_equal_a_recount_and_the_feed_replays_to_the_list(
    api: Api, ann: Person, ben: Person, seed: int
) -> None:
    walk = Walk(api, [ann, ben], seed)
    await walk.run(120)
    for person in (ann, ben):
        position, *counted = await counters(api, person)
        assert tuple(counted) == await recount(api, person)
        places = await sql(api, f"SELECT position FROM changes WHERE user_id = '{person.user_id}' ORDER BY position")
        assert [row[0] for row in places] == list(range(1, position + 1))
        listed = (await person.get("/tasks", params={"limit": 100})).json()
        assert listed["total"] == len(listed["items"]) == sum(counted)
        assert replay(await feed(person)) == {item["id"]: item for item in listed["items"]}
    assert len(walk.ids) > 20
