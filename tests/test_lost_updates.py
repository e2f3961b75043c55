"""Nobody overwrites what they have not seen: entity tags, preconditions, versions, and merges (RFC 9110 §8.8, §13)."""

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.fixtures.application import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("PUT", "", {"json": {"title": "new"}}),
    ("PATCH", "", {"json": {"title": "new"}}),
    ("PATCH", "", {"json": {}}),
    ("PATCH", "/complete", {}),
    ("PATCH", "/complete", {"json": {"completed": True}}),
    ("DELETE", "", {}),
]


async def write_if(
    person: Person, tag: str | list[str], write: tuple[str, str, dict[str, Any]], task_id: str
) -> httpx.Response:
    """One write with If-Match; several tags are several header lines."""
    method, path, options = write
    lines = [tag] if isinstance(tag, str) else tag
    headers = [(b"If-Match", line.encode("latin-1")) for line in lines]
    headers.append((b"Authorization", person.headers["Authorization"].encode()))
    return await person.client.request(method, f"/api/v1/tasks/{task_id}{path}", headers=headers, **options)


async def test_every_answer_with_a_task_carries_its_version_as_a_strong_tag(carol: Person) -> None:
    created = await carol.post("/tasks", json={"title": "x"})
    address = f"/tasks/{created.json()['id']}"
    answers = [
        created, await carol.get(address), await carol.patch(address, json={"title": "y"}),
        await carol.put(address, json={"title": "z"}), await carol.patch(f"{address}/complete"),
    ]  # fmt: skip
    await carol.delete(address)
    answers.append(await carol.post(f"{address}/restore"))
    assert [answer.headers["etag"] for answer in answers] == ['"1"', '"1"', '"2"', '"3"', '"4"', '"6"']
    assert [f'"{answer.json()["version"]}"' for answer in answers] == [answer.headers["etag"] for answer in answers]


async def test_if_none_match_of_the_current_version_is_304_without_a_body(carol: Person) -> None:
    task = await carol.add_task()
    address = f"/tasks/{task['id']}"
    for held in ('"1"', 'W/"1"', "*", '"0", "1"', '"x", W/"1" ', '"1","2"'):
        response = await carol.get(address, headers={"If-None-Match": held})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", '"1"'), held
        assert response.headers["cache-control"] == "no-store"
        assert "content-type" not in response.headers
    for held in ('"2"', "1", '""', '"01"', "", '"1', "x" * 5000):
        response = await carol.get(address, headers={"If-None-Match": held})
        assert (response.status_code, response.json()) == (200, task), held
    lines = [("If-None-Match", '"7"'), ("If-None-Match", '"1"'), *carol.headers.items()]
    assert (await carol.client.get(f"/api/v1{address}", headers=lines)).status_code == 304
    await carol.patch(f"{address}/complete")
    assert (await carol.get(address, headers={"If-None-Match": '"1"'})).status_code == 200


async def test_another_persons_task_is_404_whatever_the_condition(carol: Person, dave: Person) -> None:
    task = await carol.add_task()
    assert (await dave.get(f"/tasks/{task['id']}", headers={"If-None-Match": "*"})).status_code == 404
    for tag in ('"1"', '"9"', "*"):
        for write in WRITES:
            assert (await write_if(dave, tag, write, task["id"])).status_code == 404, (tag, write)
    assert (await carol.get(f"/tasks/{task['id']}")).json() == task


async def test_a_stale_tag_is_412_on_every_write_and_changes_nothing(carol: Person) -> None:
    task = await carol.add_task()
    await carol.patch(f"/tasks/{task['id']}", json={"title": "seen by nobody"})
    current = (await carol.get(f"/tasks/{task['id']}")).json()
    # Weak tags never match strongly; a tag that no version has is stale, not malformed.
    for tag in ('"1"', '"3"', 'W/"2"', '"abc"', '""', '"02"', '"a,b"', '"999999999999"', '"²"', ['"1"', '"x"']):
        for write in WRITES:
            response = await write_if(carol, tag, write, task["id"])
            assert (response.status_code, response.json()["code"]) == (412, "STALE_VERSION"), (tag, write)
    assert (await carol.get(f"/tasks/{task['id']}")).json() == current


async def test_the_current_tag_or_any_lets_every_write_through(carol: Person) -> None:
    for tag in ('"1"', " \t*", '"x", "1"', 'W/"1" , "1"', ['"old"', '"1"'], '"1",'):
        for write in WRITES:
            task = await carol.add_task()
            response = await write_if(carol, tag, write, task["id"])
            assert response.status_code in {200, 204}, (tag, write, response.text)


async def test_a_condition_that_is_no_tag_is_400(carol: Person) -> None:
    task = await carol.add_task()
    for tag in ("1", "", '"1', '1"', 'w/"1"', '"1" "1"', '"1"; "2"', "**", '*, "1"', '"a"b"', '"1", "2"', ",", '"1" x'):
        for write in WRITES:
            response = await write_if(carol, tag, write, task["id"])
            assert (response.status_code, response.json()["code"]) == (400, "MALFORMED_REQUEST"), (tag, write)
    assert (await carol.get(f"/tasks/{task['id']}")).json() == task


async def test_version_in_the_body_acts_like_if_match(carol: Person) -> None:
    task = await carol.add_task()
    address = f"/tasks/{task['id']}"
    for method in ("PUT", "PATCH"):
        stale = await carol.request(method, address, json={"title": "x", "version": 9})
        assert (stale.status_code, stale.json()["code"]) == (412, "STALE_VERSION")
        alone = await carol.request(method, address, json={"version": 9})
        assert alone.status_code == 412
        differ = await carol.request(method, address, json={"title": "x", "version": 2}, headers={"If-Match": '"1"'})
        assert differ.status_code == 412
        for version in ("1", 0, -1, True, 1.5, 2**31, []):
            assert (await carol.request(method, address, json={"version": version})).status_code == 422, version
    assert (await carol.get(address)).json() == task
    fits = await carol.patch(address, json={"title": "x", "version": 1}, headers={"If-Match": '"1"'})
    assert (fits.status_code, fits.json()["version"]) == (200, 2)
    unasked = await carol.patch(address, json={"title": "y", "version": None})
    assert (unasked.status_code, unasked.json()["version"]) == (200, 3)
    any_version = await carol.put(address, json={"title": "z", "version": 3}, headers={"If-Match": "*"})
    assert (any_version.status_code, any_version.json()["version"]) == (200, 4)


@pytest.mark.covers("E016", "E056")
async def test_a_task_that_was_read_can_be_edited_and_sent_back_whole(carol: Person) -> None:
    task = await carol.add_task("old", description="d", tags=["a"], due_date="2027-01-01T00:00:00Z", completed=True)
    read = (await carol.get(f"/tasks/{task['id']}")).json()
    for method in ("PUT", "PATCH"):
        edited = read | {"title": f"new by {method}"}
        response = await carol.request(method, f"/tasks/{task['id']}", json=edited)
        assert response.status_code == 200, response.text
        read = response.json()
        assert read == edited | {"version": edited["version"] + 1, "updated_at": read["updated_at"]}


@pytest.mark.covers("E056")
async def test_what_only_the_server_sets_is_read_over(carol: Person, dave: Person) -> None:
    task = await carol.add_task("x")
    sent = {
        "id": dave.user_id, "user_id": dave.user_id, "created_at": "1999-01-01T00:00:00Z", "updated_at": None,
        "completed_at": "tomorrow", "priority": "high",
    }  # fmt: skip
    changed = (await carol.put(f"/tasks/{task['id']}", json=sent)).json()
    assert changed == task | {"priority": "high", "version": 2, "updated_at": changed["updated_at"]}
    assert changed["updated_at"] > task["updated_at"]
    for unknown in ("deleted_at", "title_key", "due_key", "changed_by", "Title", "__class__", "colour"):
        response = await carol.patch(f"/tasks/{task['id']}", json={unknown: None})
        assert (response.status_code, response.json()["errors"][0]["type"]) == (422, "extra_forbidden"), unknown


async def test_of_64_writers_with_one_tag_exactly_one_wins(carol: Person) -> None:
    task = await carol.add_task("start")
    address = f"/tasks/{task['id']}"

    async def rename(number: int) -> httpx.Response:
        return await carol.patch(address, json={"title": f"writer {number}"}, headers={"If-Match": '"1"'})

    answers = await asyncio.gather(*(rename(number) for number in range(64)))
    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 63}
    [winner] = [answer.json() for answer in answers if answer.status_code == 200]
    assert (await carol.get(address)).json() == winner
    assert winner["version"] == 2
    assert len((await carol.get("/changes")).json()["items"]) == 2


async def test_writers_without_a_tag_lose_no_field_of_each_other(carol: Person) -> None:
    task = await carol.add_task("start")
    bodies: list[dict[str, Any]] = [
        {"title": "renamed"}, {"description": "described"}, {"priority": "urgent"}, {"tags": ["tagged"]},
        {"due_date": "2027-01-01T00:00:00.000000Z"}, {"completed": True},
    ]  # fmt: skip
    answers = await asyncio.gather(*(carol.patch(f"/tasks/{task['id']}", json=body) for body in bodies))
    assert [answer.status_code for answer in answers] == [200] * len(bodies)
    merged = (await carol.get(f"/tasks/{task['id']}")).json()
    for body in bodies:
        assert merged | body == merged
    assert merged["version"] == 1 + len(bodies)
