"""Copies a database into an empty one, of the same kind or the other, and proves that both hold the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from duly.db import migrate
from duly.db.digests import RowDigest
from duly.db.loads import Load, look_at, open_load
from duly.db.shapes import CarryFault
from duly.db.snapshots import Snapshot, open_snapshot
from duly.db.url import DatabaseAddress
from duly.kit.clock import now


class Watcher(Protocol):
    """Is told how far a copy is."""

    def begin(self, step: str, table: str, total: int) -> None:
        """A table of so many rows begins, in the step `copy` or `check`."""
        ...

    def advance(self, rows: int) -> None:
        """So many more rows are done."""
        ...


@dataclass(frozen=True, slots=True)
class Proof:
    """What one table was found to hold: on the way out of the source, and when the copy was read again."""

    table: str
    rows: int
    digest: str
    rows_there: int
    digest_there: str

    @property
    def is_equal(self) -> bool:
        """Whether both hold the same rows."""
        return (self.rows, self.digest) == (self.rows_there, self.digest_there)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy that was made: the state of the source at `moment`."""

    moment: datetime
    proofs: tuple[Proof, ...]

    @property
    def is_equal(self) -> bool:
        """Whether every table holds the same."""
        return all(proof.is_equal for proof in self.proofs)


async def copy_database(source: DatabaseAddress, target: DatabaseAddress, watcher: Watcher) -> Copy:
    """Copy what was committed when this began; others may go on writing to the source.

    All of it arrives in one transaction or nothing does. Raises `CarryFault`: nothing was changed then, except that
    the target may have been given its schema.
    """
    async with open_snapshot(source) as snapshot:
        moment = now()
        await _prepare(snapshot, source, target)
        async with open_load(target) as load:
            if not await load.is_empty():
                raise _not_empty(target)
            taken = await _carry(snapshot, load, watcher)
            await load.finish()
    found = await _read_again(target, watcher)
    return Copy(moment, tuple(_compare(taken, found)))


async def _prepare(snapshot: Snapshot, source: DatabaseAddress, target: DatabaseAddress) -> None:
    """Only an empty database is given the schema."""
    standing = await look_at(target)
    if standing.place == snapshot.place:
        raise CarryFault(f"{target.safe_text} is the database that {source.safe_text} names; give another one")
    if not standing.is_empty:
        raise _not_empty(target)
    try:
        await migrate.upgrade(target)
    except migrate.FAULTS as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0] or type(error).__name__
        raise CarryFault(f"{target.safe_text} could not be given the schema ({reason}); give a new database") from error


def _not_empty(target: DatabaseAddress) -> CarryFault:
    return CarryFault(f"{target.safe_text} is not empty and was left as it is; give a new database")


async def _carry(snapshot: Snapshot, load: Load, watcher: Watcher) -> dict[str, RowDigest]:
    digests = {}
    for shape in snapshot.tables:
        digest = digests[shape.name] = RowDigest()
        watcher.begin("copy", shape.name, await snapshot.count(shape.name))
        async for rows in snapshot.rows(shape.name):
            digest.add(rows)
            await load.add(shape.name, shape.columns, rows)
            watcher.advance(len(rows))
    return digests


async def _read_again(target: DatabaseAddress, watcher: Watcher) -> dict[str, RowDigest]:
    digests = {}
    async with open_snapshot(target) as snapshot:
        for shape in snapshot.tables:
            digest = digests[shape.name] = RowDigest()
            watcher.begin("check", shape.name, await snapshot.count(shape.name))
            async for rows in snapshot.rows(shape.name):
                digest.add(rows)
                watcher.advance(len(rows))
    return digests


def _compare(taken: dict[str, RowDigest], found: dict[str, RowDigest]) -> Sequence[Proof]:
    return [
        Proof(table, here.rows, here.hexdigest(), found[table].rows, found[table].hexdigest())
        for table, here in taken.items()
    ]
