"""Export: exactly the caller's tasks outside the trash, in three forms, sent while they are read."""

import csv
import io
import json
import re
from typing import Any

import httpx
import pytest

from tests.fixtures.application import PASSWORD, Person
from tests.fixtures.server import StartServer
from tests.fixtures.stored import Stored

FORMS = ("json", "csv", "ics")
MANY = 1_500

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def export(person: Person, form: str) -> httpx.Response:
    answer = await person.get("/tasks/export", params={"format": form})
    assert answer.status_code == 200, answer.text
    return answer


def titles(form: str, content: bytes) -> list[str]:
    if form == "json":
        return [task["title"] for task in json.loads(content)["tasks"]]
    if form == "csv":
        return [row["title"] for row in csv.DictReader(io.StringIO(content.decode(), newline=""))]
    return re.findall(r"^SUMMARY:(.*)\r$", content.decode(), re.MULTILINE)


async def add_many(person: Person, count: int) -> list[str]:
    """All of one moment but for their ids, as a whole import would make them."""
    same = "2026-01-02T03:04:05Z"
    tasks = [{"id": f"many-{number}", "title": f"Task {number}", "created_at": same} for number in range(count)]
    report = (await person.post("/tasks/import", files={"file": ("many.json", json.dumps(tasks))})).json()
    assert report["created"] == count
    return [task["title"] for task in tasks]


@pytest.mark.covers("A070")
@pytest.mark.parametrize("form", FORMS)
async def test_it_has_the_callers_tasks_and_nobody_elses(carol: Person, dave: Person, form: str) -> None:
    await carol.add_task("First")
    trashed = await carol.add_task("In the trash")
    await carol.add_task("Second", completed=True)
    await dave.add_task("Somebody else's")
    assert (await carol.delete(f"/tasks/{trashed['id']}")).status_code == 204
    assert titles(form, (await export(carol, form)).content) == ["First", "Second"]


@pytest.mark.parametrize("form", FORMS)
async def test_every_task_is_there_once_however_many_share_a_moment(carol: Person, form: str) -> None:
    expected = await add_many(carol, 450)
    assert sorted(titles(form, (await export(carol, form)).content)) == sorted(expected)


@pytest.mark.parametrize("form", FORMS)
async def test_an_empty_account_has_an_empty_file(carol: Person, form: str) -> None:
    content = (await export(carol, form)).content
    assert titles(form, content) == []
    report = (await carol.post("/tasks/import", files={"file": (f"x.{form}", content)})).json()
    assert (report["created"], report["failed"], report["format"]) == (0, 0, form)


@pytest.mark.covers("A070")
async def test_json_holds_the_tasks_as_the_api_shows_them(carol: Person) -> None:
    task = await carol.add_task("Ä", description="a\r\n\tb", tags=["x;y"], due_date="2026-12-31T09:00:00.5Z")
    answer = await export(carol, "json")
    whole = answer.json()
    assert whole.pop("exported_at").endswith("Z")
    assert whole == {"format": "duly.tasks", "version": 1, "tasks": [task]}
    assert answer.headers["content-type"] == "application/json"
    assert (await carol.get("/tasks/export")).json()["tasks"] == [task]


@pytest.mark.covers("A070")
async def test_no_cell_of_a_csv_is_a_formula(carol: Person) -> None:
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0", "＝1", "'=1"]  # noqa: RUF001 - a full-width sign
    for text in formulas:
        await carol.add_task(text, description=text, tags=[text])
    answer = await export(carol, "csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    raw = answer.content.decode()
    rows = list(csv.reader(io.StringIO(raw, newline="")))
    assert [cell for row in rows for cell in row if cell[:1] in set("=+-@\t\r\n＝＋－＠")] == []  # noqa: RUF001
    assert [row[2] for row in rows[1:]] == [f"'{text}" for text in formulas]
    assert rows[0] == ["id", "user_id", "title", "description", "completed", "completed_at", "priority", "due_date",
                       "tags", "version", "created_at", "updated_at"]  # fmt: skip
    assert raw.count("\r\n") == len(rows)
    assert raw.isascii() is False
    assert not raw.startswith("\ufeff")


@pytest.mark.covers("A070")
async def test_a_calendar_has_a_todo_for_each_task(carol: Person) -> None:
    task = await carol.add_task("Pay; now, or C:\\New", description="two\nlines", priority="urgent", tags=["a,b", "c"],
                              due_date="2026-12-31T09:00:00Z", completed=True)  # fmt: skip
    answer = await export(carol, "ics")
    assert answer.headers["content-type"] == "text/calendar; charset=utf-8"
    lines = answer.content.decode().split("\r\n")
    assert lines[:2] == ["BEGIN:VCALENDAR", "VERSION:2.0"]
    assert lines[-2:] == ["END:VCALENDAR", ""]
    expected = {
        "BEGIN:VTODO", f"UID:{task['id']}", "SUMMARY:Pay\\; now\\, or C:\\\\New", "DESCRIPTION:two\\nlines",
        "PRIORITY:1", "CATEGORIES:a\\,b,c", "STATUS:COMPLETED", "PERCENT-COMPLETE:100", "DUE:20261231T090000Z",
        "END:VTODO",
    }  # fmt: skip
    assert expected <= set(lines)
    assert {line.partition(":")[0] for line in lines} >= {"DTSTAMP", "CREATED", "LAST-MODIFIED", "COMPLETED"}


@pytest.mark.parametrize("form", FORMS)
async def test_a_browser_saves_it_under_a_dated_name_and_keeps_no_copy(carol: Person, form: str) -> None:
    answer = await export(carol, form)
    name = re.fullmatch(r'attachment; filename="duly-tasks-(\d{4}-\d\d-\d\d)\.(\w+)"',
                        answer.headers["content-disposition"])  # fmt: skip
    assert name
    assert name[2] == form
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def audited(stored: Stored, person: Person) -> list[dict[str, Any]]:
    rows = await stored.rows("SELECT details FROM audit_log WHERE event = 'data.exported' AND actor_id = ?",
                             person.user_id)  # fmt: skip
    return [json.loads(row[0]) for row in rows]


@pytest.mark.covers("A070")
async def test_each_export_is_audited_without_what_is_in_it(carol: Person, shared_database_url: str) -> None:
    stored = Stored(shared_database_url)
    await carol.add_task("Secret title")
    await export(carol, "csv")
    assert await audited(stored, carol) == [{"what": "tasks", "format": "csv", "found": 1}]
    head = await carol.request("HEAD", "/tasks/export")
    assert (head.status_code, head.headers["content-type"]) == (200, "application/json")
    assert len(await audited(stored, carol)) == 1


@pytest.mark.parametrize("query", ["format=xml", "format=", "format=json&since=1"])
async def test_an_unknown_form_or_parameter_is_422(carol: Person, query: str) -> None:
    answer = await carol.get(f"/tasks/export?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "VALIDATION_ERROR")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST"])
async def test_its_address_is_no_tasks(carol: Person, method: str) -> None:
    answer = await carol.request(method, "/tasks/export", json={})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_the_file_is_sent_while_it_is_read(start_server: StartServer, shared_database_url: str) -> None:
    server = start_server(database_url=shared_database_url)
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=30) as client:
        body = {"email": "streams@example.com", "password": PASSWORD}
        signed = (await client.post("/api/v1/auth/register", json=body)).json()
        carol = Person(client, signed["user"]["id"], "", signed["access_token"], "")
        expected = await add_many(carol, MANY)
        headers = {**carol.headers, "Accept-Encoding": "identity"}
        for form in FORMS:
            async with client.stream("GET", f"/api/tasks/export?format={form}", headers=headers) as answer:
                assert (answer.status_code, answer.headers["transfer-encoding"]) == (200, "chunked")
                pieces = [piece async for piece in answer.aiter_raw()]
            assert len(pieces) > 3
            assert sorted(titles(form, b"".join(pieces))) == sorted(expected)
