"""`duly audit export` and `duly audit verify`: the log as a file that needs no database to be believed."""

import json
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from duly.audit import offline
from duly.db.unit import Database
from duly.kit.clock import now
from duly.operations.assembly import assemble
from duly.settings import Settings
from tests.commands import answer, refusal, run_duly, without_packages
from tests.fixtures.application import Api
from tests.fixtures.stored import Stored
from tests.test_create_admin import on_a_terminal

Lines = list[str]


@pytest.fixture
async def exported(api: Api, database_url: str, tmp_path: Path) -> Path:
    """An export of nine entries: three people register and sign in twice each."""
    for email in ("ann@example.com", "zoë@bücher.example", "cid@example.com"):
        await api.register(email)
        await api.log_in(email)
        await api.log_in(email)
    file = tmp_path / "audit.jsonl"
    answer(await run_duly(tmp_path, "audit", "export", str(file), database_url=database_url))
    return file


def lines_of(file: Path) -> Lines:
    return file.read_text(encoding="utf-8").splitlines()


def write_lines(file: Path, lines: Lines) -> None:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def spoil(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def drafts_in(folder: Path) -> Sequence[Path]:
    return list(folder.glob(".audit*"))


def is_private(file: Path) -> bool:
    return file.stat().st_mode & 0o777 == 0o600


def entries_of(file: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(file)[1:]]


def edit(lines: Lines, index: int, **changes: Any) -> Lines:
    """One entry says something else, in the form in which entries are exported."""
    changed = json.loads(lines[index]) | changes
    spelt = json.dumps(changed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return [*lines[:index], spelt, *lines[index + 1 :]]


def write_anew(lines: Lines, **changes: Any) -> Lines:
    """A chain without a fault that says something else: every hash and the head are made anew."""
    head, *rest = [json.loads(line) for line in lines]
    rest[0] |= changes
    running = head["start_hash"]
    for entry in rest:
        content = {name: value for name, value in entry.items() if name not in {"hash", "previous_hash"}}
        spelt = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        entry |= {"previous_hash": running, "hash": (running := sha256(f"{running}\n{spelt}".encode()).hexdigest())}
    head["head"] = running
    spelling = [json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False) for entry in rest]
    return [json.dumps(head), *spelling]


@pytest.mark.covers("A039", "A094")
async def test_an_export_holds_every_entry_and_is_verified_without_the_database(
    exported: Path, stored: Stored, tmp_path: Path
) -> None:
    entries = entries_of(exported)
    ids = [row[0] for row in await stored.rows("SELECT id FROM audit_log ORDER BY position")]
    assert [entry["id"] for entry in entries] == ids
    assert [entry["event"] for entry in entries].count("user.registered") == 3
    assert {entry["actor_name"] for entry in entries} >= {"ann@example.com", "zoë@bücher.example"}
    assert is_private(exported)
    said = answer(await run_duly(tmp_path, "audit", "verify", str(exported), database_url="no address"))
    assert said.startswith(f"valid: yes\nentries: {len(ids)}\nhead: {entries[-1]['hash']}\n")


async def test_standard_output_gets_the_same_bytes_as_a_file(exported: Path, database_url: str, tmp_path: Path) -> None:
    assert (
        answer(await run_duly(tmp_path, "audit", "export", database_url=database_url))
        == "\n".join(lines_of(exported)) + "\n"
    )


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_the_verifier_runs_alone_on_the_standard_library_in_at_most_100_lines(
    exported: Path, tmp_path: Path
) -> None:
    good = await without_packages(tmp_path, "-m", "duly.audit.offline", str(exported))
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("valid: ")
    write_lines(exported, edit(lines_of(exported), 2, outcome="failure"))
    bad = await without_packages(tmp_path, "-m", "duly.audit.offline", str(exported))
    assert (bad.returncode, "is changed" in bad.stderr) == (1, True)
    assert "\n" not in bad.stderr.strip()
    assert (
        await without_packages(tmp_path, "-c", "import pydantic")
    ).returncode == 1  # that is what "alone" means here
    assert len(lines_of(Path(offline.__file__))) <= 100


Plant = Callable[[Lines], Lines]
# Each kind of change, the line that is named (as it stood in the true export; 0: none) and a word of why.
PLANTED: dict[str, tuple[Plant, int, str]] = {
    "a byte": (lambda lines: [*lines[:4], lines[4].replace("success", "sukcess"), *lines[5:]], 4, "is changed"),
    "a time": (lambda lines: edit(lines, 4, at="2026-01-01T00:00:00.000000Z"), 4, "is changed"),
    "a value said twice": (
        lambda lines: [*lines[:4], lines[4].replace("{", '{"event":"nothing",', 1), *lines[5:]], 4, "is changed"
    ),
    "a deleted entry": (lambda lines: [*lines[:4], *lines[5:]], 5, "does not follow"),
    "the first deleted": (lambda lines: [lines[0], *lines[2:]], 2, "does not follow"),
    "a deleted tail": (lambda lines: lines[:-2], -3, "cut after"),
    "swapped entries": (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], 5, "does not follow"),
    "an inserted entry": (lambda lines: [*lines[:5], lines[3], *lines[5:]], 3, "does not follow"),
    "an appended entry": (lambda lines: lines + write_anew([lines[0], lines[1]])[1:], 1, "does not follow"),
    "another head": (
        lambda lines: [json.dumps(json.loads(lines[0]) | {"head": "0" * 64}), *lines[1:]], -1, "does not end"
    ),
    "no JSON": (lambda lines: [*lines[:4], lines[4][:-1], *lines[5:]], 0, "line 5) is changed"),
}  # fmt: skip


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_every_planted_change_is_found_and_named(exported: Path, tmp_path: Path) -> None:
    true = lines_of(exported)
    assert offline.verify(true).fault is None
    for kind, (plant, named, word) in PLANTED.items():
        fault = offline.verify(plant(true)).fault
        assert fault is not None, kind
        assert word in fault, (kind, fault)
        assert named == 0 or json.loads(true[named])["id"] in fault, (kind, fault)
    write_lines(exported, PLANTED["a time"][0](true))
    line = refusal(await run_duly(tmp_path, "audit", "verify", str(exported)))
    assert json.loads(true[4])["id"] in line
    assert "(line 5) is changed" in line


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_byte_that_is_no_text_is_a_change_even_where_a_question_mark_stood(
    exported: Path, tmp_path: Path
) -> None:
    lines = write_anew(lines_of(exported), user_agent="who?")
    spoil(exported, "\n".join(lines).encode().replace(b"who?", b"who\xff"))
    assert "is changed" in (offline.verify_file(exported).fault or "")


async def test_a_log_that_was_written_anew_is_told_by_an_anchor_kept_outside(
    exported: Path, api: Api, database_url: str, tmp_path: Path
) -> None:
    noted = entries_of(exported)[-1]["hash"]
    await api.register()
    answer(await run_duly(tmp_path, "audit", "export", str(exported), database_url=database_url))
    assert entries_of(exported)[-1]["hash"] != noted
    answer(await run_duly(tmp_path, "audit", "verify", str(exported), "--anchor", noted.upper()))
    lines = lines_of(exported)
    write_lines(exported, write_anew(lines, actor_name="mallory@example.com"))
    assert offline.verify_file(exported).fault is None
    line = refusal(await run_duly(tmp_path, "audit", "verify", str(exported), "--anchor", noted))
    assert "the anchor is not in this chain" in line


async def test_what_was_changed_in_the_database_is_found_in_its_export(
    exported: Path, stored: Stored, database_url: str, tmp_path: Path
) -> None:
    victim = entries_of(exported)[3]["id"]
    await stored.rows("UPDATE audit_log SET actor_name = 'somebody else' WHERE id = ?", victim)
    answer(await run_duly(tmp_path, "audit", "export", str(exported), database_url=database_url))
    assert victim in refusal(await run_duly(tmp_path, "audit", "verify", str(exported)))


async def test_an_export_after_old_entries_were_removed_is_whole(
    exported: Path, database: Database, database_url: str, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"database_url": database_url, "data_dir": tmp_path}
    chain = (await assemble(Settings(_env_file=None, **values), database)).chain
    before = entries_of(exported)
    assert await chain.prune(database, now() + timedelta(days=1)) == len(before)
    answer(await run_duly(tmp_path, "audit", "export", str(exported), database_url=database_url))
    assert entries_of(exported) == []
    said = answer(await run_duly(tmp_path, "audit", "verify", str(exported), "--anchor", before[-1]["hash"]))
    assert "entries: 0" in said


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_what_cannot_be_read_or_written_is_one_line_and_leaves_what_was_there(
    exported: Path, database_url: str, tmp_path: Path
) -> None:
    assert "cannot be read" in refusal(await run_duly(tmp_path, "audit", "verify", "missing.jsonl"))
    spoil(tmp_path / "other.txt", b"\xff\xfe no export")
    assert "not the head of an export" in refusal(await run_duly(tmp_path, "audit", "verify", "other.txt"))
    spoil(tmp_path / "empty.txt", b"")
    assert "not the head of an export" in refusal(await run_duly(tmp_path, "audit", "verify", "empty.txt"))
    place = str(tmp_path / "nowhere" / "audit.jsonl")
    assert "cannot be written" in refusal(await run_duly(tmp_path, "audit", "export", place, database_url=database_url))
    before = lines_of(exported)
    line = refusal(
        await run_duly(tmp_path, "audit", "export", str(exported), database_url=f"sqlite:///{tmp_path}/new.db")
    )
    assert "duly migrate upgrade" in line
    assert lines_of(exported) == before
    assert drafts_in(tmp_path) == []


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_terminal_sees_how_far_it_is(exported: Path, database_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "duly", "audit", "export", str(exported)]
    status, screen = on_a_terminal(command, tmp_path, [], database_url=database_url, term="xterm")
    assert (status, "Exporting" in screen, "100%" in screen) == (0, True, True)
