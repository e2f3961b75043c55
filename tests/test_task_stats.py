"""Counts of a user's tasks: right after every change, of one moment, and of the caller's own day."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from duly.kit.clock import now, rfc3339
from duly.kit.zones import day_around, zone_names
from tests.fixtures.application import Api, Person, StartApp
from tests.fixtures.stored import Stored
from tests.test_statement_counts import Counted

PRIORITIES = ("low", "medium", "high", "urgent")
PAST, FUTURE = "2020-01-01T00:00:00Z", "2990-01-01T00:00:00Z"
NOTHING = {
    "total": 0, "pending": 0, "completed": 0, "overdue": 0, "due_today": 0, "by_priority": dict.fromkeys(PRIORITIES, 0),
}  # fmt: skip


async def stats(person: Person, **query: str) -> dict[str, Any]:
    answer = await person.get("/tasks/stats", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def expected(person: Person, zone: str = "UTC") -> dict[str, Any]:
    """What follows from the list of all tasks."""
    tasks = (await person.get("/tasks?limit=100")).json()["items"]
    moment = now()
    today = moment.astimezone(ZoneInfo(zone)).date()
    due = [datetime.fromisoformat(task["due_date"]) for task in tasks if task["due_date"] and not task["completed"]]
    priorities = Counter(task["priority"] for task in tasks)
    done = sum(task["completed"] for task in tasks)
    return {
        "total": len(tasks),
        "pending": len(tasks) - done,
        "completed": done,
        "overdue": sum(one < moment for one in due),
        "due_today": sum(one.astimezone(ZoneInfo(zone)).date() == today for one in due),
        "by_priority": {name: priorities[name] for name in PRIORITIES},
    }


async def check(person: Person, zone: str = "UTC") -> dict[str, Any]:
    """Twice, so that the second answer is a remembered one; again when a day ends meanwhile."""
    for _ in range(3):
        wanted = await expected(person, zone)
        found = [await stats(person, time_zone=zone) for _ in range(2)]
        if wanted == await expected(person, zone):
            assert found == [wanted, wanted]
            return wanted
    pytest.fail("the clock never stood still")


@pytest.mark.covers("A073", "A074")
async def test_every_kind_of_change_shows_in_the_next_answer(ann: Person) -> None:
    assert await stats(ann) == NOTHING
    tasks = [await ann.add_task(f"Task {name}", priority=name, due_date=PAST) for name in PRIORITIES]
    first = tasks[0]["id"]
    assert (await check(ann))["overdue"] == 4
    changes: list[tuple[str, str, dict[str, Any]]] = [
        ("PATCH", f"/tasks/{first}", {"json": {"priority": "urgent"}}),
        ("PUT", f"/tasks/{first}", {"json": {"due_date": rfc3339(now())}}),
        ("PATCH", f"/tasks/{first}", {"json": {"due_date": None}}),
        ("PATCH", f"/tasks/{first}", {"json": {"due_date": FUTURE}}),
        ("PATCH", f"/tasks/{first}/complete", {}),
        ("PATCH", f"/tasks/{first}/complete", {"json": {"completed": False}}),
        ("PATCH", f"/tasks/{first}", {"json": {"completed": True}}),
        ("DELETE", f"/tasks/{first}", {}),
        ("POST", f"/tasks/{first}/restore", {}),
        ("POST", "/tasks", {"json": {"title": "Done already", "completed": True, "due_date": PAST}}),
        ("DELETE", f"/tasks/{tasks[1]['id']}", {}),
    ]
    for method, path, options in changes:
        assert (await ann.request(method, path, **options)).status_code < 300
        await check(ann)
    assert (await stats(ann))["total"] == 4


@pytest.mark.covers("A074")
async def test_changes_of_another_process_and_of_plain_sql_show_at_once(start_app: StartApp, stored: Stored) -> None:
    here, there = await start_app(), await start_app()
    ann = await here.register()
    elsewhere = await there.log_in(ann.email)
    assert await stats(ann) == await stats(elsewhere) == NOTHING
    task = await elsewhere.add_task("There", priority="high")
    assert (await check(ann))["by_priority"]["high"] == 1
    await ann.patch(f"/tasks/{task['id']}/complete")
    assert (await check(elsewhere))["completed"] == 1
    await stored.rows("UPDATE tasks SET priority = 'low' WHERE id = ?", task["id"])
    assert (await check(ann))["by_priority"]["low"] == 1
    await stored.rows("DELETE FROM tasks WHERE id = ?", task["id"])
    assert await stats(ann) == await stats(elsewhere) == NOTHING


@pytest.mark.covers("A074")
async def test_nobody_is_told_of_anybody_elses_tasks(api: Api) -> None:
    people = [await api.register() for _ in range(4)]
    for count, person in enumerate(people):
        for _ in range(count):
            await person.add_task("Mine", priority=PRIORITIES[count])
    for _ in range(2):
        answers = await asyncio.gather(*(stats(person) for person in people * 3))
        for number, answer in enumerate(answers):
            count = number % 4
            assert (answer["total"], answer["by_priority"][PRIORITIES[count]]) == (count, count)
    assert (await api.client.get("/api/v1/tasks/stats")).status_code == 401


async def test_a_task_becomes_overdue_at_its_moment_and_not_at_the_next_change(ann: Person) -> None:
    due = now() + timedelta(seconds=1)
    await ann.add_task("Soon", due_date=rfc3339(due))
    seen = set()
    while True:
        before = now()
        overdue = (await stats(ann))["overdue"]
        seen.add(overdue)
        if now() < due:
            assert overdue == 0
        if before > due:
            assert overdue == 1
            break
        await asyncio.sleep(0.02)
    assert seen == {0, 1}


async def test_each_answer_is_of_one_moment(ann: Person) -> None:
    async def change() -> None:
        for number in range(30):
            task = await ann.add_task("Now you see me", priority=PRIORITIES[number % 4])
            await ann.patch(f"/tasks/{task['id']}/complete")
            if number % 2:
                await ann.delete(f"/tasks/{task['id']}")

    async def watch() -> None:
        last = 0
        while not changing.done():
            for found in await asyncio.gather(*(stats(ann) for _ in range(5))):
                assert found["total"] == found["pending"] + found["completed"] == sum(found["by_priority"].values())
            assert found["total"] >= last - 1
            last = found["total"]

    changing = asyncio.create_task(change())
    await watch()
    await changing
    assert (await check(ann))["total"] == 15


async def test_today_is_the_callers(ann: Person) -> None:
    zones = ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns")
    marks = sorted({mark for zone in zones for mark in day_around(now(), zone)})
    for number, mark in enumerate(marks):
        # Not as many at each midnight, so that the days differ.
        for moment in (mark - timedelta(microseconds=1), *[mark] * (number % 4 + 1)):
            await ann.add_task("Near midnight", due_date=rfc3339(moment))
    found = [(await check(ann, zone))["due_today"] for zone in zones]
    assert len(set(found)) > 1
    assert await stats(ann) == await stats(ann, time_zone="UTC")


@pytest.mark.parametrize(
    ("zone", "inside", "starts", "hours"),
    [
        ("UTC", "2026-03-29T12:00", "2026-03-29T00:00", 24),
        ("Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", 25),
        ("Africa/Cairo", "2026-04-24T12:00", "2026-04-23T22:00", 23),  # there is no midnight: 00:00 is 01:00
        ("Pacific/Kiritimati", "2026-11-21T23:30", "2026-11-21T10:00", 24),
    ],
)
def test_a_day_is_as_long_as_the_clocks_of_its_place_make_it(zone: str, inside: str, starts: str, hours: int) -> None:
    first, last = day_around(datetime.fromisoformat(inside).replace(tzinfo=UTC), zone)
    assert first == datetime.fromisoformat(starts).replace(tzinfo=UTC)
    assert last - first == timedelta(hours=hours)


def test_every_zone_that_is_named_is_known() -> None:
    names = zone_names()
    assert {"UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"} < set(names)
    for name in names:
        first, last = day_around(now(), name)
        assert first <= now() < last + timedelta(seconds=1)


async def test_what_is_no_zone_is_refused(ann: Person) -> None:
    for zone in ("", "Nowhere/Land", "europe/berlin", "../../etc/passwd", "localtime", "UTC\x00", "+02:00", "U" * 5000):
        answer = await ann.get("/tasks/stats", params={"time_zone": zone})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "query.time_zone"), answer.text


async def test_other_parameters_are_refused_and_other_methods_too(ann: Person) -> None:
    assert (await ann.get("/tasks/stats?zone=UTC")).status_code == 422
    for method in ("PUT", "PATCH", "DELETE", "POST"):
        answer = await ann.request(method, "/tasks/stats", json={"title": "No task"})
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD"), method


async def test_both_addresses_and_both_ways_in_answer_alike(ann: Person) -> None:
    await ann.add_task("One")
    wanted = await stats(ann)
    for path in ("/api/tasks/stats", "/api/v1/tasks/stats", "/api/v1/tasks/stats/"):
        for encoding in ("identity", "gzip"):
            answer: httpx.Response = await ann.client.get(path, headers={**ann.headers, "Accept-Encoding": encoding})
            assert (answer.json(), answer.headers["cache-control"]) == (wanted, "no-store")


@pytest.fixture
def ran() -> Iterator[Counted]:
    """Collects the statements that requests run."""
    handler, logger = Counted(), logging.getLogger("duly.sql")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.WARNING)


@pytest.mark.covers("A073")
async def test_a_repeated_read_asks_the_database_for_the_position_alone(start_app: StartApp, ran: Counted) -> None:
    ann = await (await start_app(log_sql=True)).register()
    await ann.add_task("One")
    costs = []
    for _ in range(3):
        ran.statements.clear()
        await stats(ann)
        costs.append(sum("task" in statement for statement in ran.statements))
    assert costs == [2, 1, 1]
