"""The integrity report: it finds what is wrong, names it, and says nothing of what is right."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from duly.operations.integrity import Examination, Finding, examine
from tests.commands import run_duly
from tests.fixtures.application import Api, Person
from tests.fixtures.stored import Stored

KEY = "the-key-of-the-examined-house-0123456789"


@pytest.fixture
async def api(start_app: Callable[..., Any]) -> Api:
    """The application under a key that the program is given too."""
    found: Api = await start_app(secret_key=KEY)
    return found


async def look(api: Api, *, deep: bool = False) -> Examination:
    await api.app.state.services.chain.seal(api.app.state.services.database)
    return await examine(api.settings, deep=deep)


async def only(api: Api, kind: str, *, deep: bool = False) -> str:
    """The line of the one thing that is wrong."""
    found = await look(api, deep=deep)
    (finding,) = found.findings
    assert finding.kind == kind, finding
    return finding.line


async def attach(ann: Person) -> dict[str, Any]:
    task = await ann.add_task()
    answer = await ann.post(f"/tasks/{task['id']}/attachments", files={"file": ("a", b"some text")})
    file: dict[str, Any] = answer.json()
    return file


def stored_files(api: Api) -> list[Path]:
    return [path for path in (api.settings.data_dir / "files").rglob("*") if path.is_file()]


async def test_a_house_in_order_gives_facts_and_no_finding(api: Api, ann: Person, ben: Person) -> None:
    await attach(ann)
    task = await ben.add_task()
    await ben.delete(f"/tasks/{task['id']}")
    await ben.get("/tasks", params={"search": "a"})
    found = await look(api, deep=True)
    assert found.findings == []
    facts = found.facts
    assert (facts["users"], facts["tasks"], facts["attachments"], facts["files"]) == (2, 2, 1, 1)
    assert facts["audit entries"] >= 2


async def test_counters_that_are_wrong_are_named_with_what_is_right(api: Api, ann: Person, stored: Stored) -> None:
    await ann.add_task()
    await stored.rows("UPDATE task_counters SET pending = 7 WHERE user_id = ?", ann.user_id)
    line = await only(api, "counters")
    assert ann.user_id in line
    assert "7 open and 0 done, and the tasks are 1 and 0" in line


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DELETE FROM changes WHERE position = 2", "change 2 is missing"),
        ("DELETE FROM changes WHERE position = 1", "begins with change 2"),
        ("DELETE FROM changes WHERE position = 3", "change 3 is missing"),
        ("UPDATE task_counters SET position = 2", "goes on to 3"),
    ],
)
async def test_a_feed_with_a_gap_or_a_wrong_head_is_named(
    api: Api, ann: Person, stored: Stored, *, sql: str, said: str
) -> None:
    for _ in range(3):
        await ann.add_task()
    await stored.rows(sql)
    line = await only(api, "feed")
    assert ann.user_id in line
    assert said in line


async def test_a_search_index_ahead_of_the_feed_is_named(api: Api, ann: Person, stored: Stored) -> None:
    await ann.add_task()
    await ann.get("/tasks", params={"search": "task"})
    await stored.rows("UPDATE search_places SET position = 9")
    assert ann.user_id in await only(api, "search")


async def test_dead_mails_are_named_with_the_command_that_sends_them(api: Api, ann: Person, stored: Stored) -> None:
    await ann.client.post("/api/v1/auth/forgot-password", json={"email": ann.email})
    await stored.rows("UPDATE outbox SET state = 'dead', last_error = '550 no such box'")
    found = await look(api)
    assert {finding.kind for finding in found.findings} == {"mail"}
    assert "550 no such box; run 'duly mail retry " in found.findings[0].line


async def test_bytes_that_are_lost_cut_or_altered_are_named(api: Api, ann: Person) -> None:
    file = await attach(ann)
    (path,) = stored_files(api)
    path.write_bytes(b"some tex")
    assert f"{file['id']} of task {file['task_id']}" in await only(api, "files")
    path.write_bytes(b"some TEXT")
    assert (await look(api)).findings == []
    assert "other bytes" in await only(api, "files", deep=True)
    path.unlink()
    assert "has lost its bytes" in await only(api, "files")


async def test_an_audit_entry_that_was_changed_is_named(api: Api, ann: Person, stored: Stored) -> None:
    await api.app.state.services.chain.seal(api.app.state.services.database)
    await stored.rows("UPDATE audit_log SET outcome = 'failure' WHERE position = 1")
    entry = await stored.value("SELECT id FROM audit_log WHERE position = 1")
    assert entry in await only(api, "audit")


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_reference_to_nothing_is_named(api: Api, ann: Person, stored: Stored) -> None:
    await stored.rows(
        "INSERT INTO search_places (user_id, position) VALUES ('nobody', 0)"
    )  # the connection checks no reference
    assert "search_places refers to a row of users" in await only(api, "database")


def test_of_many_findings_the_first_are_named() -> None:
    found = Examination()
    found.add("feed", [str(number) for number in range(11)])
    assert len(found.findings) == 11
    assert found.findings[-1] == Finding("feed", "feed: there are more of these; mend the first ones and ask again")


async def test_the_doctor_says_it_as_lines_and_as_json(
    api: Api, ann: Person, stored: Stored, *, database_url: str, tmp_path: Path
) -> None:
    await ann.add_task()
    await stored.rows("UPDATE task_counters SET pending = 7 WHERE user_id = ?", ann.user_id)
    done = await run_duly(tmp_path, "doctor", "--json", "--deep", database_url=database_url, secret_key=KEY)
    said = json.loads(done.stdout)
    assert (done.returncode, said["ok"], said["integrity"]["tasks"]) == (1, False, 1)
    assert [ann.user_id in fault for fault in said["faults"]] == [True]
