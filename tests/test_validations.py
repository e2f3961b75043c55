"""What a task may hold: each limit at its edge and one beyond, texts, types, times; and the database refuses it too."""

from typing import Any

import apsw
import asyncpg
import pytest

from tests.fixtures.application import Api, Person
from tests.second_connection import second_connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSED = (
    apsw.ConstraintError, asyncpg.IntegrityConstraintViolationError, asyncpg.StringDataRightTruncationError,
    asyncpg.RaiseError,
)  # fmt: skip
WRONG_TYPES: list[Any] = [5, 1.5, True, [], {}, ["x"], {"x": 1}]


async def faults(person: Person, body: Any) -> list[tuple[str, str]]:
    """The wrong fields that creating and updating name, which must be the same; none when both are accepted."""
    created = await person.post("/tasks", json=body)
    task = await person.add_task()
    updated = await person.patch(f"/tasks/{task['id']}", json=body)
    assert (created.status_code, updated.status_code) in {(201, 200), (422, 422)}, (body, created.text, updated.text)
    if created.status_code == 201:
        return []
    found = [(error["field"], error["type"]) for error in created.json()["errors"]]
    assert [(error["field"], error["type"]) for error in updated.json()["errors"]] == found
    return found


async def is_accepted(person: Person, **fields: Any) -> bool:
    found = await faults(person, {"title": "x", **fields})
    assert {field.partition(".")[0] for field, _ in found} <= set(fields), found
    return not found


@pytest.mark.covers("A066", "B038", "B073", "D045", "E035", "E058", "E059")
async def test_each_limit_holds_at_its_edge_and_one_beyond(carol: Person) -> None:
    for length, fits in ((1, True), (200, True), (201, False), (0, False)):
        assert await is_accepted(carol, title="x" * length) is fits, length
        assert await is_accepted(carol, title="🪴" * length) is fits, length
    for length, fits in ((0, True), (2000, True), (2001, False)):
        assert await is_accepted(carol, description="é" * length) is fits, length
    for length, fits in ((0, True), (20, True), (21, False)):
        assert await is_accepted(carol, tags=[f"tag {number}" for number in range(length)]) is fits, length
    for length, fits in ((1, True), (50, True), (51, False), (0, False)):
        assert await is_accepted(carol, tags=["ok", "y" * length]) is fits, length
    for priority in ("low", "medium", "high", "urgent"):
        assert await is_accepted(carol, priority=priority)


async def test_blanks_around_do_not_count_and_are_dropped(carol: Person) -> None:
    blanks = " \t\r\n\u00a0\u2003\u3000"
    for title in (f"{blanks}{'x' * 200}{blanks}", "x" * 200 + " " * 10_000):
        assert (await carol.add_task(title))["title"] == "x" * 200
    for title in (blanks, " ", "\u3000"):
        assert await faults(carol, {"title": title}) == [("title", "string_too_short")]
    task = await carol.add_task("x", description=f"{blanks}a\n\n\tb{blanks}", tags=[" home ", "home"])
    assert (task["description"], task["tags"]) == ("a\n\n\tb", ["home"])


async def test_characters_are_counted_and_compared_as_people_see_them(carol: Person) -> None:
    # U+0065 U+0301 and U+00E9 are one letter: Unicode's form C (UAX 15) is what is kept and counted.
    decomposed = "e\u0301"
    task = await carol.add_task(decomposed * 200, tags=[decomposed, "\u00e9"])
    assert (task["title"], task["tags"]) == ("\u00e9" * 200, ["\u00e9"])
    assert not await is_accepted(carol, title=decomposed * 201)
    # What lists sort by is longer than these titles: 18 letters for one, and two for the other.
    for title in ("\ufdfa" * 200, "ß" * 200, "İ" * 200):
        assert (await carol.add_task(title))["title"] == title
    found = (await carol.get("/tasks", params={"sort": "title", "tag": decomposed})).json()
    assert [task["tags"] for task in found["items"]] == [["\u00e9"]]


@pytest.mark.covers("E058", "E059", "E060")
async def test_control_characters_are_refused_and_lines_may_break_in_a_description_only(carol: Person) -> None:
    controls = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
    for character in controls:
        text = f"a{character}b"
        assert await faults(carol, {"title": text}) == [("title", "control_character")], ascii(character)
        assert await is_accepted(carol, description=text) is (character in "\t\n\r"), ascii(character)
    for character in ("\u2028", "\u2029", "\x00", "\n"):
        assert not await is_accepted(carol, title=f"a{character}b")
        assert not await is_accepted(carol, tags=[f"a{character}b"])
    assert await is_accepted(carol, title="right\u200fto\u200eleft\ufeff\U0010ffff")


async def test_half_a_character_cannot_be_read(carol: Person) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (
        rb'{"title": "\ud83e"}',
        rb'{"title": "\udeb4\ud83e"}',
        b'{"title": "\xed\xa0\x80"}',
        b'{"title": "\xc0\x80"}',
    ):
        response = await carol.post("/tasks", content=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (400, "MALFORMED_REQUEST"), body
    whole = await carol.post("/tasks", content=rb'{"title": "\ud83e\udeb4"}', headers=headers)
    assert whole.json()["title"] == "🪴"


@pytest.mark.covers("E057", "E060")
async def test_wrong_types_are_refused_and_never_converted(carol: Person) -> None:
    for value in WRONG_TYPES:
        for field in ("title", "description", "priority", "due_date"):
            assert not await is_accepted(carol, **{field: value}), (field, value)
        if not isinstance(value, bool):
            assert not await is_accepted(carol, completed=value), value
        if value not in ([], ["x"]):
            assert not await is_accepted(carol, tags=value), value
        assert not await is_accepted(carol, tags=["x", value]), value
    for field, text in (("completed", "true"), ("tags", "home"), ("tags", '["home"]'), ("priority", "HIGH")):
        assert not await is_accepted(carol, **{field: text}), field
    for field in ("title", "completed", "priority"):
        assert not await is_accepted(carol, **{field: None}), field
    for body in ([], "text", 5, None, True, [{"title": "x"}]):
        assert (await carol.post("/tasks", json=body)).status_code == 422, body


@pytest.mark.covers("D045")
async def test_every_wrong_field_is_named_at_once(carol: Person) -> None:
    body = {"title": "", "priority": 1, "due_date": "soon", "tags": ["ok", ""], "completed": "no", "colour": 1}
    assert {field for field, _ in await faults(carol, body)} == {
        "title", "priority", "due_date", "tags.1", "completed", "colour",
    }  # fmt: skip


TIMES = {
    "2026-12-31T09:00:00Z": "2026-12-31T09:00:00.000000Z",
    "2026-12-31t09:00:00z": "2026-12-31T09:00:00.000000Z",
    "2026-12-31 09:00:00Z": "2026-12-31T09:00:00.000000Z",
    "2026-12-31T09:00:00.5Z": "2026-12-31T09:00:00.500000Z",
    "2026-12-31T09:00:00.123456789Z": "2026-12-31T09:00:00.123456Z",
    "2026-12-31T23:30:00-01:00": "2027-01-01T00:30:00.000000Z",
    "2026-03-01T00:30:00+05:45": "2026-02-28T18:45:00.000000Z",
    "2026-12-31T09:00:00-00:00": "2026-12-31T09:00:00.000000Z",
    "2026-12-31T09:00:00+23:59": "2026-12-30T09:01:00.000000Z",
    "2024-02-29T12:00:00Z": "2024-02-29T12:00:00.000000Z",
    "0001-01-01T00:00:01Z": "0001-01-01T00:00:01.000000Z",
    "0999-06-01T00:00:00Z": "0999-06-01T00:00:00.000000Z",
    "1970-01-01T00:00:00Z": "1970-01-01T00:00:00.000000Z",
    "9999-12-31T23:59:59Z": "9999-12-31T23:59:59.000000Z",
    "9999-12-31T23:59:59.999998Z": "9999-12-31T23:59:59.999998Z",
}
NO_TIMES = [
    "", " ", "now", "2026-12-31", "2026-12-31T09:00:00", "2026-12-31T09:00Z", "2026-12-31T09Z", "20261231T090000Z",
    "2026-W53-4T09:00:00Z", "2026-366T09:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z",
    "2026-02-29T00:00:00Z", "2026-12-32T00:00:00Z", "2026-12-31T24:00:00Z", "2026-12-31T09:60:00Z",
    "2026-12-31T23:59:60Z",
    "2026-12-31T09:00:00+24:00", "2026-12-31T09:00:00+05:60", "2026-12-31T09:00:00+0100", "2026-12-31T09:00:00+01",
    "2026-12-31T09:00:00+01:00:30", "2026-12-31T09:00:00 Z", "2026-12-31T09:00:00,5Z", "2026-12-31T09:00:00.Z",
    "2026-12-31T09:00:00.1234567890Z", " 2026-12-31T09:00:00Z", "2026-12-31T09:00:00Z\n", "+2026-12-31T09:00:00Z",
    "10000-01-01T00:00:00Z", "99999-12-31T00:00:00Z", "0000-01-01T00:00:00Z", "-001-01-01T00:00:00Z",
    "9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z",
    "٢٠٢٦-12-31T09:00:00Z", "infinity", "1798707600", "Thu, 31 Dec 2026 09:00:00 GMT",
]  # fmt: skip


async def test_times_are_rfc_3339_and_come_back_in_utc(carol: Person) -> None:
    for sent, answered in TIMES.items():
        task = await carol.add_task(due_date=sent)
        assert task["due_date"] == answered, sent
        assert (await carol.get(f"/tasks/{task['id']}")).json() == task
        # What Duly answers it also reads.
        assert (await carol.patch(f"/tasks/{task['id']}", json=task)).json()["due_date"] == answered
    for sent in NO_TIMES:
        assert not await is_accepted(carol, due_date=sent), sent
    for sent in ("9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00Z"):
        (fault,) = (await carol.post("/tasks", json={"title": "Late", "due_date": sent})).json()["errors"]
        assert (fault["field"], fault["type"]) == ("due_date", "time_out_of_range")
        assert fault["message"].startswith("must be a time between the years 1 and 9999")
    for kind in ("due_before", "due_after"):
        for sent in NO_TIMES:
            assert (await carol.get("/tasks", params={kind: sent})).status_code == 422, sent


async def test_a_body_is_json_under_any_of_its_names(carol: Person) -> None:
    body = '{"title": "größer", "tags": ["a:b"]}'.encode()
    tasks = []
    for name in (
        "application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8",
        "application/vnd.duly+json", "application/json ; charset=utf-8",
    ):  # fmt: skip
        response = await carol.post("/tasks", content=body, headers={"Content-Type": name})
        assert response.status_code == 201, name
        tasks.append({**response.json(), "id": "", "created_at": "", "updated_at": ""})
    assert all(task == tasks[0] for task in tasks)
    assert (tasks[0]["title"], tasks[0]["tags"]) == ("größer", ["a:b"])


@pytest.mark.covers("E061", "E013")
async def test_the_database_refuses_what_is_over_a_limit(house: Api, carol: Person) -> None:
    task = await carol.add_task("same")
    where = f"WHERE id = '{task['id']}'"
    async with second_connection(house.settings.database_url or "") as outside:
        for value in (
            f"title = '{'x' * 201}'", "title = NULL", "title = ''", f"description = '{'x' * 2001}'",
            "priority = 'later'", "priority = NULL", "user_id = 'nobody'", "user_id = NULL", "id = ''",
            "completed = NULL", "due_key = NULL", "tags = NULL", "version = NULL",
        ):  # fmt: skip
            with pytest.raises(REFUSED):
                await outside.run(f"UPDATE tasks SET {value} {where}")
        for title in ("x" * 200, "y"):
            await outside.run(f"UPDATE tasks SET title = '{title}' {where}")
    assert (await carol.get(f"/tasks/{task['id']}")).json() == task | {"title": "y"}


@pytest.mark.covers("E111")
async def test_sql_in_any_text_is_text(carol: Person, dave: Person) -> None:
    kept = await dave.add_task("his")
    for text in (
        "'; DROP TABLE tasks; --",
        '" OR ""="',
        "1) OR (1=1",
        "%' OR '1'='1",
        "\\'; SELECT 1",
        "${x}{{x}}$1 :x ?",
    ):
        task = await carol.add_task(text, description=text, tags=[text])
        assert (task["title"], task["description"], task["tags"]) == (text, text, [text])
        listed = (await carol.get("/tasks", params={"tag": text})).json()
        assert listed["items"] == [task]
        for parameters in ({"sort": text}, {"status": text}, {"priority": text}, {"limit": text}, {"due_before": text}):
            assert (await carol.get("/tasks", params=parameters)).status_code == 422
        for name in ("cursor", "since"):
            path = "/tasks" if name == "cursor" else "/changes"
            assert (await carol.get(path, params={name: text})).status_code == 400
        assert (await carol.client.get(f"/api/v1/tasks/{text}", headers=carol.headers)).status_code in {404, 422}
    assert (await dave.get("/tasks")).json()["items"] == [kept]
    assert (await carol.get("/tasks")).json()["total"] == 6
