"""`duly doctor`: what an operator asks first, every fault in one line with its remedy, and no secret."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from duly import __version__
from duly.db import migrate
from duly.operations.doctor import LIBRARIES, Report, examine
from duly.settings import Settings
from tests.fixtures.server import environment
from tests.schemas import run_sql

SECRETS = {"secret_key": "hidden-key-0123456789-abcdefghijklmnop", "redis_url": "redis://ann:hidden-word@127.0.0.1:1/0"}

Doctor = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    """Run `duly doctor` as a program."""

    def run(*options: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "duly", "doctor", *options], cwd=tmp_path, env=environment(tmp_path, **settings),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


async def look(tmp_path: Path, **settings: Any) -> Report:
    return await examine(Settings(_env_file=None, data_dir=tmp_path, **settings))


@pytest.mark.covers("A018", "E049")
async def test_a_database_in_order_is_reported_with_its_durability_and_no_fault(
    database_url: str, dialect: str, tmp_path: Path
) -> None:
    report = await look(tmp_path, database_url=database_url)
    assert report.faults == []
    facts = report.facts
    assert (facts["duly"], facts["environment"], facts["redis"]) == (__version__, "development", "not configured")
    assert set(facts["libraries"]) == set(LIBRARIES)
    assert facts["schema"] == {"revision": migrate.head(), "head": migrate.head()}
    database = facts["database"]
    assert (database["dialect"], str(database["server"]).split(".")[0].isdigit()) == (dialect, True)
    if dialect == "sqlite":
        assert (database["journal_mode"], database["synchronous"], database["foreign_keys"]) == ("wal", "FULL", True)
    else:
        assert (database["synchronous"], database["fsync"]) == ("on", "on")
        assert (database["pool"]["size"], database["pool"]["overflow"]) == (5, 10)


async def test_looking_changes_nothing(database_url: str, tmp_path: Path) -> None:
    await run_sql(database_url, "DELETE FROM alembic_version")
    before = sorted(os.listdir(tmp_path))  # noqa: PTH208 - names are all that is asked for
    report = await look(tmp_path, database_url=database_url)
    assert report.faults == [f"The schema is at nothing, not {migrate.head()}; run 'duly migrate upgrade'"]
    assert sorted(os.listdir(tmp_path)) == before  # noqa: PTH208
    assert await run_sql(database_url, "SELECT * FROM alembic_version") == []


async def test_a_sqlite_file_that_does_not_exist_is_named_and_not_made(tmp_path: Path) -> None:
    report = await look(tmp_path)
    assert report.facts["database"]["exists"] is False
    assert len(report.faults) == 1
    assert report.faults[0].endswith("does not exist yet; run 'duly migrate upgrade'")
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.parametrize(
    "content", [b"this is no database at all, only a text of some length" * 20, b"SQLite format 3\0"]
)
async def test_a_file_that_is_no_database_is_a_fault_and_not_a_crash(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "duly.db").write_bytes(content)
    report = await look(tmp_path)
    assert len(report.faults) == 1
    assert "duly.db" in report.faults[0]
    assert (tmp_path / "duly.db").read_bytes() == content


@pytest.mark.parametrize(
    "url", ["postgresql://ann:hidden-word@127.0.0.1:1/tasks", "postgresql://ann:hidden-word@nowhere.invalid/tasks"]
)
async def test_a_server_that_does_not_answer_is_a_fault_without_its_password(tmp_path: Path, url: str) -> None:
    report = await look(tmp_path, database_url=url)
    (fault,) = report.faults
    assert fault.startswith("DATABASE_URL: postgresql://ann@")
    assert "hidden" not in fault
    assert "\n" not in fault


async def test_a_database_that_is_not_there_is_a_fault(tmp_path: Path, database_url: str, dialect: str) -> None:
    if dialect == "sqlite":
        return
    report = await look(tmp_path, database_url=f"{database_url}_gone")
    (fault,) = report.faults
    assert fault.startswith("DATABASE_URL: ")


async def test_redis_that_does_not_answer_is_a_fault(tmp_path: Path, database_url: str) -> None:
    report = await look(tmp_path, database_url=database_url, redis_url="redis://:hidden-word@127.0.0.1:1/0")
    assert report.facts["redis"] == "does not answer"
    assert report.faults == ["REDIS_URL: Redis does not answer; start it or correct the address"]


async def test_every_fault_of_the_settings_is_named_at_once(tmp_path: Path) -> None:
    report = await look(
        tmp_path, database_url="mysql://ann:hidden-word@host/x", trusted_proxies=("no address",), public_url="nowhere"
    )
    names = [fault.partition(":")[0] for fault in report.faults]
    assert names == ["DATABASE_URL", "TRUSTED_PROXIES", "PUBLIC_URL"]
    assert "hidden" not in "".join(report.faults)


def test_the_program_says_all_is_well_and_ends_with_0(doctor: Doctor, database_url: str, dialect: str) -> None:
    done = doctor(database_url=database_url)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"duly: {__version__}"
    assert f"  dialect: {dialect}" in lines
    assert lines[-1] == "All is well."


def test_as_json_it_is_one_object_that_a_program_can_read(doctor: Doctor, database_url: str) -> None:
    done = doctor("--json", database_url=database_url)
    said = json.loads(done.stdout)
    assert (done.returncode, done.stderr, said["ok"], said["faults"]) == (0, "", True, [])
    assert said["schema"]["revision"] == migrate.head()


def test_faults_are_lines_on_standard_error_and_exit_code_1_and_no_secret_is_shown(doctor: Doctor) -> None:
    done = doctor("--json", database_url="postgresql://ann:hidden-word@127.0.0.1:1/tasks", **SECRETS)
    said = json.loads(done.stdout)
    assert (done.returncode, said["ok"]) == (1, False)
    assert done.stderr.splitlines() == [f"duly: {fault}" for fault in said["faults"]]
    assert "hidden" not in done.stdout + done.stderr


def test_settings_that_cannot_be_read_are_lines_too(doctor: Doctor) -> None:
    done = doctor(port="no number", secret_key="hidden", environment="production")
    assert (done.returncode, done.stdout) == (1, "")
    assert all(line.startswith("duly: ") for line in done.stderr.splitlines())
    assert "duly: PORT: " in done.stderr
    assert "hidden" not in done.stderr
    assert "Traceback" not in done.stderr
