"""The search: words in any order, as beginnings, without case and accents; symbols as they are; always up to date."""

import asyncio
import random
import unicodedata
from itertools import count
from typing import Any

import pytest

from duly.tasks.search import UNNOTICED, catch_up_all
from tests.fixtures.application import Api, Person
from tests.second_connection import second_connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

Task = dict[str, Any]


async def find(person: Person, text: str, **more: Any) -> list[str]:
    """The titles that a search finds, in alphabetical order."""
    return sorted(task["title"] for task in await page_of(person, text, **more))


async def page_of(person: Person, text: str, path: str = "/tasks", **more: Any) -> list[Task]:
    response = await person.get(path, params={"search": text, "limit": 100, **more})
    assert response.status_code == 200, response.text
    page = response.json()
    assert page["total"] == len(page["items"])
    items: list[Task] = page["items"]
    return items


@pytest.mark.covers("A069")
async def test_every_word_has_to_begin_a_word_somewhere_in_the_task(carol: Person) -> None:
    await carol.add_task("Water the plants", description="Kitchen and balcony", tags=["home", "green"])
    await carol.add_task("Plan the kitchen")
    both, one = ["Plan the kitchen", "Water the plants"], ["Water the plants"]
    for text, found in (
        ("water", one), ("plan", both), ("PLAN kit", both), ("kit plan", both), ("balcony water", one), ("green", one),
        ("hom plants balc", one), ("ater", []), ("lant", []), ("water desk", []), ("plantss", []), ("t k p", both),
        ("  water   plants ", one),
    ):  # fmt: skip
        assert await find(carol, text) == found, text


async def test_case_and_accents_do_not_count(carol: Person) -> None:
    titles = [
        "Café",
        "Straße",
        "Ünder",
        "Ёлка",
        "Ὀδυσσεύς",
        "İstanbul",
        "ﬁne",
        "e\u0301té",
        "\uff37\uff29de",
        "한국어 공부",
        "हिन्दी",
    ]
    for title in titles:
        await carol.add_task(title)
    for text, found in (
        ("cafe", "Café"), ("CAFÉ", "Café"), ("STRASSE", "Straße"), ("straß", "Straße"), ("under", "Ünder"),
        ("елка", "Ёлка"), ("οδυσσευσ", "Ὀδυσσεύς"), ("istan", "İstanbul"), ("fin", "ﬁne"), ("ETE", "été"),
        ("wide", "\uff37\uff29de"), ("한국", "한국어 공부"), ("हिन्", "हिन्दी"),
    ):  # fmt: skip
        assert await find(carol, text) == [found], text
    assert await find(carol, "हन") == []


@pytest.mark.covers("A069")
async def test_symbols_are_themselves(carol: Person) -> None:
    titles = ["100% done", "1000 things", "100 items and 5%", "snake_case", "snake case", "C++", "C", "a.b", "a b",
              r"back\slash", "it's", 'say "hi"', "(x OR y)", "x* y", "x-y", "NEAR x:y", "🪴 water", "❤️"]  # fmt: skip
    for title in titles:
        await carol.add_task(title)
    for text, found in (
        ("100%", ["100% done"]), ("%", ["100 items and 5%", "100% done"]), ("_", ["snake_case"]), ("++", ["C++"]),
        ("snake_case", ["snake_case"]), ("snake_", ["snake_case"]), ("c++", ["C++"]), ("a.b", ["a.b"]),
        ("\\", [r"back\slash"]), ("'", ["it's"]), ('"', ['say "hi"']), ('"hi"', ['say "hi"']), ("x*", ["x* y"]),
        ("(x", ["(x OR y)"]), ("x:y", ["NEAR x:y"]), ("x-", ["x-y"]), ("🪴", ["🪴 water"]), ("❤", ["❤️"]), ("❤️", ["❤️"]),
        ("🎉", []), ("&", []), ("OR", ["(x OR y)"]), ("NEAR", ["NEAR x:y"]),
        ("y x", ["(x OR y)", "NEAR x:y", "x* y", "x-y"]),
        ("% done", ["100% done"]), ("{}[]^~|<>=;,", []),
    ):  # fmt: skip
        assert await find(carol, text) == sorted(found), text


async def test_scripts_without_blanks_are_found_by_any_part(carol: Person) -> None:
    titles = ["買い物リスト", "物を買う", "ซื้อของที่ตลาด", "东京旅行 2027"]
    for title in titles:
        await carol.add_task(title)
    for text, found in (
        ("買い物", [titles[0]]), ("リスト", [titles[0]]), ("買", titles[:2]), ("物買", []), ("ตลาด", [titles[2]]),
        ("旅行", [titles[3]]), ("旅行 20", [titles[3]]), ("行东", []),
    ):  # fmt: skip
        assert await find(carol, text) == sorted(found), text


async def test_long_words_are_compared_to_their_end(carol: Person) -> None:
    one, two = "x" * 80 + "one", "x" * 80 + "two"
    await carol.add_task(one)
    await carol.add_task(two)
    assert await find(carol, one) == [one]
    assert await find(carol, "x" * 70) == [one, two]
    assert await find(carol, "é" * 100) == []


async def test_a_search_sees_each_write_that_was_answered_before(carol: Person) -> None:
    task = await carol.add_task("alpha", tags=["first"])
    address = f"/tasks/{task['id']}"
    assert await find(carol, "alpha") == ["alpha"]
    await carol.patch(address, json={"title": "beta"})
    assert (await find(carol, "alpha"), await find(carol, "beta")) == ([], ["beta"])
    await carol.patch(address, json={"description": "gamma", "tags": ["second"]})
    assert (await find(carol, "gamma second"), await find(carol, "first")) == (["beta"], [])
    await carol.patch(f"{address}/complete")
    assert await find(carol, "beta", status="completed") == ["beta"]
    assert await find(carol, "beta", status="pending") == []
    await carol.delete(address)
    assert (await find(carol, "beta"), await find(carol, "beta", path="/tasks/trash")) == ([], ["beta"])
    await carol.post(f"{address}/restore")
    assert (await find(carol, "beta"), await find(carol, "beta", path="/tasks/trash")) == (["beta"], [])


async def test_an_operators_statement_is_seen_too(house: Api, carol: Person) -> None:
    one, two = await carol.add_task("one"), await carol.add_task("two")
    assert await find(carol, "one") == ["one"]
    async with second_connection(house.settings.database_url or "") as outside:
        await outside.run(f"UPDATE tasks SET title = 'three', priority = 'urgent' WHERE id = '{one['id']}'")
        assert (await find(carol, "one"), await find(carol, "three")) == ([], ["three"])
        assert await find(carol, "three", sort="-priority", priority="urgent") == ["three"]
        await outside.run(f"DELETE FROM tasks WHERE id = '{two['id']}'")
        assert await find(carol, "two") == []
        # Lost places are no harm: the words are read once more, from the beginning.
        await outside.run(f"DELETE FROM search_places WHERE user_id = '{carol.user_id}'")
        assert await find(carol, "three") == ["three"]
        assert await outside.value(f"SELECT count(*) FROM task_words WHERE user_id = '{carol.user_id}'") == 1


async def test_changes_of_purged_tasks_are_passed_over(house: Api, carol: Person) -> None:
    gone = await carol.add_task("gone")
    await carol.add_task("here")
    await carol.delete(f"/tasks/{gone['id']}")
    async with second_connection(house.settings.database_url or "") as outside:
        await outside.run(f"DELETE FROM tasks WHERE id = '{gone['id']}'")
        await outside.run(f"UPDATE changes SET task = 'null' WHERE task_id = '{gone['id']}'")
    assert await find(carol, "here") == ["here"]
    assert await find(carol, "gone", path="/tasks/trash") == []


async def test_everybody_finds_only_their_own(house: Api, carol: Person, dave: Person) -> None:
    await carol.add_task("secret plan", tags=["shared"])
    await dave.add_task("public plan", tags=["shared"])
    assert await find(carol, "plan") == ["secret plan"]
    assert await find(dave, "plan") == ["public plan"]
    assert (await find(carol, "public"), await find(dave, "secret")) == ([], [])
    assert await find(dave, "plan", tag="shared") == ["public plan"]
    assert (await house.client.get("/api/v1/tasks?search=plan")).status_code == 401


@pytest.mark.covers("A068", "A069", "A099")
async def test_results_have_the_filters_orders_and_pages_of_a_list(carol: Person) -> None:
    for number in range(30):
        await carol.add_task(
            f"{'even' if number % 2 == 0 else 'odd'} {number:02}", priority=("low", "urgent")[number % 3 == 0],
            tags=["third"] if number % 3 == 0 else [], due_date=f"2020-01-{number + 1:02}T00:00:00Z",
        )  # fmt: skip
    wanted = [f"even {number:02}" for number in range(0, 30, 2)]
    for sort in ("title", "created_at", "updated_at", "due_date"):
        assert await by_cursor(carol, f"search=even&sort={sort}") == wanted
        assert await by_cursor(carol, f"search=even&sort=-{sort}") == wanted[::-1]
    assert await find(carol, "even", priority="urgent") == await find(carol, "even", tag="third") == wanted[::3]
    assert await find(carol, "even", due_before="2020-01-10T00:00:00Z", overdue="true") == wanted[:5]
    assert await find(carol, "even", tag="thir") == []
    offset = (await carol.get("/tasks?search=even&sort=title&limit=4&offset=12")).json()
    assert ([task["title"] for task in offset["items"]], offset["total"]) == (wanted[12:], 15)
    cursor = (await carol.get("/tasks?search=even&limit=2")).json()["next_cursor"]
    for other in ("search=odd", "search=even&tag=third", ""):
        assert (await carol.get(f"/tasks?cursor={cursor}&{other}")).json()["code"] == "BAD_CURSOR"


async def by_cursor(person: Person, query: str) -> list[str]:
    """The titles in pages of four."""
    found: list[str] = []
    cursor = ""
    for _ in count():
        page = (await person.get(f"/tasks?limit=4&{query}{cursor}")).json()
        assert page["total"] == 15
        found += [task["title"] for task in page["items"]]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"
    raise AssertionError


async def test_what_a_search_may_not_be_is_422(carol: Person) -> None:
    for text in ("", " ", "x" * 101, "a\nb", "\x00", "\x1b"):
        response = await carol.get("/tasks", params={"search": text})
        assert (response.status_code, response.json()["code"]) == (422, "VALIDATION_ERROR"), text
    await carol.add_task("there")
    for text in ("x" * 100, "% " * 50, "ﷺ" * 100, "\u202e", "'; DROP TABLE tasks; --", '" OR 1 *', "a:* | b", "!a"):
        assert (await carol.get("/tasks", params={"search": text})).status_code == 200, text


async def test_many_searches_during_many_writes_find_what_is_there(house: Api, carol: Person) -> None:
    """Several bring the words up to date at once; in the end nothing is missing and nothing is twice."""

    async def write(number: int) -> None:
        task = await carol.add_task(f"busy {number}")
        assert f"busy {number}" in await find(carol, f"busy {number}")
        if number % 3 == 0:
            await carol.patch(f"/tasks/{task['id']}", json={"title": f"calm {number}"})
        elif number % 3 == 1:
            await carol.delete(f"/tasks/{task['id']}")

    async def search() -> None:
        for _ in range(10):
            await carol.get("/tasks?search=busy")

    await asyncio.gather(*(write(number) for number in range(30)), *(search() for _ in range(4)))
    assert (len(await find(carol, "busy")), len(await find(carol, "calm"))) == (10, 10)
    assert len(await find(carol, "busy", path="/tasks/trash")) == 10
    async with second_connection(house.settings.database_url or "") as outside:
        counts = f"SELECT count(*), count(DISTINCT task_id) FROM task_words WHERE user_id = '{carol.user_id}'"
        assert [tuple(row) for row in await outside.run(counts)] == [(30, 30)]


async def test_a_user_who_is_deleted_leaves_no_words(house: Api, carol: Person) -> None:
    await carol.add_task("mine")
    assert await find(carol, "mine") == ["mine"]
    async with second_connection(house.settings.database_url or "") as outside:
        await outside.run(f"DELETE FROM users WHERE id = '{carol.user_id}'")
        for table in ("task_words", "search_places", "tasks"):
            assert await outside.value(f"SELECT count(*) FROM {table} WHERE user_id = '{carol.user_id}'") == 0


async def test_the_upkeep_indexes_who_is_far_behind_before_they_search(house: Api, carol: Person, dave: Person) -> None:
    services = house.app.state.services
    async with second_connection(house.settings.database_url or "") as outside:
        await carol.add_task("a little behind")
        task = await dave.add_task("far behind")
        await outside.run("BEGIN")
        for _ in range(UNNOTICED):
            await outside.run(f"UPDATE tasks SET version = version + 1 WHERE id = '{task['id']}'")
        await outside.run("COMMIT")
        await catch_up_all(services.database)
        counts = {
            person.user_id: await outside.value(f"SELECT count(*) FROM task_words WHERE user_id = '{person.user_id}'")
            for person in (carol, dave)
        }
    assert counts == {carol.user_id: 0, dave.user_id: 1}
    assert await find(dave, "far") == ["far behind"]


async def test_the_upkeep_ends_when_changes_that_it_wants_are_gone(house: Api, carol: Person, dave: Person) -> None:
    """An operator may have removed changes: what nobody can read any more is not waited for, and nobody else waits."""
    async with second_connection(house.settings.database_url or "") as outside:
        for person in (carol, dave):
            task = await person.add_task(f"of {person.user_id}")
            await outside.run("BEGIN")
            for _ in range(UNNOTICED):
                await outside.run(f"UPDATE tasks SET version = version + 1 WHERE id = '{task['id']}'")
            await outside.run("COMMIT")
        await outside.run(f"DELETE FROM changes WHERE user_id = '{carol.user_id}'")
        async with asyncio.timeout(30):
            await catch_up_all(house.app.state.services.database)
        left = await outside.value(f"SELECT count(*) FROM task_words WHERE user_id = '{dave.user_id}'")
    assert left == 1


# The oracle's own idea of the rule, for texts of these characters.
LETTERS = "aAbß éÉ1 Жжй%_-+(🪴買物い\n"
ALONE = "%_-+(🪴買物い"


def plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()


def has(task: Task, search: str) -> bool:
    text = plain("\n".join([task["title"], task["description"] or "", *task["tags"]]))
    spaced = "".join(f" {c} " if c in ALONE else c for c in text)
    for term in plain(search).split():
        for piece in "".join(f" {c} " if c in ALONE else c for c in term).split():
            if not any(word.startswith(piece) for word in spaced.split()):
                return False
        if any(c in ALONE for c in term) and term not in text:
            return False
    return True


async def test_the_oracle_finds_the_same(house: Api, carol: Person, dave: Person) -> None:
    """Tasks of few characters, so that they are alike; the same ones on both dialects."""
    dice = random.Random(20261121)  # noqa: S311 - a dice, no secret
    made: list[Task] = []

    def text(most: int) -> str:
        return "".join(dice.choices(LETTERS.replace("\n", ""), k=dice.randint(1, most))).strip() or "a"

    for _ in range(60):
        title, description, tags = text(8), text(14), [text(3) for _ in range(dice.randint(0, 2))]
        made.append(await carol.add_task(title, description=description, tags=tags))
        await dave.add_task(title, description=description)
    hits = 0
    for _ in range(250):
        asked = text(4)
        wanted = sorted(task["id"] for task in made if has(task, asked))
        assert sorted(task["id"] for task in await page_of(carol, asked)) == wanted, asked
        hits += len(wanted)
    assert 1000 < hits < 250 * 60


async def test_a_tag_is_matched_whole_and_exactly(carol: Person) -> None:
    await carol.add_task("One", tags=["work", "ho%me", 'qu"ote', "zwei Wörter"])
    found = {"work": 1, "wor": 0, "Work": 0, "ho_me": 0, "ho%me": 1, 'qu"ote': 1, "zwei Wörter": 1, "zwei": 0}
    for tag, times in found.items():
        assert (await carol.get("/tasks", params={"tag": tag})).json()["total"] == times, tag
