"""Keeping the words of tasks in step with the change feed: not when a task is written, but before a search is read."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from duly.db.conflicts import ForeignKeyViolation, TransactionAborted
from duly.db.statements import Row
from duly.db.unit import Database, Reader
from duly.tasks import search_queries
from duly.tasks.words import index_words, owner_mark

# A transaction's worth: SQLite's writer works on the event loop, and nobody shall wait for it longer than for a few
# other writes.
MOST_CHANGES = 250
MOST_CHARACTERS = 100_000
_STRETCH = 0.005
# Lost races in a row after which something else must be wrong.
_PATIENCE = 100
# Changes that a search reads without anybody noticing, so that the upkeep leaves them to it.
UNNOTICED = 1000
_ACCOUNTS = 50
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class State:
    """How many tasks a user has outside the trash, where the feed is, and up to where the words are indexed."""

    pending: int
    completed: int
    position: int
    indexed: int


async def find_state(reader: Reader, user_id: str) -> State:
    """All zero for somebody who is gone."""
    row = await reader.first(search_queries.FIND_STATE, user_id=user_id)
    return State(*row) if row else State(0, 0, 0, 0)


async def catch_up(database: Database, user_id: str, state: State, *, pause: float = 0.0) -> bool:
    """Index what changed up to `state.position`, so that a search that follows sees all of it.

    False when changes are missing that an operator removed: then the index may lack a task.

    Any number may do it at once: each step is one transaction, and one of them takes it. Other steps are read and
    folded meanwhile, outside of any transaction; no row that a writer of tasks needs is held.
    """
    wanted = state.position
    lost = 0
    while state.indexed < wanted:
        rows = await database.fetch(
            search_queries.FIND_CHANGED, user_id=user_id, behind=state.indexed, limit=MOST_CHANGES
        )
        if not rows:
            return False
        position, stored = await _fold_changes(user_id, rows)
        moved = await _store(database, user_id, state.indexed, position, stored)
        lost = 0 if moved else lost + 1
        if lost > _PATIENCE:
            raise TransactionAborted
        if moved:
            state = State(state.pending, state.completed, wanted, position)
            await asyncio.sleep(pause)
        else:
            state = await find_state(database, user_id)
    return True


async def has_every_key(reader: Reader, user_id: str) -> bool:
    """Whether each of the tasks that are indexed has its place in the kept orders."""
    return await reader.first(search_queries.FIND_UNKEYED, user_id=user_id) is None


async def catch_up_all(database: Database) -> None:
    """Index the accounts that are far behind, slowly, so that nobody's first search has to."""
    stuck: set[str] = set()
    while rows := await database.fetch(search_queries.FIND_BEHIND, distance=UNNOTICED, limit=_ACCOUNTS + len(stuck)):
        behind = [user_id for (user_id,) in rows if user_id not in stuck]
        if not behind:
            return
        for user_id in behind:
            state = await find_state(database, user_id)
            if not await catch_up(database, user_id, state, pause=_PAUSE):
                stuck.add(user_id)


async def find_without_storing(
    reader: Reader, user_id: str, state: State, words: Sequence[str], literals: Sequence[str]
) -> list[str]:
    """The ids of the tasks that have all this, for a database that takes no writes and so cannot be caught up.

    The index says it of the tasks that it knows; the changes behind it are read page by page, as `catch_up` does, and
    of each task only the id and the verdict are kept.
    """
    verdicts: dict[str, bool] = {}
    position = state.indexed
    while position < state.position:
        rows = await reader.fetch(search_queries.FIND_CHANGED, user_id=user_id, behind=position, limit=MOST_CHANGES)
        if not rows:
            break
        position, stored = await _fold_changes(user_id, rows)
        for task_id, folded, found in stored:
            verdicts[task_id] = all(f" {word}" in found for word in words) and all(text in folded for text in literals)
    known = search_queries.FIND_INDEXED_LITERALLY if literals else search_queries.FIND_INDEXED
    rows = await reader.fetch(known, user_id=user_id, words=words, literals=literals)
    indexed = [task_id for (task_id,) in rows if task_id not in verdicts]
    return indexed + [task_id for task_id, found in verdicts.items() if found]


async def _fold_changes(user_id: str, rows: Sequence[Row]) -> tuple[int, list[tuple[str, str, str]]]:
    """As many of the changes as make up a transaction: the last one's position, and the words of their tasks."""
    mark = owner_mark(user_id)
    found: dict[str, tuple[str, str, str]] = {}
    position, volume = 0, 0
    begun = time.perf_counter()
    for row in rows:
        position, kind, task_id, document = row
        task = orjson.loads(document)
        # The changes of a task that was purged are empty.
        if task is not None:
            folded, words = index_words(mark, task, trashed=kind == "task.deleted")
            found[task_id] = (task_id, folded, words)
            volume += len(words)
        if volume > MOST_CHARACTERS:
            break
        if time.perf_counter() - begun > _STRETCH:
            await asyncio.sleep(0)
            begun = time.perf_counter()
    return position, list(found.values())


async def _store(
    database: Database, user_id: str, behind: int, position: int, stored: list[tuple[str, str, str]]
) -> bool:
    """Whether this was ours to do."""
    values = {"user_id": user_id, "position": position, "behind": behind}
    try:
        async with database.unit() as unit:
            claim = search_queries.MOVE_PLACE if behind else search_queries.START_PLACE
            if await unit.first(claim, **values) is None:
                return False
            await unit.fetch(search_queries.STORE_WORDS, user_id=user_id, rows=stored)
    except (ForeignKeyViolation, TransactionAborted):
        # A task, or the user, was deleted this very moment.
        return False
    return True
