"""Large accounts in the orders that no index of the tasks has: by title and by change, walked along the words."""

from typing import Any

import pytest
import pytest_asyncio

from duly.tasks.lists import SORTED_ROWS
from duly.tasks.search import UNNOTICED, catch_up_all
from tests.fixtures.application import Api, Person
from tests.fixtures.stored import Stored
from tests.schemas import run_sql
from tests.test_task_lists import Task, by_cursor, ids, sort_by
from tests.test_task_plans import fill

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = SORTED_ROWS + 60
SORTS = ("title", "-title", "updated_at", "-updated_at")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stored(house: Api) -> Stored:
    return Stored(house.settings.database_url or "")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def frank(house: Api, stored: Stored) -> Person:
    """Somebody with more tasks than are sorted for each request, and with words for all of them."""
    frank = await house.register()
    dialect = house.app.state.services.database.dialect.name
    await run_sql(stored.url, fill(frank.user_id, SIZE, dialect, prefix="large"))
    # The order of people's titles is that of their keys, which this statement of an operator's made up.
    await run_sql(stored.url, f"UPDATE tasks SET title = title_key WHERE user_id = '{frank.user_id}'")
    await catch_up_all(house.app.state.services.database)
    return frank


async def place(stored: Stored, person: Person) -> tuple[int, int]:
    """Where the index is, and where the feed is."""
    indexed = await stored.value("SELECT position FROM search_places WHERE user_id = ?", person.user_id)
    return indexed, await stored.value("SELECT position FROM task_counters WHERE user_id = ?", person.user_id)


async def listed(person: Person, query: str = "") -> list[Task]:
    return await by_cursor(person, query, 100)


@pytest.mark.covers("B085", "B086")
@pytest.mark.parametrize("sort", SORTS)
async def test_a_large_account_is_listed_as_the_oracle_has_it(frank: Person, sort: str) -> None:
    tasks = await listed(frank)
    assert len(tasks) == SIZE
    wanted = sort_by(tasks, sort)
    assert ids(await listed(frank, f"&sort={sort}")) == ids(wanted)
    done = [task for task in wanted if task["completed"]]
    assert ids(await listed(frank, f"&sort={sort}&status=completed")) == ids(done)
    both = [task for task in done if task["priority"] == "high"]
    query = f"&sort={sort}&status=completed&priority=high&search=t"
    assert ids(await listed(frank, query)) == ids(both)
    page = (await frank.get(f"/tasks?limit=5&offset=700&sort={sort}")).json()
    assert (ids(page["items"]), page["total"]) == (ids(wanted[700:705]), SIZE)


@pytest.mark.covers("B085")
@pytest.mark.parametrize("sort", SORTS)
async def test_each_write_that_was_answered_is_in_its_place(frank: Person, stored: Stored, sort: str) -> None:
    first = (await frank.get(f"/tasks?limit=1&sort={sort}")).json()["items"][0]
    added = await frank.add_task("zz the last of all")
    await frank.patch(f"/tasks/{first['id']}", json={"title": "aa the first of all"})
    trashed = (await frank.get(f"/tasks?limit=1&offset=50&sort={sort}")).json()["items"][0]
    await frank.delete(f"/tasks/{trashed['id']}")
    tasks = await listed(frank)
    assert ids(await listed(frank, f"&sort={sort}")) == ids(sort_by(tasks, sort))
    indexed, position = await place(stored, frank)
    assert indexed == position
    # As it was, for the next one.
    await frank.post(f"/tasks/{trashed['id']}/restore")
    await frank.delete(f"/tasks/{added['id']}")


@pytest.mark.covers("B085")
async def test_what_is_far_behind_is_sorted_and_left_to_the_upkeep(frank: Person, stored: Stored, house: Api) -> None:
    moved = f"UPDATE tasks SET title = 'x' || title, title_key = 'x' || title_key WHERE user_id = '{frank.user_id}'"
    await run_sql(stored.url, moved)
    before, position = await place(stored, frank)
    assert position - before > UNNOTICED
    for sort in SORTS:
        tasks: list[dict[str, Any]] = await listed(frank)
        assert ids(await listed(frank, f"&sort={sort}")) == ids(sort_by(tasks, sort))
    assert await place(stored, frank) == (before, position)
    await catch_up_all(house.app.state.services.database)
    assert await place(stored, frank) == (position, position)
    assert ids(await listed(frank, "&sort=title")) == ids(sort_by(tasks, "title"))


@pytest.mark.covers("B085")
async def test_a_list_lacks_no_task_that_an_older_server_indexed(frank: Person, stored: Stored) -> None:
    """During a rolling upgrade a server of 0.4.0 writes words, and knows of no sort keys."""
    added = await frank.add_task("yy indexed by another")
    await listed(frank, "&sort=title")
    older = "UPDATE task_words SET updated_at = NULL, title_key = NULL WHERE task_id = ?"
    await stored.rows(older, added["id"])
    tasks = await listed(frank)
    for sort in SORTS:
        assert ids(await listed(frank, f"&sort={sort}")) == ids(sort_by(tasks, sort))


@pytest.mark.covers("B085")
async def test_a_list_lacks_no_task_whose_change_an_operator_removed(frank: Person, stored: Stored) -> None:
    await frank.add_task("zzz nobody heard of it")
    _, position = await place(stored, frank)
    await stored.rows("DELETE FROM changes WHERE user_id = ? AND position = ?", frank.user_id, position)
    tasks = await listed(frank)
    assert ids(await listed(frank, "&sort=-title")) == ids(sort_by(tasks, "-title"))
