"""The power goes at any moment while Duly writes to SQLite: what was acknowledged is there, and nothing is corrupt.

`POWER_CUTS=1000` makes the long run. Duly's own layer stands above a disk that forgets what was not synced.
"""

import asyncio
import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from duly.db.sqlite import SqliteDatabase, open_connection
from duly.errors import DulyError
from tests.people import RENAME, add
from tests.power_loss import Disk, ForgetfulVFS, write_files

CUTS = int(os.environ.get("POWER_CUTS", "20"))
MOST_CUTS = 1000
WRITERS = 6
# Rounds on one file; then it begins anew, so that looking through it stays quick.
ROUNDS_OF_A_FILE = 25
NAME = "duly.db"


@dataclass
class Ledger:
    """What the writers were told."""

    acknowledged: list[str] = field(default_factory=list)
    told: int = 0
    lost: int = 0
    corrupt: list[str] = field(default_factory=list)
    unsynced: int = 0
    cuts_in_work: int = 0


@dataclass
class Machine:
    """One machine that loses its power again and again; all chance comes from the seed."""

    folder: Path
    template: Path
    chance: random.Random
    synchronous: str = "FULL"
    lies: bool = False
    ledger: Ledger = field(default_factory=Ledger)
    rounds: int = 0

    def begin(self) -> Path:
        """The folder with the files as the last cut left them, or as they are at first."""
        if self.rounds % ROUNDS_OF_A_FILE == 0:
            self.ledger.acknowledged.clear()
            place = self.folder / f"round-{self.rounds}"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            shutil.copy(self.template, place / NAME)
            return place
        return self.folder / f"round-{self.rounds}"

    async def run(self, vfs: ForgetfulVFS) -> None:
        """Write until the power goes, and look at what is left."""
        place = self.begin()
        self.rounds += 1
        disk = vfs.disk = Disk(place, self.chance, cut_at=int(2 ** self.chance.uniform(0, 10)), lies=self.lies)
        with kept_connections() as connections, contextlib.suppress(apsw.Error, DulyError):
            database = SqliteDatabase(place / NAME)
            for connection in connections:
                connection.execute(f"PRAGMA synchronous={self.synchronous}")
            try:
                await self._write(database, place)
            finally:
                if disk.left is not None:
                    disk.let_go()
                with contextlib.suppress(apsw.Error):
                    await database.close()
        self.ledger.cuts_in_work += disk.left is not None
        left = disk.cut()
        disk.let_go()
        for connection in connections:
            connection.close()
        self.ledger.unsynced += disk.unsynced
        following = self.folder / f"round-{self.rounds}"
        write_files(following, left, self.chance)
        shutil.rmtree(place)
        self._check(vfs, following)

    async def _write(self, database: SqliteDatabase, place: Path) -> None:
        # Checkpoints come often, in the midst of commits and on the side.
        database.writer.checkpoints.pages = self.chance.choice((3, 20, 100, 8000))
        writers = [self._write_one_after_another(database, writer) for writer in range(WRITERS)]
        await asyncio.gather(*writers, asyncio.to_thread(self._checkpoint, place), return_exceptions=True)

    async def _write_one_after_another(self, database: SqliteDatabase, writer: int) -> None:
        for number in range(self.chance.randrange(1, 12)):
            name = f"r{self.rounds}w{writer}n{number}"
            async with database.unit() as unit:
                await add(unit, f"{name}a")
                await unit.fetch(RENAME, which=f"{name}a", new_name="x" * self.chance.choice((1, 700, 9000)))
                await add(unit, f"{name}b")
            self.ledger.acknowledged.append(name)
            self.ledger.told += 1

    def _checkpoint(self, place: Path) -> None:
        connection = open_connection(place / NAME)
        try:
            for _ in range(self.chance.randrange(4)):
                mode = self.chance.choice(("PASSIVE", "FULL", "RESTART", "TRUNCATE"))
                connection.set_busy_timeout(20)
                connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        finally:
            connection.close()

    def _check(self, vfs: ForgetfulVFS, place: Path) -> None:
        """Look through a copy, so that the next round meets the files as the cut left them."""
        copy = self.folder / "looked-through"
        shutil.copytree(place, copy)
        vfs.disk = Disk(copy, self.chance, cut_at=1_000_000_000)
        try:
            with contextlib.closing(open_connection(copy / NAME)) as connection:
                whole = connection.execute("PRAGMA integrity_check").fetchall()
                owned = connection.execute("PRAGMA foreign_key_check").fetchall()
                found = {str(row[0]) for row in connection.execute("SELECT id FROM users")}
        except apsw.Error as error:
            whole, owned, found = [(str(error),)], [], set()
        shutil.rmtree(copy)
        halves = [name for name in found if f"{name[:-1]}{'ab'[name[-1] == 'a']}" not in found]
        if whole != [("ok",)] or owned or halves:
            self.ledger.corrupt.append(f"round {self.rounds}: {whole} {owned} {halves}")
        lost = [name for name in self.ledger.acknowledged if f"{name}a" not in found or f"{name}b" not in found]
        self.ledger.lost += len(lost)
        self.ledger.acknowledged = [name for name in self.ledger.acknowledged if name not in set(lost)]


@contextlib.contextmanager
def kept_connections() -> Iterator[list[apsw.Connection]]:
    """The connections that are opened meanwhile."""
    kept: list[apsw.Connection] = []
    apsw.connection_hooks.append(kept.append)
    try:
        yield kept
    finally:
        apsw.connection_hooks.remove(kept.append)


async def lose_power(
    folder: Path, template: Path, rounds: int, *, until: Callable[[Ledger], bool] = lambda _: True,
    **options: str | bool,
) -> Ledger:  # fmt: skip
    """So many power cuts on one machine, and as many more as it takes until something has been seen."""
    seed = int(os.environ.get("POWER_SEED", "1"))
    machine = Machine(folder, template, random.Random(seed), **options)  # type: ignore[arg-type]  # noqa: S311
    vfs = ForgetfulVFS(Disk(folder, machine.chance, cut_at=1_000_000_000))
    try:
        while machine.rounds < rounds or not (machine.rounds >= MOST_CUTS or until(machine.ledger)):
            await machine.run(vfs)
    finally:
        vfs.unregister()
    said = machine.ledger
    print(f"\n{machine.rounds} cuts, {said.cuts_in_work} while it wrote; {said.told} acknowledged, {said.lost} lost, "  # noqa: T201
          f"{len(said.corrupt)} corrupt; {said.unsynced} writes were not synced")  # fmt: skip
    return said


async def test_nothing_acknowledged_is_lost_and_nothing_is_corrupt(tmp_path: Path, sqlite_template: Path) -> None:
    said = await lose_power(tmp_path, sqlite_template, CUTS)
    assert (said.lost, said.corrupt) == (0, [])
    # It showed something only if there was something to lose, and power to cut.
    assert said.told > CUTS
    assert said.cuts_in_work > CUTS / 2
    assert said.unsynced > CUTS


async def test_the_same_cuts_show_what_a_weaker_setting_loses(tmp_path: Path, sqlite_template: Path) -> None:
    said = await lose_power(tmp_path, sqlite_template, CUTS, synchronous="NORMAL", until=lambda seen: seen.lost > 0)
    assert said.lost > 0
    assert said.corrupt == []


async def test_the_same_cuts_show_what_a_disk_corrupts_that_lies_about_syncs(
    tmp_path: Path, sqlite_template: Path
) -> None:
    said = await lose_power(tmp_path, sqlite_template, CUTS, lies=True, until=lambda seen: seen.corrupt != [])
    assert said.corrupt != []
