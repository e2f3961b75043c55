"""Calendars of other programs are read without loss of what Duly keeps, and hostile ones cost little."""

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import icalendar
import pytest

from duly.errors import Invalid
from duly.tasks.transfer.reading import parse_file
from duly.tasks.transfer.rows import ParsedFile
from duly.web.uploads import IMPORT_MAX_BYTES

DATA = Path(__file__).parent / "data" / "transfer"
SHIPPED = sorted((Path(icalendar.__file__).parent / "tests").rglob("*.ics"))
WITH_TODOS = [path for path in SHIPPED if b"BEGIN:VTODO" in path.read_bytes()]
# What a file of ten mebibytes may cost at the very most, on a machine that does something else as well.
SECONDS = 60


def read(text: str | bytes) -> ParsedFile:
    return parse_file(text.encode() if isinstance(text, str) else text, "tasks.ics")


def todo(*lines: str, zone: str = "") -> ParsedFile:
    inner = "".join(f"{line}\r\n" for line in lines)
    return read(f"BEGIN:VCALENDAR\r\n{zone}BEGIN:VTODO\r\n{inner}END:VTODO\r\nEND:VCALENDAR\r\n")


def only(parsed: ParsedFile) -> dict[str, Any]:
    assert parsed.faults == []
    (row,) = parsed.rows
    return dict(row.values)


def moment(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


def rows_of(name: str) -> list[dict[str, Any]]:
    parsed = read((DATA / name).read_bytes())
    assert parsed.faults == []
    return [{**row.values, "id": row.file_id} for row in parsed.rows]


@pytest.mark.covers("A070")
def test_apple_reminders() -> None:
    cake, bins = rows_of("apple_reminders.ics")
    assert (cake["title"], cake["priority"], cake["completed"]) == ("Order the cake, the big one", "urgent", False)
    assert (cake["due_date"], cake["created_at"]) == (moment(2026, 7, 4, 23), moment(2026, 3, 1, 10, 15))
    assert (cake["description"], cake["id"]) == (None, "7D0C1E1A-1111-4E2B-9F3B-3B1E0A6E0001")
    assert (bins["due_date"], bins["priority"]) == (moment(2026, 3, 9), "medium")
    assert (bins["completed"], bins["completed_at"]) == (True, moment(2026, 3, 10, 7, 8, 9))


@pytest.mark.covers("A070")
def test_thunderbird() -> None:
    (tax,) = rows_of("thunderbird.ics")
    assert tax["title"] == "Steuererklärung abgeben und die Belege des ganzen letzten Jahres noch einmal durchsehen"
    assert tax["description"] == "Alle Belege:\n- Miete; Strom\n- C:\\Neu\\nichts"
    assert (tax["tags"], tax["priority"]) == (["Finanzen", "Zu Hause, Büro"], "medium")
    assert (tax["due_date"], tax["completed"]) == (moment(2026, 7, 31, 21, 59), False)


@pytest.mark.covers("A070")
def test_nextcloud_tasks() -> None:
    trip, ferry, cabins = rows_of("nextcloud_tasks.ics")
    assert (trip["tags"], trip["priority"]) == (["travel", "summer", "family"], "low")
    assert (trip["due_date"], trip["created_at"]) == (moment(2026, 6, 1, 10), moment(2026, 2, 5, 12))
    # Cancelled is off the list as much as done.
    assert (ferry["completed"], ferry["completed_at"]) == (True, moment(2026, 2, 7, 13))
    assert (cabins["title"], cabins["description"]) == ("Ask about cabins", "Ask about cabins\nand meals")
    assert (cabins["due_date"], cabins["priority"]) == (moment(2026, 3, 2, 10), "medium")


@pytest.mark.covers("A070")
def test_outlook_and_zones_of_every_kind() -> None:
    found = {task["title"]: task for task in rows_of("outlook.ics")}
    assert {title: task["due_date"] for title, task in found.items()} == {
        "Send the summer figures": moment(2026, 7, 15, 7, 30),
        "Send the winter figures": moment(2026, 1, 15, 8, 30),
        "In the zone of Windows": moment(2026, 1, 15, 11),
        "In the zone of Evolution": moment(2026, 1, 15, 10),
        "In a zone that nobody knows": moment(2026, 1, 15, 12),
    }
    summer = found["Send the summer figures"]
    assert (summer["priority"], summer["completed"], len(summer["id"])) == ("high", False, 112)


@pytest.mark.covers("A070")
def test_appointments_are_counted_and_left() -> None:
    parsed = read((DATA / "google_calendar.ics").read_bytes())
    assert (parsed.rows, parsed.faults, parsed.ignored) == ([], [], 2)


def shipped_todos() -> Iterator[tuple[str, Any]]:
    """The tasks of every file that the library ships, as the library reads them."""
    for path in WITH_TODOS:
        for component in icalendar.Component.from_ical(path.read_bytes()).walk("VTODO"):
            yield path.name, component


def test_files_that_the_library_ships_are_read_as_the_library_reads_them() -> None:
    found = [row for path in WITH_TODOS for row in read(path.read_bytes()).rows]
    expected = list(shipped_todos())
    assert len(expected) >= 5
    assert len(found) == len(expected)
    for row, (name, component) in zip(found, expected, strict=True):
        if "SUMMARY" in component:
            assert row.values["title"] == str(component["SUMMARY"]), name
        if "UID" in component:
            assert row.file_id == str(component["UID"]), name
        assert row.values["description"] == (str(component["DESCRIPTION"]) if "DESCRIPTION" in component else None)
        due = component["DUE"].dt if "DUE" in component else None
        if isinstance(due, datetime):
            assert row.values["due_date"] == (due if due.tzinfo else due.replace(tzinfo=UTC)), name
        elif isinstance(due, date):
            assert row.values["due_date"].date() == due, name
        assert row.values["completed"] == (component.get("STATUS") in ("COMPLETED", "CANCELLED")), name


def test_no_file_that_the_library_ships_does_more_than_be_refused() -> None:
    refused = 0
    for path in SHIPPED:
        try:
            read(path.read_bytes())
        except Invalid:
            refused += 1
    assert len(SHIPPED) > 100
    assert refused < len(SHIPPED) / 2


@pytest.mark.parametrize(("lines", "wanted"), [
    (["STATUS:NEEDS-ACTION", "PERCENT-COMPLETE:100"], False), (["PERCENT-COMPLETE:100"], True),
    (["COMPLETED:20260101T000000Z"], True), (["STATUS:completed"], True), (["PERCENT-COMPLETE:99"], False), ([], False),
])  # fmt: skip
def test_status_decides_and_without_one_the_rest(lines: list[str], wanted: bool) -> None:
    assert only(todo("SUMMARY:x", *lines))["completed"] is wanted


@pytest.mark.parametrize(("number", "wanted"), [
    *[(str(n), "high") for n in (2, 3, 4)], *[(str(n), "low") for n in (6, 7, 8, 9)],
    ("1", "urgent"), ("5", "medium"), ("0", "medium"), ("", "medium"),
])  # fmt: skip
def test_priorities(number: str, wanted: str) -> None:
    assert only(todo("SUMMARY:x", f"PRIORITY:{number}"))["priority"] == wanted


def test_what_changes_one_occurrence_is_no_task_of_its_own() -> None:
    parsed = todo("UID:a", "SUMMARY:x", "RECURRENCE-ID:20260101T000000Z")
    assert (parsed.rows, parsed.ignored) == ([], 1)


def test_a_fraction_counts_only_while_the_second_beside_it_is_the_same() -> None:
    exact = "X-DULY-DUE:2026-01-02T03:04:05.678901Z"
    assert only(todo("SUMMARY:x", "DUE:20260102T030405Z", exact))["due_date"] == moment(2026, 1, 2, 3, 4, 5, 678901)
    assert only(todo("SUMMARY:x", "DUE:20260102T030406Z", exact))["due_date"] == moment(2026, 1, 2, 3, 4, 6)
    assert only(todo("SUMMARY:x", exact))["due_date"] is None
    edited = only(todo("SUMMARY:x", "DESCRIPTION:edited", "X-DULY-DESCRIPTION:a%0D\\nb"))
    assert edited["description"] == "edited"


BROKEN = [
    "DUE:tomorrow", "DUE:20260230", "DUE:20260101T250000Z", "DUE:00000101", "DUE;TZID=Europe/Berlin:00010101T000000",
    "DUE:99991231T235959999Z", "COMPLETED:x", "PRIORITY:high", "PRIORITY:10", "DUE;TZID=:x", "DUE;=;=:20260101",
    "DUE;x", "CREATED:-0010101T000000Z", "SUMMARY:" + "x" * 201, "SUMMARY:a\x07b", "DESCRIPTION:" + "x" * 2001,
    "CATEGORIES:" + "x" * 51, "CATEGORIES:" + ",".join("abcdefghijklmnopqrstu"), "UID:" + "x" * 1001,
    "DTSTART:20260101T000000Z\r\nDURATION:P" + "9" * 90 + "D",
]  # fmt: skip


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_task_is_one_wrong_row(line: str) -> None:
    status = "" if line.startswith("COMPLETED") is False else "STATUS:COMPLETED"
    good = "BEGIN:VTODO\r\nSUMMARY:Good\r\nEND:VTODO\r\n"
    parsed = todo(line, "SUMMARY:Bad", status, zone=good)
    assert [row.values["title"] for row in parsed.rows] == ["Good"]
    assert (parsed.failed, {fault.row for fault in parsed.faults}) == (1, {2})
    assert all(len(fault.message) < 150 and "tomorrow" not in fault.message for fault in parsed.faults)


@pytest.mark.parametrize("text", [
    "BEGIN:VCALENDAR\nBEGIN:VTODO\nSUMMARY:x\n", "BEGIN:VCALENDAR\nBEGIN:VTODO\nBEGIN:VALARM\nEND:VTODO\n",
    "BEGIN:VTODO\nSUMMARY:x",
])  # fmt: skip
def test_a_task_without_an_end_is_wrong(text: str) -> None:
    parsed = read(text)
    assert (parsed.rows, parsed.failed) == ([], 1)


@pytest.mark.parametrize("text", ["END:VTODO\n" * 3, "END:VCALENDAR\n", ":\n;\n=\n\n \n\t\n", "BEGIN:\nEND:\n"])
def test_odd_lines_around_tasks_are_passed_over(text: str) -> None:
    assert only(read(f"BEGIN:VCALENDAR\n{text}BEGIN:VTODO\nSUMMARY:x\nEND:VTODO\n{text}"))["title"] == "x"


SECONDLY = "".join(
    f"BEGIN:VTIMEZONE\nTZID:Z{n}\nBEGIN:STANDARD\nDTSTART:16010101T000000\nTZOFFSETFROM:+0000\nTZOFFSETTO:+0100\n"
    "RRULE:FREQ=SECONDLY;COUNT=99999999999\nRDATE:16010101T000000\nEND:STANDARD\nEND:VTIMEZONE\n"
    for n in range(200)
)
YEARLY = (
    "BEGIN:VTIMEZONE\nTZID:Z0\nBEGIN:STANDARD\nDTSTART:00010101T000000\nTZOFFSETFROM:+0000\nTZOFFSETTO:+0100\n"
    "RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10\nEND:STANDARD\nEND:VTIMEZONE\n"
)
IN_ZONES = "".join(
    f"BEGIN:VTODO\nSUMMARY:x\nDUE;TZID=Z{n % 200}:{9999 - n % 8000:04}0101T000000\nEND:VTODO\n" for n in range(9_000)
)
ROOM = IMPORT_MAX_BYTES - 200
HOSTILE = {
    "one line": "BEGIN:VTODO\nSUMMARY:" + "x" * ROOM + "\nEND:VTODO\n",
    "a line of colons": "BEGIN:VTODO\nDUE;" + ":" * 60_000 + "\nEND:VTODO\n",
    "a line of quotes": "BEGIN:VTODO\nDUE;" + '";=' * 20_000 + ":\nEND:VTODO\n",
    "backslashes": "BEGIN:VTODO\nCATEGORIES:" + "\\" * 60_001 + "\nEND:VTODO\n",
    "commas": "BEGIN:VTODO\nCATEGORIES:" + "," * 60_000 + "\nEND:VTODO\n",
    "folds": "BEGIN:VTODO\nSUMMARY:x\n" + " x\n" * (ROOM // 3) + "END:VTODO\n",
    "empty lines": "\n" * ROOM,
    "returns": "\r" * ROOM,
    "nesting": "BEGIN:VTODO\n" + "BEGIN:X\n" * (ROOM // 8),
    "other components": "BEGIN:VEVENT\nEND:VEVENT\n" * (ROOM // 24),
    "properties": "BEGIN:VTODO\n" + "CATEGORIES:a\n" * (ROOM // 13) + "END:VTODO\n",
    "tags": "BEGIN:VTODO\nSUMMARY:x\n" + "CATEGORIES:a\n" * 150 + "END:VTODO\n",
    "recurrence": "BEGIN:VTODO\nSUMMARY:x\nRRULE:FREQ=SECONDLY;COUNT=" + "9" * (ROOM - 200) + "\nEND:VTODO\n",
    "zones by the second": SECONDLY + IN_ZONES,
    "zones from the first year": YEARLY + IN_ZONES,
}


@pytest.mark.covers("A070")
@pytest.mark.parametrize("what", HOSTILE)
def test_ten_mebibytes_of_anything_are_soon_read(what: str) -> None:
    began = time.monotonic()
    parsed = read(f"BEGIN:VCALENDAR\n{HOSTILE[what]}")
    assert time.monotonic() - began < SECONDS
    assert len(parsed.rows) + parsed.failed <= 10_000
    assert all(len(fault.message) < 150 for fault in parsed.faults)
