"""`duly restore`: a backup comes back whole, into either database, or nothing changes."""

import asyncio
import contextlib
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from duly.cli.backing_up import Silence
from duly.db.database import address_from
from duly.db.loads import look_at
from duly.operations import integrity
from duly.operations.archive import Archive, ArchiveWriter, Head
from duly.operations.archive_reading import read_files, read_rows, verify
from duly.operations.backup import write_file
from duly.operations.restoring import check_archive, restore
from duly.settings import Settings
from tests.backups import KEY, backup, come_back, damage, furnish
from tests.backups import restore as restore_with
from tests.commands import answer, refusal, run_duly
from tests.fixtures.application import Api, StartApp
from tests.fixtures.database import DIALECTS, migrated_database
from tests.fixtures.server import StartServer, environment
from tests.test_backup import back_up_under_writes, titles_in


@contextlib.asynccontextmanager
async def another_house(dialect: str, request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Settings]:
    """Settings of a clean host: an empty database, and no file."""
    await asyncio.to_thread(folder.mkdir)
    made = migrated_database(dialect, request, folder)
    # It waits for the server in a loop of its own, so it cannot do it in this one's thread.
    url = await asyncio.to_thread(made.__enter__)
    try:
        yield settings_of(url, folder)
    finally:
        await asyncio.to_thread(made.__exit__, None, None, None)


def settings_of(url: str, folder: Path) -> Settings:
    return Settings(_env_file=None, database_url=url, data_dir=folder, secret_key=KEY)


async def restored(settings: Settings, path: Path) -> None:
    """Restore a file, as the command does."""
    with path.open("rb") as file:
        archive = await check_archive(settings, file, Silence())
        done = await restore(settings, file, archive, Silence())
    assert done.remarks == ()
    assert (await integrity.examine(settings, deep=True)).findings == []


@pytest.mark.covers("B081", "D122")
@pytest.mark.parametrize("target", DIALECTS)
async def test_the_drill_back_up_restore_elsewhere_serve_and_go_on(
    start_server: StartServer, database_url: str, target: str, *, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = start_server(database_url=database_url, secret_key=KEY)
    seen = await furnish(server)
    answer(await backup(tmp_path, tmp_path / "x.tar", database_url=database_url))
    server.stop()
    async with another_house(target, request, tmp_path / "clean") as clean:
        url = str(clean.database_url)
        said = answer(await restore_with(clean.data_dir, tmp_path / "x.tar", database_url=url))
        assert "Restored" in said
        assert (await integrity.examine(clean, deep=True)).findings == []
        again = start_server(database_url=url, secret_key=KEY, data_dir=str(clean.data_dir))
        await come_back(again, seen)
        again.stop()


async def small_backup(api: Api, folder: Path, url: str) -> Path:
    """A backup of one task with one file."""
    ann = await api.register()
    task = await ann.add_task("restored")
    upload = await ann.post(f"/tasks/{task['id']}/attachments", files={"file": ("a", os.urandom(700))})
    assert upload.status_code == 201
    path = folder / "x.tar"
    await write_file(settings_of(url, folder), path, Silence())
    return path


async def is_untouched(settings: Settings) -> bool:
    """Whether the clean host is as it was."""
    files = [path for path in (settings.data_dir / "files").rglob("*") if path.is_file()]
    return (await look_at(address_from(settings))).is_empty and files == []


async def test_a_damaged_file_is_refused_and_nothing_is_loaded(
    start_app: StartApp, database_url: str, dialect: str, *, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = await small_backup(await start_app(secret_key=KEY), tmp_path, database_url)
    async with another_house(dialect, request, tmp_path / "clean") as clean:
        url = str(clean.database_url)
        damaged = await damage(path, tmp_path / "flipped.tar", path.stat().st_size // 2)
        assert "damaged" in refusal(await restore_with(clean.data_dir, damaged, database_url=url))
        short = tmp_path / "short.tar"
        short.write_bytes(path.read_bytes()[:-3000])
        refusal(await restore_with(clean.data_dir, short, database_url=url))
        assert await is_untouched(clean)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_what_is_no_backup_of_this_house_is_refused_with_what_to_do(
    start_app: StartApp, database_url: str, *, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = await small_backup(await start_app(secret_key=KEY), tmp_path, database_url)
    newer = rewritten(path, tmp_path / "newer.tar", revision="9999")
    async with another_house("sqlite", request, tmp_path / "clean") as clean:
        url, other_key = str(clean.database_url), "another-key-0123456789-0123456789-abc"
        done = await restore_with(clean.data_dir, path, database_url=url, secret_key=other_key)
        assert "SECRET_KEY_PREVIOUS" in refusal(done)
        assert "newer version" in refusal(await restore_with(clean.data_dir, newer, database_url=url))
        unasked = await run_duly(clean.data_dir, "restore", str(path), "--quiet", database_url=url, secret_key=KEY)
        assert "--yes" in refusal(unasked)
        assert await is_untouched(clean)
    line = refusal(await restore_with(tmp_path, path, database_url=database_url))
    assert "is not empty and was left as it is" in line


def rewritten(source: Path, target: Path, *, revision: str, without: str = "") -> Path:
    """The backup that a Duly of another schema would have made."""
    with source.open("rb") as file, target.open("wb") as other:
        archive = verify(file, Silence())
        tables = tuple(table for table in archive.head.tables if table.name != without)
        writer = ArchiveWriter(other, changed(archive, revision, tables))
        for table in tables:
            for part, rows in read_rows(file, archive):
                if part.name == table.name:
                    writer.add_rows(table.name, rows)
            writer.end_table(table.name)
        writer.finish()
    return target


def changed(archive: Archive, revision: str, tables: object) -> Head:
    head = archive.head
    return Head(
        head.duly, head.dialect, revision, head.created_at, head.key_check, head.field_keys, tables  # type: ignore[arg-type]
    )  # fmt: skip


async def test_a_backup_of_an_older_version_is_upgraded_on_its_way(
    start_app: StartApp, database_url: str, dialect: str, *, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = await small_backup(await start_app(secret_key=KEY), tmp_path, database_url)
    # Revision 0004 brought the attachments and nothing else.
    older = rewritten(path, tmp_path / "older.tar", revision="0003", without="attachments")
    async with another_house(dialect, request, tmp_path / "clean") as clean:
        await restored(clean, older)
        facts = (await integrity.examine(clean)).facts
        assert (facts["users"], facts["tasks"], facts["attachments"]) == (1, 1, 0)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_store_that_fails_leaves_no_row_and_no_file(
    start_app: StartApp, database_url: str, *, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = await small_backup(await start_app(secret_key=KEY), tmp_path, database_url)
    async with another_house("sqlite", request, tmp_path / "clean") as clean:
        (clean.data_dir / "files").write_text("this is no folder")
        refusal(await restore_with(clean.data_dir, path, database_url=str(clean.database_url)))
        assert (await look_at(address_from(clean))).is_empty
        (clean.data_dir / "files").unlink()
        await restored(clean, path)


async def test_killed_in_the_middle_it_leaves_the_database_as_it_was(
    start_app: StartApp, dialect: str, *, request: pytest.FixtureRequest, database_url: str, tmp_path: Path
) -> None:
    ann = await (await start_app(secret_key=KEY)).register()
    task = await ann.add_task()
    for number in range(12):
        data = {"file": (f"{number}", os.urandom(1024 * 1024))}
        assert (await ann.post(f"/tasks/{task['id']}/attachments", files=data)).status_code == 201
    path = tmp_path / "x.tar"
    await write_file(settings_of(database_url, tmp_path), path, Silence())
    async with another_house(dialect, request, tmp_path / "clean") as clean:
        environ = environment(clean.data_dir, database_url=str(clean.database_url), secret_key=KEY)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "duly", "restore", str(path), "--yes", "--quiet", cwd=clean.data_dir, env=environ,
        )  # fmt: skip
        # Rows are loaded, and files are being written: the commit is near.
        while not list_files(clean):
            assert process.returncode is None
            await asyncio.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
        assert (await look_at(address_from(clean))).is_empty
        await restored(clean, path)


def list_files(settings: Settings) -> list[Path]:
    return list((settings.data_dir / "files").glob("*/*/*"))


@pytest.mark.torture
@pytest.mark.covers("B081")
async def test_a_backup_under_a_storm_of_writes_holds_all_that_was_acknowledged_and_restores(
    start_server: StartServer, database_url: str, dialect: str, *, request: pytest.FixtureRequest, tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    """`--junit-xml` keeps how many writes a second there were: 500 are the target, and a machine may give less."""
    server = start_server(database_url=database_url, secret_key=KEY)
    path, before, told = await back_up_under_writes(server, database_url, tmp_path, writers=32, least=5000)
    record_property("writes_per_second", len(told) / (told[-1][0] - told[0][0]))
    assert len(told) > len(before)
    async with another_house("postgresql" if dialect == "sqlite" else "sqlite", request, tmp_path / "clean") as clean:
        await restored(clean, path)
    assert before <= titles_in(path)


def test_files_come_back_piece_by_piece() -> None:
    pieces = {"ab/cd/abcd" + "0" * 28: [b"x" * 10, b"y" * 10], "ab/ce/abce" + "0" * 28: [b"z"]}
    file = io.BytesIO()
    writer = ArchiveWriter(file, Head("0", "sqlite", "0004", "now", "", (), ()))
    for key, parts in pieces.items():
        for number, part in enumerate(parts):
            writer.add_file_part(key, number, part)
    writer.finish()
    found = {key: b"".join(iter(lambda source=source: source.read(7), b"")) for key, source in read_files(file)}
    assert found == {key: b"".join(parts) for key, parts in pieces.items()}
    # Who does not read one gets the next one all the same.
    assert [key for key, _ in read_files(file)] == list(pieces)
