"""What an export wrote, an import reads back equal, in every form."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from icalendar import Calendar

from duly.kit.clock import parse_rfc3339, rfc3339
from duly.kit.texts import clean_line, clean_text
from duly.tasks.transfer import csv_file, ics_file, json_file
from duly.tasks.transfer.cells import join_tags, read_cell, split_tags, write_cell
from duly.tasks.transfer.reading import parse_file
from duly.tasks.transfer.rows import ParsedFile
from tests.fixtures.application import Person

START = datetime(1990, 1, 1, tzinfo=UTC)
FORMS = ("json", "csv", "ics")
SAME = ("title", "description", "completed", "completed_at", "priority", "due_date", "tags", "created_at")
NASTY = "'=+-@;,\\\"%nN:rR0D ＝\t{}[]|<>#&*_~^`é́ßİ💥\u202e\ufeff"  # noqa: RUF001 - characters that somebody escapes
NEWLINES = "\r\n\u2028"

line_characters = st.one_of(
    st.sampled_from(NASTY.replace("\t", "")),
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u2028\u2029"),
)
text_characters = st.one_of(
    st.sampled_from(NASTY + NEWLINES), st.characters(exclude_categories=("Cs",)).filter(lambda c: not is_control(c))
)


def is_control(character: str) -> bool:
    return (character < " " and character not in "\t\n\r") or "\x7f" <= character <= "\x9f"


def lines(most: int) -> st.SearchStrategy[str]:
    """Texts as the API has stored them."""
    cleaned = st.text(line_characters, min_size=1, max_size=min(most, 40)).map(clean_line)
    full = st.just("\\" * most) | st.just("ﷺ" * (most // 20))
    return (cleaned | full).filter(lambda text: 1 <= len(text) <= most)


past = st.integers(-(10**15), 10**15).map(lambda microseconds: START + timedelta(microseconds=microseconds))
moments = past | st.sampled_from(["0001-01-01T00:00:01Z", "9999-12-31T23:59:59.999998Z"]).map(parse_rfc3339)
descriptions = st.none() | st.text(text_characters, max_size=100).map(clean_text)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A task as the database writes it."""
    completed = draw(st.booleans())
    due = draw(st.none() | moments)
    return {
        "id": str(draw(st.uuids())),
        "user_id": "a-user",
        "title": draw(lines(200)),
        "description": draw(descriptions),
        "completed": completed,
        "completed_at": rfc3339(draw(past)) if completed else None,
        "priority": draw(st.sampled_from(["low", "medium", "high", "urgent"])),
        "due_date": None if due is None else rfc3339(due),
        "tags": draw(st.lists(lines(50), max_size=5, unique=True)),
        "version": draw(st.integers(1, 1000)),
        "created_at": rfc3339(draw(past)),
        "updated_at": rfc3339(draw(past)),
    }


def write(form: str, tasks: list[dict[str, Any]]) -> bytes:
    if form == "csv":
        return csv_file.begin() + csv_file.write(tasks)
    if form == "ics":
        return ics_file.BEGIN + ics_file.write(tasks) + ics_file.END
    written = [json_file.write([json.dumps(task)], first=task is tasks[0]) for task in tasks]
    return json_file.begin(datetime.now(UTC)) + b"".join(written) + json_file.END


def values_of(task: dict[str, Any]) -> dict[str, Any]:
    """What the rows of a file must hold."""
    times = {"completed_at", "due_date", "created_at"}
    return {name: parse_rfc3339(task[name]) if name in times and task[name] else task[name] for name in SAME}


def read(content: bytes) -> ParsedFile:
    parsed = parse_file(content, "")
    assert parsed.faults == []
    return parsed


@pytest.mark.covers("A070")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(documents(), max_size=3))
@pytest.mark.parametrize("form", FORMS)
def test_a_file_holds_every_field_exactly(form: str, tasks: list[dict[str, Any]]) -> None:
    parsed = read(write(form, tasks))
    assert [row.file_id for row in parsed.rows] == [task["id"] for task in tasks]
    assert [dict(row.values) for row in parsed.rows] == [values_of(task) for task in tasks]
    assert (parsed.format, parsed.failed, parsed.ignored) == (form, 0, 0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_another_reader_understands_the_calendar(task: dict[str, Any]) -> None:
    raw = write("ics", [task])
    assert all(len(line) <= 75 for line in raw.split(b"\r\n"))
    (todo,) = Calendar.from_ical(raw).walk("VTODO")
    assert not todo.errors
    assert todo["UID"] == task["id"]
    assert todo["STATUS"] == ("COMPLETED" if task["completed"] else "NEEDS-ACTION")
    assert todo["CREATED"].dt == parse_rfc3339(task["created_at"]).replace(microsecond=0)
    assert {"DTSTAMP", "LAST-MODIFIED", "PRIORITY", "SUMMARY"} <= todo.keys()
    due = parse_rfc3339(task["due_date"]).replace(microsecond=0) if task["due_date"] else None
    assert (todo["DUE"].dt if "DUE" in todo else None) == due


@settings(max_examples=300)
@given(st.none() | st.text(line_characters | st.sampled_from("'=\r\n\t"), max_size=8))
def test_a_cell_is_read_as_it_was_and_starts_no_formula(text: str | None) -> None:
    cell = write_cell(text)
    assert read_cell(cell) == text
    assert cell[:1] not in set("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 - these very characters


@settings(max_examples=300)
@given(st.lists(st.text(st.sampled_from("a;\\ '=b"), min_size=1, max_size=6).map(str.strip).filter(bool), max_size=5))
def test_tags_are_told_apart_whatever_is_in_them(tags: list[str]) -> None:
    assert split_tags(join_tags(tags) or "") == tags


@pytest.mark.parametrize(("text", "cell"), [("=1", "'=1"), ("'=1", "''=1"), ("'tis", "'tis"), ("", "'"), ("'", "''"),
                                            (None, ""), ("a=1", "a=1"), ("-", "'-")])  # fmt: skip
def test_only_what_needs_an_apostrophe_gets_one(text: str | None, cell: str) -> None:
    assert write_cell(text) == cell


async def listed(person: Person) -> list[dict[str, Any]]:
    """Every task that a person has, oldest first, without what differs between two accounts."""
    answer = await person.get("/tasks", params={"sort": "created_at", "limit": 100})
    own = [{name: task[name] for name in SAME} for task in answer.json()["items"]]
    return sorted(own, key=lambda task: (task["created_at"], task["title"]))


@pytest.mark.covers("A070")
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("form", FORMS)
async def test_another_account_gets_the_same_tasks_and_ones_own_changes_nothing(
    carol: Person, dave: Person, form: str
) -> None:
    made: list[list[dict[str, Any]]] = []

    @settings(max_examples=3, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(documents(), min_size=10, max_size=20, unique_by=lambda task: task["id"]))
    def draw(tasks: list[dict[str, Any]]) -> None:
        made.append(tasks)

    draw()
    seed = {"file": ("tasks.json", write("json", max(made, key=len)))}
    report = (await carol.post("/tasks/import", files=seed)).json()
    assert (report["created"], report["errors"]) == (len(max(made, key=len)), [])
    exported = (await carol.get("/tasks/export", params={"format": form})).content
    position = (await carol.get("/changes", params={"limit": 100})).json()["next_cursor"]

    for person, key in ((dave, "created"), (dave, "unchanged"), (carol, "unchanged")):
        answer = await person.post("/tasks/import", files={"file": (f"tasks.{form}", exported)})
        assert answer.status_code == 200, answer.text
        report = answer.json()
        assert (report[key], report["failed"], report["errors"]) == (len(max(made, key=len)), 0, [])
    assert await listed(dave) == await listed(carol)
    assert (await carol.get("/changes", params={"since": position})).json()["items"] == []
