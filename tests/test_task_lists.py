"""Lists of tasks: every filter and order against an oracle in Python, pages, cursors and totals."""

import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.fixtures.application import Api, Person
from tests.second_connection import second_connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

Task = dict[str, Any]
RANKS = {"low": 1, "medium": 2, "high": 3, "urgent": 4}
NO_DUE_DATE = "9999-12-31T23:59:59.999999Z"
SORT_KEYS: dict[str, Callable[[Task], Any]] = {
    "created_at": lambda task: task["created_at"],
    "updated_at": lambda task: task["updated_at"],
    "due_date": lambda task: task["due_date"] or NO_DUE_DATE,
    "priority": lambda task: RANKS[task["priority"]],
    "title": lambda task: unicodedata.normalize("NFKC", task["title"]).casefold(),
}
SORTS = [f"{sign}{key}" for key in SORT_KEYS for sign in ("", "-")]
TITLES = ["apple", "Apple", "APPLE", "Äpfel", "zebra", "straße", "STRASSE", "🪴", "10 %", "ﬁne", "Fine", "_", "Ünder"]
DUE = [
    None, "2020-01-01T00:00:00Z", "2020-01-01T00:00:00.000001Z", "2999-06-01T12:00:00Z", None, "2019-12-31T00:00:00Z",
]  # fmt: skip
TAGS: list[list[str]] = [[], ["home"], ["Home", "work"], ['a "quoted" tag', "home"], ["%"], ["work", "home"]]
SIZE = 26


def at(hours: int) -> str:
    return (datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def erin(house: Api) -> Person:
    """Somebody with tasks of every kind, whose times, titles, priorities and due dates are often equal."""
    erin = await house.register()
    async with second_connection(house.settings.database_url or "") as outside:
        for number in range(SIZE):
            task = await erin.add_task(
                TITLES[number % len(TITLES)], priority=list(RANKS)[number * 7 % 4], due_date=DUE[number % 6],
                tags=TAGS[number * 5 % 6], completed=number % 5 < 2,
            )  # fmt: skip
            times = f"created_at = '{at(number * 5 % 7)}', updated_at = '{at(number * 3 % 4)}'"
            await outside.run(f"UPDATE tasks SET {times} WHERE id = '{task['id']}'")
    return erin


async def whole(person: Person, query: str = "") -> list[Task]:
    """The list in one piece."""
    response = await person.get(f"/tasks?limit=100{query}")
    assert response.status_code == 200, response.text
    page = response.json()
    assert (page["total"], page["next_cursor"]) == (len(page["items"]), None)
    items: list[Task] = page["items"]
    return items


async def by_cursor(person: Person, query: str, size: int) -> list[Task]:
    """The same list in pages; each page but the last is full, and knows the total."""
    found: list[Task] = []
    cursor = ""
    for _ in count():
        page = (await person.get(f"/tasks?limit={size}{query}{cursor}")).json()
        found += page["items"]
        assert page["limit"] == size
        if page["next_cursor"] is None:
            assert page["total"] == len(found)
            return found
        assert len(page["items"]) == size
        cursor = f"&cursor={page['next_cursor']}"
    raise AssertionError


async def by_offset(person: Person, query: str, size: int) -> list[Task]:
    found: list[Task] = []
    while True:
        page = (await person.get(f"/tasks?limit={size}&offset={len(found)}{query}")).json()
        assert page["offset"] == len(found)
        found += page["items"]
        if len(page["items"]) < size:
            return found


def ids(tasks: list[Task]) -> list[str]:
    return [task["id"] for task in tasks]


def sort_by(tasks: list[Task], sort: str) -> list[Task]:
    key = SORT_KEYS[sort.removeprefix("-")]
    return sorted(tasks, key=lambda task: (key(task), task["id"]), reverse=sort.startswith("-"))


@pytest.mark.covers("B085", "B086")
@pytest.mark.parametrize("sort", SORTS)
async def test_every_order_is_the_oracles_whole_and_in_pages(erin: Person, sort: str) -> None:
    tasks = await whole(erin)
    assert len(tasks) == SIZE
    assert len({SORT_KEYS[sort.removeprefix("-")](task) for task in tasks}) < SIZE  # or nothing tests the ties
    wanted = ids(sort_by(tasks, sort))
    assert ids(await whole(erin, f"&sort={sort}")) == wanted
    for size in (1, 7, 13):  # 13 divides the length: the last page is full and still says that it is the last
        assert ids(await by_cursor(erin, f"&sort={sort}", size)) == wanted, size
    assert ids(await by_offset(erin, f"&sort={sort}", 9)) == wanted


async def test_the_newest_first_is_the_order_without_sort(erin: Person) -> None:
    assert ids(await whole(erin)) == ids(await whole(erin, "&sort=-created_at"))


async def test_tasks_without_a_due_date_stand_last(erin: Person) -> None:
    dates = [task["due_date"] for task in await whole(erin, "&sort=due_date")]
    undated = dates.count(None)
    assert undated > 0
    assert dates[-undated:] == [None] * undated


def filters() -> Iterator[tuple[str, Callable[[Task], bool]]]:
    """Each filter as a query, and what it means."""
    edge = "2020-01-01T00:00:00.000000Z"
    now = datetime.now(UTC).isoformat()
    yield "", bool
    yield "&status=all", bool
    yield "&status=pending", lambda task: not task["completed"]
    yield "&status=completed", lambda task: task["completed"]
    for priority in RANKS:
        yield f"&priority={priority}", lambda task, wanted=priority: task["priority"] == wanted
    for tag in ("home", "Home", "%", 'a "quoted" tag', "nowhere"):
        yield f"&tag={quote(tag)}", lambda task, wanted=tag: wanted in task["tags"]
    yield f"&due_before={edge}", lambda task: (task["due_date"] or NO_DUE_DATE) < edge
    yield "&due_before=2020-01-01T00:00:00.000001Z", lambda task: (task["due_date"] or NO_DUE_DATE) <= edge
    yield f"&due_after={edge}", lambda task: (task["due_date"] or "") > edge
    yield "&due_after=2019-12-31T23:30:00-00:30", lambda task: (task["due_date"] or "") > edge
    yield "&overdue=true", lambda task: (task["due_date"] or NO_DUE_DATE) < now and not task["completed"]
    yield "&overdue=false", lambda task: (task["due_date"] or NO_DUE_DATE) >= now or task["completed"]
    yield (
        "&status=pending&priority=medium&tag=home&due_after=2019-01-01T00:00:00Z&due_before=2030-01-01T00:00:00Z",
        lambda task: not task["completed"] and task["priority"] == "medium" and "home" in task["tags"]
        and (task["due_date"] or NO_DUE_DATE) < "2030",
    )  # fmt: skip


@pytest.mark.covers("A069", "B084", "E080")
async def test_every_filter_is_the_oracles_in_every_kind_of_page(erin: Person) -> None:
    tasks = await whole(erin)
    for query, accepts in filters():
        wanted = [task for task in tasks if accepts(task)]
        assert 0 < len(wanted) < SIZE or query in {"", "&status=all", "&tag=nowhere"}, query
        for sort in ("-created_at", "due_date", "-title"):
            expected = ids(sort_by(wanted, sort))
            asked = f"{query}&sort={sort}"
            assert ids(await whole(erin, asked)) == expected, asked
            assert ids(await by_cursor(erin, asked, 3)) == expected, asked
        assert ids(await by_offset(erin, query, 4)) == ids(sort_by(wanted, "-created_at")), query


async def test_what_is_added_meanwhile_neither_repeats_nor_hides_a_task(carol: Person) -> None:
    old = [await carol.add_task(str(number)) for number in range(4)]
    first = (await carol.get("/tasks?limit=2")).json()
    added = await carol.add_task("new")
    await carol.delete(f"/tasks/{old[3]['id']}")
    rest = (await carol.get(f"/tasks?limit=2&cursor={first['next_cursor']}")).json()
    assert ids(first["items"] + rest["items"]) == ids(old[::-1])
    assert added["id"] not in ids(rest["items"])


async def test_a_cursor_of_another_list_is_400(erin: Person, carol: Person) -> None:
    for number in range(3):
        task = await carol.add_task(str(number), priority="high")
        await trash_one_of_two(carol, task)
    cursor = (await erin.get("/tasks?limit=2")).json()["next_cursor"]
    feed = (await erin.get("/changes?limit=1")).json()["next_cursor"]
    trash = (await carol.get("/tasks/trash?limit=1")).json()["next_cursor"]
    asked = [
        (carol, f"cursor={cursor}"), (erin, f"cursor={cursor}&status=pending"),
        (erin, f"cursor={cursor}&sort=created_at"), (erin, f"cursor={cursor}&sort=-updated_at"),
        (erin, f"cursor={cursor}&tag=home"), (carol, f"cursor={trash}"),
        (erin, f"cursor={cursor}&due_before=2030-01-01T00:00:00Z"), (erin, f"cursor={feed}"),
        (erin, f"cursor={cursor}&priority=low"), (erin, f"cursor={cursor}&overdue=true"),
    ]  # fmt: skip
    for person, query in asked:
        response = await person.get(f"/tasks?{query}")
        assert (response.status_code, response.json()["code"]) == (400, "BAD_CURSOR"), query
    assert (await erin.get(f"/tasks?limit=3&status=all&sort=-created_at&cursor={cursor}")).status_code == 200


async def trash_one_of_two(person: Person, task: Task) -> None:
    """Three tasks, each one once in the trash and once in the list, so that both have pages."""
    await person.add_task(task["title"])
    assert (await person.delete(f"/tasks/{task['id']}")).status_code == 204


async def test_an_altered_cursor_is_400(erin: Person) -> None:
    cursor = (await erin.get("/tasks?limit=2")).json()["next_cursor"]
    altered = [cursor[:-1], cursor + "A", cursor[1:], "", "x", "null", cursor.swapcase(), "é", "A" * 2048]
    altered += [cursor[:i] + ("B" if cursor[i] == "A" else "A") + cursor[i + 1 :] for i in range(0, len(cursor), 9)]
    for text in altered:
        response = await erin.get("/tasks", params={"cursor": text})
        assert (response.status_code, response.json()["code"]) == (400, "BAD_CURSOR"), text
    assert (await erin.get("/tasks", params={"cursor": "A" * 2049})).status_code == 422


async def test_what_a_query_may_not_hold_is_422(erin: Person) -> None:
    wrong = [
        "colour=red", "Limit=1", "limit=0", "limit=101", "limit=-1", "limit=1.0", "limit=1_0", "limit=%201", "limit=",
        "limit=ten", "limit=9999999999999999999", "offset=-1", "offset=1000001", "offset=x", "sort=", "sort=colour",
        "sort=--title", "sort=title,priority", "sort=TITLE", "status=", "status=ALL", "status=open", "priority=1",
        "priority=", "tag=", f"tag={'x' * 51}", "tag=%00", "tag=a%0Ab", "overdue=1", "overdue=yes", "overdue=",
        "due_before=2026-01-01", "due_before=soon", "due_after=2026-01-01T00:00:00", "due_after=2026-13-01T00:00:00Z",
        "due_before=9999-12-31T23:59:59-01:00", "due_after=1", "offset=1&cursor=AAAA", "id=1", "user_id=somebody",
    ]  # fmt: skip
    for query in wrong:
        response = await erin.get(f"/tasks?{query}")
        problem = response.json()
        assert (response.status_code, problem["code"]) == (422, "VALIDATION_ERROR"), query
        assert problem["errors"], query
    unknown = (await erin.get("/tasks?secret-name=secret-value")).json()["errors"]
    assert unknown[0]["type"] == "unknown_parameter"
    assert "secret" not in unknown[0]["message"]


async def test_limits_at_their_edges_are_served(erin: Person) -> None:
    for query, length in (("limit=1", 1), ("limit=100", SIZE), ("", SIZE), ("offset=1000000", 0), ("offset=0", SIZE)):
        page = (await erin.get(f"/tasks?{query}")).json()
        assert (len(page["items"]), page["total"]) == (length, SIZE), query
    tag = "x" * 50
    assert (await erin.get(f"/tasks?tag={tag}&overdue=false")).json()["total"] == 0


async def totals(person: Person, *queries: str) -> list[int]:
    return [(await person.get(f"/tasks?{query}")).json()["total"] for query in queries]


async def test_totals_follow_every_change(carol: Person, dave: Person) -> None:
    asked = ("", "status=pending", "status=completed", "priority=high", "priority=high&status=completed")
    await dave.add_task(priority="high")
    assert await totals(carol, *asked) == [0, 0, 0, 0, 0]
    one = await carol.add_task(priority="high")
    two = await carol.add_task(completed=True)
    assert await totals(carol, *asked) == [2, 1, 1, 1, 0]
    await carol.patch(f"/tasks/{one['id']}/complete")
    assert await totals(carol, *asked) == [2, 0, 2, 1, 1]
    await carol.delete(f"/tasks/{one['id']}")
    assert await totals(carol, *asked) == [1, 0, 1, 0, 0]
    assert (await carol.get("/tasks/trash?priority=high")).json()["total"] == 1
    await carol.patch(f"/tasks/{two['id']}", json={"completed": False, "priority": "high"})
    assert await totals(carol, *asked) == [1, 1, 0, 1, 0]
    await carol.post(f"/tasks/{one['id']}/restore")
    assert await totals(carol, *asked) == [2, 1, 1, 2, 1]
    assert await totals(dave, *asked) == [1, 1, 0, 1, 0]
