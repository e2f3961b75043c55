"""What only SQLite has: one writer whose units share commits, a lock between processes, and a disk that is full."""

import asyncio
import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from duly.db.conflicts import UniqueViolation, WritesRefused
from duly.db.sqlite import SqliteDatabase
from duly.errors import StorageFull, Unavailable
from tests.people import RENAME, add, ids, plain, stored
from tests.schemas import address_of, run_sql

# Stands for a backup or another release that writes. The lock is another process's: within one, SQLite knows better.
HOLDER = """
import sys, apsw
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
connection.close()
print("given back", flush=True)
"""


class Holder:
    """Another process that holds the write lock."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def give_back(self) -> None:
        """Let the others write again."""
        said, _ = self.process.communicate("\n", timeout=10)
        assert said == "given back\n"


@pytest.fixture
def dialect() -> str:
    return "sqlite"


@pytest.fixture
def path(database_url: str) -> Path:
    found = address_of(database_url).path
    assert found is not None
    return found


@pytest.fixture
def holder(path: Path, database: SqliteDatabase) -> Iterator[Holder]:
    held = Holder(path)
    yield held
    if held.process.poll() is None:
        held.process.kill()
    held.process.communicate(timeout=10)


def count_commits(path: Path) -> int:
    """How many transactions the write-ahead log holds: a frame that ends one says the file's size in pages."""
    log = path.with_name(path.name + "-wal").read_bytes()
    page, salts = int.from_bytes(log[8:12], "big"), log[16:24]
    frames = (log[at : at + 24] for at in range(32, len(log), 24 + page))
    return sum(frame[8:16] == salts and frame[4:8] != bytes(4) for frame in frames)


async def write(database: SqliteDatabase, *names: str) -> None:
    async with database.unit() as unit:
        await add(unit, *names)


async def test_units_one_after_another_are_each_durable_by_themselves(database: SqliteDatabase, path: Path) -> None:
    await write(database, "first")
    before = count_commits(path)
    for number in range(5):
        await write(database, f"p{number}")
    assert count_commits(path) == before + 5


async def test_units_that_wait_for_the_disk_share_one_commit(
    database: SqliteDatabase, database_url: str, path: Path
) -> None:
    await write(database, "first")
    before = count_commits(path)
    await asyncio.gather(*(write(database, f"p{number:02}", f"q{number:02}") for number in range(30)))
    assert len(await stored(database_url)) == 61
    # The first may go alone; those that came while it was written go together.
    assert 1 <= count_commits(path) - before <= 3


async def test_the_log_is_copied_back_beside_the_writers_and_does_not_grow(
    database: SqliteDatabase, database_url: str, path: Path
) -> None:
    """Writers without a pause: there is always one commit more, and the log has to be begun again all the same."""
    database.writer.checkpoints.pages = 60
    longest = 0
    for number in range(300):
        await write(database, f"first-{number}-{'x' * 3000}")
        longest = max(longest, path.with_name(path.name + "-wal").stat().st_size // 4120)
    assert 60 <= longest < 600, "of some 2,000 pages in all"
    assert len(await stored(database_url)) == 300


async def test_a_unit_that_fails_leaves_the_group_that_it_shares_a_transaction_with(
    database: SqliteDatabase, database_url: str, path: Path
) -> None:
    await write(database, "taken")
    before = count_commits(path)
    names = ["a", "b", "taken", "c", "taken", "d"]
    results = await asyncio.gather(
        *(write(database, f"with-{number}", name) for number, name in enumerate(names)), return_exceptions=True
    )
    assert [type(result) for result in results] == [
        type(None), type(None), UniqueViolation, type(None), UniqueViolation, type(None),
    ]  # fmt: skip
    assert await stored(database_url) == ["a", "b", "c", "d", "taken", "with-0", "with-1", "with-3", "with-5"]
    assert count_commits(path) - before <= 2


async def test_reads_go_on_while_another_process_writes(database: SqliteDatabase, holder: Holder) -> None:
    waiting = asyncio.create_task(write(database, "ann"))
    for _ in range(20):
        assert await ids(database) == []
        async with database.unit() as unit:
            assert await ids(unit) == []
        await asyncio.sleep(0.01)
    assert not waiting.done()
    holder.give_back()
    await waiting
    assert await ids(database) == ["ann"]


async def test_all_that_wait_for_a_lock_held_too_long_are_told_so_in_time(
    database: SqliteDatabase, database_url: str, holder: Holder
) -> None:
    waiting = [asyncio.create_task(write(database, f"p{number}")) for number in range(4)]
    done, _ = await asyncio.wait(waiting, timeout=7)  # five seconds are promised; two are for a busy machine
    assert len(done) == 4
    for task in waiting:
        assert isinstance(task.exception(), Unavailable)
    holder.give_back()
    await write(database, "zoe")
    assert await stored(database_url) == ["zoe"]


async def test_a_unit_cancelled_while_it_waits_for_the_lock_does_not_keep_it(
    database: SqliteDatabase, database_url: str, holder: Holder
) -> None:
    waiting = asyncio.create_task(write(database, "ann"))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.sleep(0)
    holder.give_back()
    await asyncio.wait([waiting], timeout=10)
    assert waiting.cancelled()
    await run_sql(database_url, "BEGIN IMMEDIATE")
    await write(database, "zoe")
    assert await stored(database_url) == ["zoe"]


async def test_a_unit_cancelled_twice_while_it_waits_for_the_lock_breaks_no_other(
    database: SqliteDatabase, database_url: str, holder: Holder
) -> None:
    waiting = asyncio.create_task(write(database, "ann"))
    behind = asyncio.create_task(write(database, "ben"))
    await asyncio.sleep(0.2)
    for _ in range(3):
        waiting.cancel()
        await asyncio.sleep(0)
    holder.give_back()
    await asyncio.wait([waiting, behind], timeout=10)
    assert waiting.cancelled()
    assert behind.exception() is None
    await write(database, "zoe")
    assert await stored(database_url) == ["ben", "zoe"]
    await run_sql(database_url, "BEGIN IMMEDIATE")


async def limit_pages(database: SqliteDatabase, more: int | None) -> None:
    """Let the file grow by this many pages and then be as full as a disk; None is as it was."""
    async with database.unit() as unit:
        await unit.begin()
        row = await unit.first(plain("PRAGMA page_count"))
        assert row is not None
        pages = 4294967294 if more is None else row[0] + more
        await unit.fetch(plain(f"PRAGMA max_page_count={pages}"))


async def fill(database: SqliteDatabase, name: str, size: int) -> None:
    async with database.unit() as unit:
        await add(unit, name)
        await unit.fetch(RENAME, which=name, new_name="x" * size)


async def test_a_full_disk_refuses_the_write_and_the_database_works_again_once_there_is_room(
    database: SqliteDatabase, database_url: str
) -> None:
    await write(database, "before")
    await limit_pages(database, 3)
    with pytest.raises(StorageFull):
        await fill(database, "big", 100_000)
    assert await ids(database) == ["before"]
    await limit_pages(database, None)
    await fill(database, "big", 100_000)
    assert await stored(database_url) == ["before", "big"]


async def test_no_unit_is_told_of_success_when_the_disk_fills_up_under_its_group(
    database: SqliteDatabase, database_url: str
) -> None:
    await limit_pages(database, 10)
    sizes = [10, 10, 10, 200_000, 10, 10]
    results = await asyncio.gather(
        *(fill(database, f"p{number}", size) for number, size in enumerate(sizes)), return_exceptions=True
    )
    succeeded = [f"p{number}" for number, result in enumerate(results) if result is None]
    assert isinstance(results[3], StorageFull)
    assert all(result is None or isinstance(result, (StorageFull, Unavailable)) for result in results)
    assert await stored(database_url) == succeeded
    await limit_pages(database, None)
    await write(database, "zoe")
    assert await stored(database_url) == [*succeeded, "zoe"]


async def test_a_unit_that_goes_on_after_the_disk_was_full_writes_nothing_outside_its_transaction(
    database: SqliteDatabase, database_url: str
) -> None:
    await limit_pages(database, 3)

    async def go_on() -> None:
        async with database.unit() as unit:
            await add(unit, "ann")
            with contextlib.suppress(StorageFull):
                await unit.fetch(RENAME, which="ann", new_name="x" * 100_000)
            await add(unit, "ben")

    (failure,) = await asyncio.gather(go_on(), return_exceptions=True)
    assert await stored(database_url) == ([] if failure else ["ann", "ben"])
    await limit_pages(database, None)
    await write(database, "zoe")
    assert "zoe" in await stored(database_url)


@contextlib.contextmanager
def files_stay_below(size: int) -> Iterator[None]:
    """The operating system refuses this process every write beyond so many bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_commit_that_the_disk_refuses_is_no_success_for_anybody_who_waits_for_it(
    database: SqliteDatabase, database_url: str, path: Path
) -> None:
    await fill(database, "before", 300_000)
    ran: list[str] = []

    async def write_and_tell(name: str) -> None:
        async with database.unit() as unit:
            await add(unit, name)
            unit.after_commit(lambda: ran.append(name))

    with files_stay_below(path.with_name(path.name + "-wal").stat().st_size):
        results = await asyncio.gather(*(write_and_tell(f"p{n}") for n in range(6)), return_exceptions=True)
        assert await ids(database) == ["before"]
    assert [type(result) for result in results] == [WritesRefused] * 6
    assert ran == []
    assert await stored(database_url) == ["before"]
    await asyncio.gather(*(write_and_tell(f"p{n}") for n in range(6)))
    assert len(await stored(database_url)) == 7
    assert await run_sql(database_url, "PRAGMA integrity_check") == [("ok",)]


# Each round all processes open the same new file, which each of them would switch to the write-ahead log.
OPENER = """
import sys, time
from pathlib import Path
from duly.db.sqlite import open_connection
for number in range(40):
    while time.time() < float(sys.argv[2]) + number * 0.04:
        pass
    connection = open_connection(Path(sys.argv[1]) / f"{number}.db")
    connection.execute("CREATE TABLE IF NOT EXISTS t (a)")
    connection.close()
"""


def test_processes_that_open_a_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    begin = str(time.time() + 3)
    words = [sys.executable, "-c", OPENER, str(tmp_path), begin]
    started = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[1] for process in started]
    assert said == ["", "", ""]
    assert len(list(tmp_path.glob("*.db"))) == 40
