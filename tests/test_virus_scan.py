"""Uploads are shown to a real ClamAV before anything of them is kept; without its word nothing is."""

import asyncio
import contextlib
import hashlib
import json
import logging
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from duly.files.scanning import ClamdAddress, parse_clamd_address
from duly.operations.doctor import examine
from duly.operations.start_report import report_checks
from duly.operations.startup import check_settings
from duly.settings import Settings, SettingsFault
from tests.fixtures.application import Api, Person, StartApp
from tests.fixtures.server import free_port
from tests.fixtures.stored import Stored
from tests.test_attachments import attach, attached, kept, path_of
from tests.virus_scanner import EICAR, MARKER, SCAN_MAX, STREAM_MAX, VirusScanner, running_scanner

EVENTS = "SELECT actor_id, target_type, target_id, outcome, details FROM audit_log WHERE event = 'file.infected'"


@pytest.fixture(scope="module")
def scanner() -> Iterator[VirusScanner]:
    with tempfile.TemporaryDirectory(prefix="clamd-", dir="/tmp") as folder, running_scanner(Path(folder)) as running:
        yield running


async def nothing_is_kept(api: Api, person: Person, task: dict[str, Any], stored: Stored) -> None:
    """No row, no bytes, and so nothing that counts for the quota."""
    assert (await person.get(f"/tasks/{task['id']}/attachments")).json()["total"] == 0
    assert await stored.value("SELECT count(*) FROM attachments") == 0
    assert kept(api) == []


def assert_503(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "SCANNER_UNAVAILABLE"), answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert "nothing was stored" in answer.json()["detail"]


def infected_files() -> dict[str, bytes]:
    """By name: at the start, at the end, packed, where two pieces meet, and what every scanner finds."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.txt", b"x" * 5000 + MARKER)
    return {
        "a.txt": MARKER, "b.txt": b"x" * 700_000 + MARKER, "c.zip": packed.getvalue(),
        "d.bin": b"\0" * (256 * 1024 - 20) + MARKER, "eicar.com": EICAR,
    }  # fmt: skip


@pytest.mark.covers("A127")
async def test_an_infected_file_is_refused_told_to_the_log_and_not_kept(
    start_app: StartApp, scanner: VirusScanner, stored: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    infected = infected_files()
    for url in scanner.urls:
        api = await start_app(clamd_url=url)
        ann = await api.register()
        task = await ann.add_task()
        for name, data in infected.items():
            answer = await attach(ann, task, data, name)
            assert (answer.status_code, answer.json()["code"]) == (422, "FILE_INFECTED"), (name, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert [fault["field"] for fault in answer.json()["errors"]] == ["file"]
            assert "Duly.Test" not in answer.text
        await nothing_is_kept(api, ann, task, stored)
        rows = [row for row in await stored.rows(EVENTS) if row[0] == ann.user_id]
        assert {row[1:4] for row in rows} == {("task", task["id"], "failure")}
        told = {(found["signature"], found["sha256"], found["size"]) for found in (json.loads(row[4]) for row in rows)}
        assert told == {
            (f"Duly.Test.{'Eicar' if name == 'eicar.com' else 'Marker'}.UNOFFICIAL",
             hashlib.sha256(data).hexdigest(), len(data)) for name, data in infected.items()
        }  # fmt: skip
    assert "file.infected" in caplog.text


async def test_nobody_can_write_into_the_events_of_another(
    start_app: StartApp, scanner: VirusScanner, stored: Stored
) -> None:
    api = await start_app(clamd_url=scanner.urls[0])
    ann, ben = await api.register(), await api.register()
    for headers, status in (({}, 404), ({"Idempotency-Key": "once"}, 422)):
        answer = await attach(ann, {"id": ben.user_id}, MARKER, headers=headers)
        assert answer.status_code == status, answer.text
    assert [row[:3] for row in await stored.rows(EVENTS)] == [(ann.user_id, None, None)]
    events = [entry["event"] for entry in (await ben.get("/users/me/security-events")).json()["items"]]
    assert "file.infected" not in events


@pytest.mark.covers("A127")
async def test_a_clean_file_is_kept_as_it_was(start_app: StartApp, scanner: VirusScanner) -> None:
    api = await start_app(clamd_url=scanner.urls[0])
    ann = await api.register()
    data = b"y" * 900_000 + MARKER[:-1]
    file = await attached(ann, await ann.add_task(), data, "clean.txt")
    assert file["sha256"] == hashlib.sha256(data).hexdigest()
    assert (await ann.get(path_of(file))).content == data


@pytest.mark.covers("A127")
async def test_an_import_is_scanned_too(start_app: StartApp, scanner: VirusScanner, stored: Stored) -> None:
    api = await start_app(clamd_url=scanner.urls[0])
    ann = await api.register()
    for title, status in ((MARKER.decode(), 422), ("Milk", 200)):
        file = {"file": ("tasks.csv", f"title\n{title}\n".encode())}
        for query in ("?dry_run=true", ""):
            answer = await ann.post(f"/tasks/import{query}", files=file)
            assert answer.status_code == status, answer.text
            assert status == 200 or answer.json()["code"] == "FILE_INFECTED"
    assert [task["title"] for task in (await ann.get("/tasks")).json()["items"]] == ["Milk"]
    assert {row[:4] for row in await stored.rows(EVENTS)} == {(ann.user_id, None, None, "failure")}


@pytest.mark.covers("A127")
async def test_what_the_scanner_does_not_look_through_is_413(
    start_app: StartApp, scanner: VirusScanner, stored: Stored
) -> None:
    for url in scanner.urls:
        api = await start_app(clamd_url=url)
        ann = await api.register()
        task = await ann.add_task()
        # More than it takes at all, by a byte and by much, and more than it looks through.
        for size in (STREAM_MAX + 1, 6 * STREAM_MAX, SCAN_MAX + 100):
            answer = await attach(ann, task, b"x" * size)
            assert (answer.status_code, answer.json()["code"]) == (413, "FILE_TOO_LARGE_TO_SCAN"), answer.text
        await nothing_is_kept(api, ann, task, stored)
        assert await stored.rows(EVENTS) == []


@pytest.mark.covers("A127")
async def test_without_the_scanner_nothing_is_taken_and_everything_else_goes_on(
    start_app: StartApp, stored: Stored, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for url in (f"tcp://127.0.0.1:{free_port()}", f"unix://{tmp_path}/none"):
        api = await start_app(clamd_url=url)
        ann = await api.register()
        task = await ann.add_task()
        assert_503(await attach(ann, task))
        assert_503(await ann.post("/tasks/import", files={"file": ("a.csv", b"title\nMilk\n")}))
        await nothing_is_kept(api, ann, task, stored)
        assert (await ann.get("/tasks")).json()["total"] == 1
    caplog.set_level(logging.INFO)
    await report_checks(api.settings, api.app.state.services.health)
    assert "Start-up check: scanner: does not answer; uploads answer 503 until it does" in caplog.text


@pytest.mark.covers("A127")
async def test_a_scanner_that_hangs_costs_a_bounded_time_and_is_used_again(
    start_app: StartApp, scanner: VirusScanner, stored: Stored
) -> None:
    api = await start_app(clamd_url=scanner.urls[0], request_timeout_seconds=2)
    ann = await api.register()
    task = await ann.add_task()
    scanner.hang()
    try:
        # A small one, of which the kernel takes all, and one of which it does not.
        key = {"Idempotency-Key": "once"}
        async with asyncio.timeout(30):
            answers = await asyncio.gather(attach(ann, task, headers=key), attach(ann, task, b"x" * 10_000_000))
        for answer in answers:
            assert_503(answer)
        await nothing_is_kept(api, ann, task, stored)
    finally:
        scanner.resume()
    assert (await attach(ann, task, headers=key)).status_code == 201
    assert len(kept(api)) == 1


@contextlib.asynccontextmanager
async def impostor(*said: bytes) -> AsyncIterator[str]:
    """The address of something that takes a connection, says the next of these to a file, the last to all else."""
    left = list(said)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_file = (await reader.read(100_000)).startswith(b"zINSTREAM")
        writer.write(left.pop(0) if is_file else said[-1])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"


UNCLEAR = [
    b"", b"\0", b"stream: OK", b"stream: OKAY\0", b"OK\0", b"stream: \0", b"stream: lstat() failed. ERROR\0",
    b"UNKNOWN COMMAND\0", b"HTTP/1.1 200 OK\r\n\r\nstream: OK\0", b"\xff" * 200_000, b"a: FOUND\nstream: OK\0",
]  # fmt: skip


async def test_only_a_clear_answer_lets_a_file_in(start_app: StartApp, stored: Stored) -> None:
    async with impostor(*UNCLEAR, b"stream: OK\0") as url:
        api = await start_app(clamd_url=url)
        ann = await api.register()
        task = await ann.add_task()
        for _ in UNCLEAR:
            assert_503(await attach(ann, task))
        await nothing_is_kept(api, ann, task, stored)
        assert (await attach(ann, task)).status_code == 201


async def test_the_doctor_and_the_start_say_whether_it_answers(
    start_app: StartApp, scanner: VirusScanner, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def look(url: str | None) -> tuple[str, list[str]]:
        values: Any = {"data_dir": tmp_path, "database_url": database_url, "clamd_url": url}
        report = await examine(Settings(_env_file=None, **values))
        return report.facts["scanner"], report.faults

    assert await look(None) == ("not configured", [])
    for url in scanner.urls:
        told, faults = await look(url)
        assert told.startswith("ok (ClamAV ")
        assert faults == []
    line = "CLAMD_URL: the virus scanner does not answer; start it or correct the address"
    assert await look(f"unix://{tmp_path}/none") == ("does not answer", [line])
    async with impostor(b"I am somebody else\0") as url:
        assert await look(url) == ("does not answer", [line])
    api = await start_app(clamd_url=scanner.urls[1])
    caplog.set_level(logging.INFO)
    await report_checks(api.settings, api.app.state.services.health)
    assert "Start-up check: scanner: ok (ClamAV " in caplog.text


def test_an_address_that_is_none_stops_the_start(tmp_path: Path) -> None:
    assert parse_clamd_address("tcp://scanner") == ClamdAddress("scanner", 3310)
    assert parse_clamd_address("tcp://[::1]:3311/") == ClamdAddress("::1", 3311)
    assert parse_clamd_address("unix:///run/clamav/clamd.ctl") == ClamdAddress(path="/run/clamav/clamd.ctl")
    for wrong in ("scanner:3310", "tcp://", "tcp://host:99999", "tcp://host/path", "tcp://u@host", "unix://run/x",
                  "unix:///", "http://host:3310", "clamd.ctl", "tcp://host?x=1"):  # fmt: skip
        with pytest.raises(SettingsFault) as refused:
            check_settings(Settings(_env_file=None, data_dir=tmp_path, clamd_url=wrong))
        [fault] = refused.value.faults
        assert fault.startswith("CLAMD_URL: "), wrong
