"""Idempotency-Key: a retry gets the first answer again, for its own user, for one body and for 24 hours."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.fixtures.application import Api, Person
from tests.second_connection import second_connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

PERSONAL = re.compile(r"^(x-request-id|idempotency-replayed|content-length|content-encoding)$")


async def create(person: Person, key: str | bytes, **body: Any) -> httpx.Response:
    headers: dict[str, Any] = {"Idempotency-Key": key}
    return await person.post("/tasks", json={"title": "once", **body}, headers=headers)


async def count_tasks(person: Person) -> int:
    total: int = (await person.get("/tasks")).json()["total"]
    return total


def lasting(response: httpx.Response) -> dict[str, str]:
    """The headers that belong to the answer and not to the one request."""
    return {name: value for name, value in response.headers.items() if not PERSONAL.match(name)}


async def test_a_retry_gets_the_first_answer_and_has_no_effect(carol: Person) -> None:
    first = await create(carol, "key-1", tags=["é"])
    task = first.json()
    await carol.patch(f"/tasks/{task['id']}", json={"title": "changed since"})
    again = await create(carol, "key-1", tags=["é"])
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert lasting(again) == lasting(first)
    assert (again.headers["location"], again.headers["etag"]) == (f"/api/v1/tasks/{task['id']}", '"1"')
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert await count_tasks(carol) == 1
    assert len((await carol.get("/changes")).json()["items"]) == 2


async def test_the_answer_stays_when_the_task_is_gone(carol: Person) -> None:
    first = await create(carol, "k")
    await carol.delete(f"/tasks/{first.json()['id']}")
    assert (await create(carol, "k")).content == first.content
    assert await count_tasks(carol) == 0


async def test_another_body_under_the_same_key_is_422(carol: Person) -> None:
    await create(carol, "k")
    for body in ({"title": "twice"}, {"priority": "high"}, {"title": "once "}):
        response = await create(carol, "k", **body)
        assert (response.status_code, response.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED"), body
        assert response.json()["errors"] == []
    assert await count_tasks(carol) == 1
    assert (await create(carol, "k")).headers["idempotency-replayed"] == "true"


async def test_another_key_and_no_key_create_again(carol: Person) -> None:
    answers = [await create(carol, key) for key in ("k", "K", "k2")]
    answers += [await carol.post("/tasks", json={"title": "once"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201] * 5
    assert len({answer.json()["id"] for answer in answers}) == await count_tasks(carol) == 5


async def test_a_key_belongs_to_its_user(carol: Person, dave: Person) -> None:
    hers, his = await create(carol, "shared"), await create(dave, "shared", title="his")
    assert (hers.status_code, his.status_code) == (201, 201)
    assert (hers.json()["user_id"], his.json()["user_id"]) == (carol.user_id, dave.user_id)
    assert "idempotency-replayed" not in his.headers
    assert (await create(carol, "shared")).content == hers.content


async def test_of_64_at_once_one_has_an_effect_and_all_get_its_answer(carol: Person) -> None:
    answers = await asyncio.gather(*(create(carol, "rush") for _ in range(64)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert await count_tasks(carol) == 1
    assert len((await carol.get("/changes")).json()["items"]) == 1


async def test_of_two_bodies_at_once_under_one_key_one_is_refused(carol: Person) -> None:
    answers = await asyncio.gather(*(create(carol, "rush", title=str(number % 2)) for number in range(16)))
    assert sorted(answer.status_code for answer in answers) == [201] * 8 + [422] * 8
    assert await count_tasks(carol) == 1


async def age_key(house: Api, person: Person, age: timedelta) -> None:
    """Let the person's keys have been used so long ago."""
    moment = (datetime.now(UTC) - age).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    async with second_connection(house.settings.database_url or "") as outside:
        await outside.run(f"UPDATE idempotency_keys SET created_at = '{moment}' WHERE user_id = '{person.user_id}'")


async def test_a_key_is_kept_for_24_hours_and_then_forgotten(house: Api, carol: Person) -> None:
    first = await create(carol, "old")
    await age_key(house, carol, timedelta(hours=23, minutes=59))
    assert (await create(carol, "old")).content == first.content
    await age_key(house, carol, timedelta(hours=24, seconds=1))
    second = await create(carol, "old", title="another body is welcome too")
    assert (second.status_code, second.headers.get("idempotency-replayed")) == (201, None)
    assert second.json()["id"] != first.json()["id"]
    again = await create(carol, "old", title="another body is welcome too")
    assert (again.content, again.headers["idempotency-replayed"]) == (second.content, "true")
    assert await count_tasks(carol) == 2


async def test_a_refused_request_uses_no_key_up(carol: Person) -> None:
    for body in ({"title": ""}, {"colour": "red"}):
        assert (await create(carol, "retry", **body)).status_code == 422
    broken = await carol.post(
        "/tasks", content=b"{", headers={"Idempotency-Key": "retry", "Content-Type": "application/json"}
    )
    assert broken.status_code == 400
    response = await create(carol, "retry")
    assert (response.status_code, response.headers.get("idempotency-replayed")) == (201, None)


async def test_while_the_first_request_has_no_answer_yet_it_is_409(house: Api, carol: Person) -> None:
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    async with second_connection(house.settings.database_url or "") as outside:
        await outside.run(
            "INSERT INTO idempotency_keys (user_id, key, request_hash, created_at) "
            f"VALUES ('{carol.user_id}', 'running', 'of another request', '{moment}')"
        )
    response = await create(carol, "running")
    assert (response.status_code, response.json()["code"]) == (409, "IDEMPOTENCY_IN_PROGRESS")
    assert await count_tasks(carol) == 0


async def test_a_key_has_1_to_255_printable_characters(carol: Person) -> None:
    for key in ("k", "k" * 255, " ~!@#$%^&*()_+{}|:<>?\"'\\ ok", "550e8400-e29b-41d4-a716-446655440000"):
        assert (await create(carol, key)).status_code == 201, key
    before = await count_tasks(carol)
    for key in ("", "k" * 256, "é".encode(), "tab\there", b"\xff", b"nul\x00", b"del\x7f"):
        response = await create(carol, key)
        problem = response.json()
        assert (response.status_code, problem["errors"][0]["field"]) == (422, "header.Idempotency-Key"), key
    assert await count_tasks(carol) == before


async def test_a_key_on_another_write_does_no_harm(carol: Person) -> None:
    task = await carol.add_task()
    for title in ("one", "two"):
        response = await carol.patch(f"/tasks/{task['id']}", json={"title": title}, headers={"Idempotency-Key": "k"})
        assert (response.status_code, response.json()["title"]) == (200, title)
    assert (await create(carol, "k")).headers.get("idempotency-replayed") is None
