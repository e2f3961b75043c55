"""Import: all or nothing, a report for each row, the same file twice without harm, and never another's tasks."""

import asyncio
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from duly.web.uploads import IMPORT_MAX_BYTES
from tests.fixtures.application import Person
from tests.fixtures.stored import Stored

pytestmark = pytest.mark.asyncio(loop_scope="module")

DATA = Path(__file__).parent / "data" / "transfer"
NOTHING = {"created": 0, "updated": 0, "unchanged": 0, "failed": 0, "ignored": 0}


async def send(person: Person, content: str | bytes, name: str = "tasks.csv", **query: Any) -> httpx.Response:
    return await person.post("/tasks/import", params=query, files={"file": (name, content)})


async def report_of(person: Person, content: str | bytes, name: str = "tasks.csv", **query: Any) -> dict[str, Any]:
    answer = await send(person, content, name, **query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def counts(report: dict[str, Any]) -> dict[str, int]:
    return {name: report[name] for name in NOTHING if report[name]}


async def tasks_of(person: Person) -> list[dict[str, Any]]:
    """Outside the trash, in the order of their creation."""
    items: list[dict[str, Any]] = (await person.get("/tasks?sort=created_at&limit=100")).json()["items"]
    return items


async def titles_of(person: Person) -> list[str]:
    return [task["title"] for task in await tasks_of(person)]


async def position(person: Person) -> str:
    cursor: str = (await person.get("/changes?limit=100")).json()["next_cursor"]
    return cursor


def as_json(*tasks: dict[str, Any]) -> str:
    return json.dumps(tasks)


@pytest.mark.covers("A070")
async def test_new_tasks_keep_the_order_of_the_file_and_every_field(carol: Person) -> None:
    content = (
        "title,description,completed,completed_at,priority,due_date,tags,created_at\r\n"
        '"One, two","a\r\nb",TRUE,2020-01-02T03:04:05Z,urgent,2030-01-01T00:00:00+02:00,a\\;b; c ;a,'
        "2019-01-01T00:00:00Z\r\n"
        "Second,,false,,low,,,\r\n"
        "Third,,,,,,,\r\n"
    )
    report = await report_of(carol, content)
    assert (counts(report), report["applied"], report["format"]) == ({"created": 3}, True, "csv")
    first, second, third = await tasks_of(carol)
    assert [task["title"] for task in (second, third)] == ["Second", "Third"]
    assert (first["title"], first["description"], first["priority"]) == ("One, two", "a\r\nb", "urgent")
    assert (first["completed_at"], first["due_date"]) == ("2020-01-02T03:04:05.000000Z", "2029-12-31T22:00:00.000000Z")
    assert (first["tags"], first["created_at"]) == (["a;b", "c", "a"], "2019-01-01T00:00:00.000000Z")
    assert (third["priority"], third["completed"], third["tags"], third["version"]) == ("medium", False, [], 1)
    kinds = [change["type"] for change in (await carol.get("/changes")).json()["items"]]
    assert kinds == ["task.created"] * 3


@pytest.mark.covers("A070")
async def test_the_same_file_again_finds_its_tasks_and_changes_nothing(carol: Person, dave: Person) -> None:
    content = as_json({"id": "from-elsewhere", "title": "Once"}, {"id": "other", "title": "Twice", "tags": ["a"]})
    assert counts(await report_of(carol, content)) == {"created": 2}
    before = await position(carol)
    assert counts(await report_of(carol, content)) == {"unchanged": 2}
    assert await position(carol) == before
    changed = content.replace("Once", "Changed")
    assert counts(await report_of(carol, changed)) == {"updated": 1, "unchanged": 1}
    assert await titles_of(carol) == ["Changed", "Twice"]
    # The same file is somebody else's own.
    assert counts(await report_of(dave, content)) == {"created": 2}
    assert {task["id"] for task in await tasks_of(carol)}.isdisjoint({task["id"] for task in await tasks_of(dave)})


async def test_a_row_updates_only_the_fields_that_the_file_has(carol: Person) -> None:
    task = await carol.add_task("Before", description="stays", tags=["stays"], due_date="2030-01-01T00:00:00Z")
    assert counts(await report_of(carol, f"id,title,due_date\n{task['id']},After,\n")) == {"updated": 1}
    (now,) = await tasks_of(carol)
    assert (now["title"], now["due_date"], now["description"], now["tags"]) == ("After", None, "stays", ["stays"])
    assert (now["version"], now["created_at"]) == (2, task["created_at"])
    assert now["updated_at"] > task["updated_at"]
    assert counts(await report_of(carol, as_json({"id": task["id"], "completed": True}))) == {"updated": 1}
    done = (await tasks_of(carol))[0]
    assert counts(await report_of(carol, as_json({"id": task["id"], "completed": True}))) == {"unchanged": 1}
    assert done["completed_at"] > task["created_at"]


async def test_a_task_in_the_trash_comes_back(carol: Person) -> None:
    task = await carol.add_task("Thrown away")
    await carol.delete(f"/tasks/{task['id']}")
    assert counts(await report_of(carol, as_json({"id": task["id"]}))) == {"updated": 1}
    assert await titles_of(carol) == ["Thrown away"]
    assert (await carol.get("/changes")).json()["items"][-1]["type"] == "task.restored"


@pytest.mark.covers("A070")
async def test_another_users_task_is_neither_touched_nor_told(carol: Person, dave: Person) -> None:
    task = await carol.add_task("Carol's")
    unknown = "019aa0c4-5a3e-7c31-9d5e-0f1b6f0c2a11"
    reports = [await report_of(dave, as_json({"id": id_, "title": "Taken"})) for id_ in (task["id"], unknown)]
    assert reports[0] == reports[1]
    assert counts(reports[0]) == {"created": 1}
    assert await tasks_of(carol) == [task]
    assert task["id"] not in {one["id"] for one in await tasks_of(dave)}
    # What the server alone sets is read over.
    hers = {"id": "x", "title": "x", "user_id": carol.user_id, "version": 7, "updated_at": "no time"}
    assert counts(await report_of(dave, as_json(hers))) == {"created": 1}
    assert len(await tasks_of(carol)) == 1


async def test_what_has_happened_is_not_in_the_future(carol: Person) -> None:
    rows = as_json({"title": "t", "completed": True, "completed_at": "2999-01-01T00:00:00Z",
                    "created_at": "2999-01-01T00:00:00Z"})  # fmt: skip
    assert counts(await report_of(carol, rows)) == {"created": 1}
    (task,) = await tasks_of(carol)
    assert max(task["created_at"], task["completed_at"]) <= task["updated_at"]


WRONG = {
    "title": ["", " ", "x" * 201, "a\u0000b", "a\u0007b", 5, None],
    "description": ["x" * 2001, "a\u001bb", 5],
    "completed": ["true", 1, None],
    "completed_at": ["yesterday", "2026-01-01", 5],
    "priority": ["x", "HIGH", None, []],
    "due_date": ["2026-02-30T00:00:00Z", "2026-01-01T00:00:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-01:00"],
    "tags": ["a", [""], ["x" * 51], ["a\u0000"], [1], [str(n) for n in range(21)], {}],
    "id": ["a\u0000b", 5, "x" * 1001],
    "no_field": [1],
}


@pytest.mark.covers("A070")
async def test_one_wrong_row_and_nothing_is_stored(carol: Person) -> None:
    bad = [{"title": "t", name: value} for name, values in WRONG.items() for value in values]
    content = as_json({"title": "Right"}, *bad, {"title": "Right too"})
    before = await position(carol)
    for query in ({}, {"dry_run": "true"}, {"dry_run": "true", "partial": "true"}):
        report = await report_of(carol, content, "x.json", **query)
        assert (report["failed"], report["applied"]) == (len(bad), False)
        assert [(fault["row"], fault["field"]) for fault in report["errors"]] == [
            (number, next(name for name in reversed(task))) for number, task in enumerate(bad, 2)
        ]
        assert report["created"] == (2 if query else 0)
    assert (await tasks_of(carol), await position(carol)) == ([], before)
    report = await report_of(carol, content, "x.json", partial="true")
    assert (counts(report), report["applied"]) == ({"created": 2, "failed": len(bad)}, True)
    assert await titles_of(carol) == ["Right", "Right too"]


async def test_a_wrong_row_is_told_in_plain_words(carol: Person) -> None:
    report = await report_of(carol, f"title,priority,due_date\nFine,low,\n{'x' * 201},urgentest,soon\nshort\n")
    assert report["errors"] == [
        {"row": 2, "field": "title", "message": "must have 1 to 200 characters and has 201"},
        {"row": 2, "field": "priority", "message": "must be one of low, medium, high, urgent"},
        {"row": 2, "field": "due_date", "message": "must be an RFC 3339 time such as 2026-12-31T09:00:00Z"},
        {"row": 3, "field": None, "message": "must have 3 cells and has 1"},
    ]


async def test_rows_that_mean_the_same_task_and_new_ones_without_a_title_are_wrong(carol: Person) -> None:
    task = await carol.add_task("Mine")
    content = as_json({"id": task["id"], "title": "a"}, {"id": task["id"], "title": "b"}, {"id": "new"}, "text")
    whole = as_json({"id": task["id"], "title": "a"}, {"id": task["id"], "title": "b"})
    refused = await report_of(carol, whole)
    assert (counts(refused), refused["applied"], await tasks_of(carol)) == ({"failed": 1}, False, [task])
    report = await report_of(carol, content, partial="true")
    assert [(fault["row"], fault["field"]) for fault in report["errors"]] == [(2, "id"), (3, "title"), (4, None)]
    assert await titles_of(carol) == ["a"]


async def test_at_most_a_thousand_errors_are_listed(carol: Person) -> None:
    report = await report_of(carol, "title\n" + " \n" * 1500 + "x\n", partial="true")
    assert (report["failed"], len(report["errors"]), report["created"]) == (1500, 1000, 1)


@pytest.mark.covers("A070")
async def test_a_dry_run_says_what_would_happen_and_writes_nothing(carol: Person, shared_database_url: str) -> None:
    task = await carol.add_task("Old")
    before = await position(carol)
    content = as_json({"id": task["id"], "title": "New"}, {"title": "Another"})
    report = await report_of(carol, content, dry_run="true")
    assert (counts(report), report["dry_run"], report["applied"]) == ({"created": 1, "updated": 1}, True, False)
    assert (await tasks_of(carol), await position(carol)) == ([task], before)
    assert await audited(carol, shared_database_url) == []


async def audited(person: Person, url: str) -> list[dict[str, Any]]:
    sql = "SELECT details FROM audit_log WHERE event = 'data.imported' AND actor_id = ?"
    return [json.loads(row[0]) for row in await Stored(url).rows(sql, person.user_id)]


async def test_an_import_is_audited_without_what_is_in_it(carol: Person, shared_database_url: str) -> None:
    await report_of(carol, "title,priority\nSecret,low\n,low\n", partial="true")
    await report_of(carol, "title,priority\nSecret,low\n,low\n")
    expected = {"what": "tasks", "format": "csv", "created": 1, "updated": 0, "failed": 1}
    assert await audited(carol, shared_database_url) == [expected]


@pytest.mark.covers("A070")
async def test_todoist(carol: Person) -> None:
    content = (DATA / "todoist.csv").read_bytes()
    report = await report_of(carol, content)
    assert (counts(report), report["format"]) == ({"created": 5, "ignored": 3}, "todoist")
    found = [(t["title"], t["priority"], t["tags"], t["due_date"], t["description"]) for t in await tasks_of(carol)]
    assert found == [
        ("Descale the kettle", "urgent", ["kitchen", "slow"], "2026-12-05T00:00:00.000000Z", "Vinegar, then water"),
        ("Call mum@example.com about lunch", "high", [], "2026-12-06T17:30:00.000000Z", None),
        ("Water the basil", "low", ["kitchen"], None, "Date: every 3 days"),
        ("Reading list", "medium", [], "2027-06-13T13:15:00.000000Z", None),
        ("@errands", "low", [], "2026-12-25T01:00:00.000000Z", None),
    ]


@pytest.mark.covers("A070")
async def test_ticktick(carol: Person) -> None:
    content = (DATA / "ticktick.csv").read_bytes()
    report = await report_of(carol, content)
    assert (counts(report), report["format"]) == ({"created": 5, "ignored": 1}, "ticktick")
    by_title = {task["title"]: task for task in await tasks_of(carol)}
    gate, shed = by_title["Fix the gate"], by_title["Paint the shed"]
    assert (gate["due_date"], gate["priority"]) == ("2026-12-01T10:30:00.000000Z", "high")
    assert (gate["tags"], gate["description"]) == (["garden", "tools"], "Hinges first\nthen the latch")
    assert (gate["created_at"], gate["completed"]) == ("2026-11-01T08:00:00.000000Z", False)
    # The day that it is in Amsterdam.
    assert (shed["due_date"], shed["priority"], shed["description"]) == (
        "2026-12-05T00:00:00.000000Z", "low", "▫Sand\n▪Prime",
    )  # fmt: skip
    done = {title: task["completed_at"] for title, task in by_title.items() if task["completed"]}
    assert done == {
        "Return the ladder": "2026-10-05T16:20:30.000000Z", "Old invoice": "2025-10-05T16:20:30.000000Z",
        "Learn the harp": "2025-12-05T16:20:30.000000Z",
    }  # fmt: skip
    assert counts(await report_of(carol, content)) == {"unchanged": 5, "ignored": 1}


@pytest.mark.parametrize("content", [
    "title;priority\nA;high\n", "title,priority\nA,high", "\ufefftitle,priority\r\n\r\nA,high\r\n\r\n",
    "TITLE\tPriority\nA\thigh\n", 'sep=;\ntitle;priority\n"A";"high"\n', '[{"title":"A","priority":"high"}]',
    '\ufeff {"format":"duly.tasks","version":1,"tasks":[{"title":"A","priority":"high"}]}',
    "begin:vcalendar\nBEGIN:VTODO\nSUMMARY:A\nPRIORITY:3\nEND:VTODO\nEND:VCALENDAR",
])  # fmt: skip
@pytest.mark.parametrize("name", ["export", "export.txt"])
async def test_the_content_says_what_a_file_is(carol: Person, content: str, name: str) -> None:
    files = {"file": (name, content.encode(), "image/png")}
    report = (await carol.post("/tasks/import", files=files)).json()
    assert counts(report) == {"created": 1}, report
    assert [(task["title"], task["priority"]) for task in await tasks_of(carol)] == [("A", "high")]


def zip_bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tasks.csv", b"title\n" + b"\x00" * 20_000_000)
    return packed.getvalue()


UNREADABLE: dict[str, bytes] = {
    "a zip bomb": zip_bomb(),
    "NUL": b"title\na\x00b\n",
    "Latin-1": "title\nä\n".encode("latin-1"),
    "UTF-16": "title\nä\n".encode("utf-16"),
    "blanks": b" \r\n\t ",
    "no header": b"a,b\nc,d\n",
    "an unknown column": b"title,colour\na,red\n",
    "a column twice": b"title,title\na,b\n",
    "an open quote": b'title\n"a\n',
    "a huge cell": b"title\n" + b"x" * 200_000,
    "JSON cut off": b'[{"title": "a"}',
    "a name twice": b'[{"title": "a", "title": "b"}]',
    "deep JSON": b"[" * 5_000,
    "another JSON": b'{"tasks": []}',
    "a later version": b'{"format": "duly.tasks", "version": 2, "tasks": []}',
    "no list": b'{"format": "duly.tasks", "version": 1, "tasks": {}}',
    "lone surrogate": b'[{"title": "\\ud800"}]',
}


@pytest.mark.covers("A070")
@pytest.mark.parametrize("what", UNREADABLE)
async def test_what_is_no_such_file_is_422_and_says_why(carol: Person, what: str) -> None:
    answer = await send(carol, UNREADABLE[what], "tasks.csv", partial="true")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "UNREADABLE_FILE"), answer.text
    assert [(fault["field"], fault["type"]) for fault in problem["errors"]] == [("file", "unreadable_file")]
    assert await tasks_of(carol) == []


@pytest.mark.parametrize("name", ["a.json", "a.ics", "A.ICS"])
async def test_a_name_that_says_something_else_is_422(carol: Person, name: str) -> None:
    assert (await send(carol, "title\nx\n", name)).json()["code"] == "UNREADABLE_FILE"


@pytest.mark.covers("A070")
@pytest.mark.parametrize("form", ["csv", "json", "ics"])
async def test_ten_thousand_rows_are_taken_and_one_more_is_not(carol: Person, form: str) -> None:
    todo = "BEGIN:VTODO\nSUMMARY:a\nEND:VTODO\n"
    files = {
        "csv": lambda n: "title\n" + "a\n" * n,
        "json": lambda n: as_json(*[{"title": "a"}] * n),
        "ics": lambda n: f"BEGIN:VCALENDAR\n{todo * n}END:VCALENDAR\n",
    }
    report = await report_of(carol, files[form](10_000), dry_run="true")
    assert counts(report) == {"created": 10_000}
    answer = await send(carol, files[form](10_001), dry_run="true")
    assert (answer.status_code, answer.json()["code"]) == (422, "TOO_MANY_ROWS")


async def test_millions_of_empty_objects_are_refused_before_they_are_made(carol: Person) -> None:
    answer = await send(carol, "[" + ",".join(["{}"] * 3_000_000) + "]")
    assert (answer.status_code, answer.json()["code"]) == (422, "TOO_MANY_ROWS")


@pytest.mark.covers("A070")
async def test_ten_mebibytes_are_taken_and_one_byte_more_is_not(carol: Person) -> None:
    head = b"title\n" + b"\n".join([b"a"] * 5)
    whole = head + b"\n" * (IMPORT_MAX_BYTES - len(head))
    assert counts(await report_of(carol, whole, dry_run="true")) == {"created": 5}
    answer = await send(carol, whole + b"\n")
    assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")
    assert str(IMPORT_MAX_BYTES) in answer.json()["detail"]


UPLOADS: dict[str, tuple[int, dict[str, Any]]] = {
    "another field": (422, {"files": {"upload": ("a.csv", "title\na\n")}}),
    "two files": (422, {"files": [("file", ("a.csv", "title\na\n")), ("file", ("b.csv", "title\na\n"))]}),
    "a further field": (422, {"files": {"file": ("a.csv", "title\na\n")}, "data": {"partial": "true"}}),
    "an empty file": (422, {"files": {"file": ("a.csv", "")}}),
    "no file": (422, {"data": {"file": "title"}, "files": {}, "headers": {}}),
    "JSON": (415, {"json": [{"title": "a"}]}),
    "bare CSV": (415, {"content": "title\na\n", "headers": {"Content-Type": "text/csv"}}),
    "nothing": (415, {}),
    "an unknown parameter": (422, {"files": {"file": ("a.csv", "title\na\n")}, "params": {"dryrun": "true"}}),
    "a strange flag": (422, {"files": {"file": ("a.csv", "title\na\n")}, "params": {"dry_run": "1"}}),
}


@pytest.mark.parametrize("what", UPLOADS)
async def test_anything_but_one_file_is_refused(carol: Person, what: str) -> None:
    status, options = UPLOADS[what]
    if what == "no file":
        body = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ntitle\r\n--x--\r\n'
        options = {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}
    answer = await carol.post("/tasks/import", **options)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert await tasks_of(carol) == []


@pytest.mark.covers("A070")
async def test_the_same_file_from_many_clients_at_once_makes_each_task_once(carol: Person) -> None:
    content = as_json(*({"id": f"n{number}", "title": f"T{number}"} for number in range(40)))
    answers = await asyncio.gather(*(send(carol, content) for _ in range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert sum(answer.json()["created"] for answer in answers) == 40
    assert len(await tasks_of(carol)) == 40


async def test_other_changes_go_on_while_files_come_in(carol: Person) -> None:
    tasks = [await carol.add_task(f"T{number}", tags=["kept"]) for number in range(12)]
    forth = as_json(*({"id": task["id"], "title": "imported"} for task in tasks))
    back = as_json(*({"id": task["id"], "priority": "high"} for task in reversed(tasks)))
    patches = [carol.patch(f"/tasks/{task['id']}", json={"description": "patched"}) for task in tasks]
    answers = await asyncio.gather(send(carol, forth), *patches[:6], send(carol, back), *patches[6:])
    assert {answer.status_code for answer in answers} == {200}
    kept = {(t["title"], t["priority"], t["description"], *t["tags"], t["version"]) for t in await tasks_of(carol)}
    assert kept == {("imported", "high", "patched", "kept", 4)}


async def test_a_retry_under_a_key_gets_the_first_answer(carol: Person) -> None:
    headers = {"Idempotency-Key": hashlib.sha256(carol.user_id.encode()).hexdigest()}
    files = {"file": ("a.csv", "title\nWithout an id\n")}
    first, again = [await carol.post("/tasks/import", files=files, headers=headers) for _ in range(2)]
    assert (first.json(), again.headers["idempotency-replayed"]) == (again.json(), "true")
    assert await titles_of(carol) == ["Without an id"]
    other = await carol.post("/tasks/import", files={"file": ("a.csv", "title\nb\n")}, headers=headers)
    assert other.json()["code"] == "IDEMPOTENCY_KEY_REUSED"
