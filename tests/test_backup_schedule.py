"""Scheduled backups: made when they are due, by one process of many, and only so many are kept."""

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from duly.cli.backing_up import Silence
from duly.operations.archive_reading import verify
from duly.operations.schedule import BackupSchedule, plain_settings
from duly.operations.startup import check_settings
from duly.settings import Settings, SettingsFault
from tests.backups import KEY
from tests.fixtures.server import StartServer

HOUR = 3600.0


def settings_of(url: str, folder: Path, **more: Any) -> Settings:
    (folder / "backups").mkdir(exist_ok=True)
    return Settings(
        _env_file=None, database_url=url, data_dir=folder, secret_key=KEY, backup_dir=folder / "backups", **more
    )


def made_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("duly-*.tar"))


def put(folder: Path, name: str, size: int = 5) -> Path:
    path = folder / name
    path.write_bytes(bytes(size))
    return path


async def until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_it_makes_one_when_it_is_due_and_keeps_so_many(database_url: str, tmp_path: Path) -> None:
    settings = settings_of(database_url, tmp_path, backup_keep=2)
    folder = tmp_path / "backups"
    old = [put(folder, f"duly-2020010{day}T000000Z.tar") for day in (1, 2, 3)]
    others = [put(folder, "mine.tar"), put(folder, "duly-20200101T000000Z.tar.asc"), put(folder, "duly-last.tar")]
    left = put(folder, ".duly-20200101T000000Z.tar.01234567.part")
    schedule = BackupSchedule(settings, folder)
    assert schedule.last_bytes == 5
    begun = time.time()
    assert await schedule.run_when_due()
    found = made_in(folder)
    newest = next(path for path in found if path not in (*old, *others))
    assert [path for path in found if path not in others] == [old[2], newest]
    assert all(path.exists() for path in others)
    assert not left.exists()
    with newest.open("rb") as file:
        assert verify(file, Silence()).size == schedule.last_bytes
    assert schedule.last_success is not None
    assert begun - 1 <= schedule.last_success <= time.time()
    assert not await schedule.run_when_due()
    # Whoever starts later learns of it from the folder.
    later = BackupSchedule(settings, folder)
    assert (later.last_success, later.last_bytes) == (schedule.last_success, schedule.last_bytes)


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_of_many_that_are_due_at_once_one_makes_it(database_url: str, tmp_path: Path) -> None:
    settings = settings_of(database_url, tmp_path)
    schedules = [BackupSchedule(settings, tmp_path / "backups") for _ in range(5)]
    done = await asyncio.gather(*(schedule.run_when_due() for schedule in schedules))
    assert sum(done) == 1
    assert len(made_in(tmp_path / "backups")) == 1


async def test_one_that_fails_is_an_error_in_the_log_and_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(f"sqlite:///{tmp_path / 'gone.db'}", tmp_path)
    schedule = BackupSchedule(settings, tmp_path / "backups")
    with caplog.at_level(logging.ERROR):
        assert not await schedule.run_when_due()
    (record,) = caplog.records
    assert "does not exist" in record.getMessage()
    assert "'duly backup FILE'" in record.getMessage()
    assert made_in(tmp_path / "backups") == []
    assert (schedule.last_success, schedule.last_bytes) == (None, 0)
    # It is not tried again at once, lest the log be filled.
    assert not await schedule.run_when_due()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_who_is_told_to_end_leaves_no_program_and_no_part(database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    task = asyncio.create_task(BackupSchedule(settings_of(database_url, tmp_path), folder).run_when_due())
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(folder.glob("*.part")) == []
    assert await BackupSchedule(settings_of(database_url, tmp_path), folder).run_when_due()


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
async def test_two_servers_make_one_and_tell_its_age_and_size(
    start_server: StartServer, database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    given = {"database_url": database_url, "secret_key": KEY, "backup_dir": str(folder)}
    servers = [start_server(**given), start_server(**given)]
    await until(lambda: made_in(folder))
    (path,) = made_in(folder)
    servers[0].stop()
    third = start_server(**given)
    await asyncio.sleep(1)
    assert made_in(folder) == [path]
    async with httpx.AsyncClient(base_url=third.base_url, trust_env=False, timeout=30) as client:
        metrics = (await client.get("/metrics")).text
    figures = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("duly_backup"))
    assert float(figures["duly_backup_last_size_bytes"]) == path.stat().st_size
    assert abs(float(figures["duly_backup_last_success_timestamp_seconds"]) - time.time()) < HOUR
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_that_takes_no_backup_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = Settings(_env_file=None, data_dir=tmp_path, backup_dir=tmp_path / "file" / "below")
    with pytest.raises(SettingsFault, match=r"^BACKUP_DIR: cannot make .*; give a folder that can be written$"):
        check_settings(settings)


def test_the_settings_reach_the_other_program_as_they_are(tmp_path: Path) -> None:
    settings = Settings(
        _env_file=None, data_dir=tmp_path, secret_key=KEY, secret_key_previous=("a" * 40, "b" * 40),
        cors_origins=("https://a.example",), trusted_issuers='[{"issuer": "https://b.example"}]', redis_url="redis://r/1",
    )  # fmt: skip
    assert Settings(**plain_settings(settings)) == settings
    assert os.environ.get("SECRET_KEY") is None
