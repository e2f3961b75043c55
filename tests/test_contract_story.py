"""One story told to each contract that has tasks, at each of its addresses: what is stored afterwards is the same."""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.fixtures.application import Api, Person
from tests.fixtures.stored import Stored

# Where each contract has its tasks, and under which names its lists tell the tasks and how many there are.
V1 = ("/api/v1/tasks", ("items",), ("total",))
OTHERS = {
    "v1 without its version": ("/api/tasks", ("items",), ("total",)),
    "owner": ("/api/{user_id}/tasks", ("tasks",), ("pagination", "total")),
    "owner below the version": ("/api/v1/{user_id}/tasks", ("tasks",), ("pagination", "total")),
}
Contract = tuple[str, tuple[str, ...], tuple[str, ...]]
UNKNOWN = "019aa0c4-5a3e-7c31-9d5e-0f1b6f0c2a11"
TYPES = ["task.created", "task.updated", "task.completed"]
TOLD = {"title", "description", "completed", "priority", "due_date", "tags", "version"}


@dataclass(slots=True)
class Teller:
    """Somebody who tells the story to one contract, and what they heard."""

    person: Person
    contract: Contract
    heard: list[Any]

    async def say(self, method: str, path: str = "", body: Any = None, **options: Any) -> Any:
        """One request; what matters of its answer is kept."""
        if body is not None:
            options["json"] = body
        address = self.contract[0].format(user_id=self.person.user_id) + path
        answer = await self.person.client.request(method, address, headers=self.person.headers, **options)
        # Contracts differ in how they say that it was deleted, and in how they say no.
        status = 200 if answer.status_code == 204 else answer.status_code
        content = answer.json() if answer.content else {}
        told = sorted(TOLD & content.keys()) if answer.is_success else []
        self.heard.append((method, status, {name: content[name] for name in told}))
        return content

    async def look(self, **query: Any) -> None:
        """A list; its titles and its total are kept."""
        page = await self.say("GET", params=query)
        tasks = total = page
        for name in self.contract[1]:
            tasks = tasks[name]
        for name in self.contract[2]:
            total = total[name]
        self.heard.append(([task["title"] for task in tasks], total))


async def tell(teller: Teller) -> None:
    """Create, edit, complete, reopen, list, delete, and ask for what is not there."""
    plumber = (await teller.say("POST", body={
        "title": " Call the plumber ", "description": "The tap.", "priority": "urgent", "tags": ["house", "house"],
        "due_date": "2026-12-01T18:00:00+01:00",
    }))["id"]  # fmt: skip
    bread = (await teller.say("POST", body={"title": "Bread"}))["id"]
    done = (await teller.say("POST", body={"title": "Rest", "completed": True, "tags": None}))["id"]
    for body in ({}, {"title": ""}, {"title": "x", "colour": "red"}, {"title": "x", "priority": "soon"}):
        await teller.say("POST", body=body)
    await teller.say("PUT", f"/{plumber}", {"title": "Call another plumber", "due_date": None})
    whole = await teller.say("GET", f"/{bread}")
    await teller.say("PUT", f"/{bread}", {**whole, "description": "Two loaves", "tags": ["shop"]})
    await teller.say("PUT", f"/{bread}", whole)  # its version is stale by now
    await teller.say("PUT", f"/{bread}", {})
    for completed in (True, True, False, True):
        await teller.say("PATCH", f"/{plumber}/complete", {"completed": completed})
    await teller.say("PATCH", f"/{done}/complete", {"completed": False})
    await teller.say("PATCH", f"/{done}/complete", {"completed": "yes"})
    for query in ({}, {"status": "pending"}, {"status": "completed"}, {"limit": 1, "offset": 1}, {"limit": 0}):
        await (teller.look(**query) if query != {"limit": 0} else teller.say("GET", params=query))
    await teller.say("DELETE", f"/{bread}")
    for task_id in (bread, UNKNOWN):
        await teller.say("GET", f"/{task_id}")
        await teller.say("PUT", f"/{task_id}", {"title": "x"})
        await teller.say("PATCH", f"/{task_id}/complete", {"completed": True})
        await teller.say("DELETE", f"/{task_id}")
    await teller.look()


async def rows_of(stored: Stored, person: Person) -> dict[str, Any]:
    """What the database holds of somebody, without what is new each time: ids, and times that a clock gave."""
    tasks = await stored.rows(
        "SELECT id, title, title_key, description, completed, completed_at, priority, due_date, due_key, tags, version,"
        " deleted_at, changed_by FROM tasks WHERE user_id = ? ORDER BY created_at, id", person.user_id,
    )  # fmt: skip
    numbers = {task[0]: number for number, task in enumerate(tasks)}
    clock = {5, 11, 12}  # completed_at, deleted_at, changed_by
    changes = await stored.rows(
        "SELECT position, type, task_id, session_id FROM changes WHERE user_id = ? ORDER BY position", person.user_id
    )
    return {
        "tasks": [
            [value if place not in clock else value is not None for place, value in enumerate(task) if place]
            for task in tasks
        ],
        "counters": await stored.rows(
            "SELECT position, pending, completed FROM task_counters WHERE user_id = ?", person.user_id
        ),
        "changes": [(position, kind, numbers[task], by is not None) for position, kind, task, by in changes],
    }


@pytest.mark.covers("C055", "C063", "C073", "C079", "C086", "C126", "C137")
@pytest.mark.parametrize("name", OTHERS)
async def test_a_story_leaves_the_same_rows_through_every_contract(api: Api, stored: Stored, name: str) -> None:
    first = Teller(await api.register(), V1, [])
    second = Teller(await api.register(), OTHERS[name], [])
    for teller in (first, second):
        await tell(teller)
    assert second.heard == first.heard
    rows = await rows_of(stored, first.person)
    assert await rows_of(stored, second.person) == rows
    assert [task[0] for task in rows["tasks"]] == ["Call another plumber", "Bread", "Rest"]
    assert [tuple(counts)[1:] for counts in rows["counters"]] == [(1, 1)]
    assert [kind for _, kind, number, _ in rows["changes"] if number == 0][:3] == TYPES
