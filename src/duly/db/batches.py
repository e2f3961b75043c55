"""Runs what waits for the same statement as one: fewer round trips and commits, and nothing is answered earlier.

While one batch is on its way, the next one gathers. Alone, a request goes at once. A batch that fails, because one of
its rows does, is run again row by row, so that nobody suffers for a neighbour.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from duly.db.answers import tell
from duly.db.slow import sharers
from duly.db.statements import Row, Statement
from duly.errors import DulyError
from duly.kit.logs import request_id_var

log = logging.getLogger(__name__)

MOST_ROWS = 64

Run = Callable[[Statement, Mapping[str, Any], float], Awaitable[Sequence[Row]]]
"""Runs a statement for those of whom the first came at this time of `monotonic`."""
Ready = Callable[[float], contextlib.AbstractAsyncContextManager[None]]
"""Held while a batch runs, for the first that waits since then; the batch is put together once it is there."""
Pack = Callable[[list[dict[str, Any]]], Mapping[str, Any]]
"""The values of a statement for many rows from those of each; without one, a list for each name."""
_Waiting = tuple[dict[str, Any], "asyncio.Future[Row | None]", str, float]


def _columns(rows: list[dict[str, Any]]) -> Mapping[str, Any]:
    return {name: [row[name] for row in rows] for name in rows[0]}


class Batches:
    """The requests that wait for one statement. At most `limit` batches are on their way at a time."""

    __slots__ = ("_due", "_gathered", "_limit", "_pack", "_ready", "_run", "_running", "_statement")

    def __init__(
        self, statement: Statement, run: Run, limit: int, *, ready: Ready | None = None, pack: Pack | None = None
    ) -> None:
        self._statement = statement
        self._run = run
        self._limit = limit
        self._ready = ready
        self._pack = pack or _columns
        self._gathered: list[_Waiting] = []
        self._running = 0
        self._due: asyncio.Task[None] | None = None

    async def first(self, values: dict[str, Any]) -> Row | None:
        """The first row for these values, or None. Raises whatever the statement alone would raise."""
        answer: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        self._gathered.append((values, answer, request_id_var.get(), monotonic()))
        if self._due is None and self._running < self._limit:
            # It begins in the next turn of the loop, and takes what this turn has gathered.
            self._due = asyncio.create_task(self._serve())
        return await answer

    async def _serve(self) -> None:
        running, self._due = self._due, None
        self._running += 1
        try:
            while self._gathered:
                if self._ready is None:
                    await self._answer(self._take())
                else:
                    await self._answer_when_ready(self._ready)
        finally:
            self._running -= 1
            del running  # held until here: the loop keeps only weak references to tasks

    def _take(self) -> list[_Waiting]:
        batch, self._gathered = self._gathered[:MOST_ROWS], self._gathered[MOST_ROWS:]
        return batch

    async def _answer_when_ready(self, ready: Ready) -> None:
        try:
            async with ready(self._gathered[0][3]):
                # Whoever gave up meanwhile is left out.
                batch = [waiting for waiting in self._take() if not waiting[1].done()]
                if batch:
                    await self._answer(batch)
        except Exception as error:  # noqa: BLE001 - nothing was begun, and whoever waits hears why
            for _, answer, _, _ in self._take():
                if not answer.done():
                    answer.set_exception(error)

    async def _answer(self, batch: list[_Waiting]) -> None:
        if len(batch) == 1:
            await self._answer_alone(batch[0])
            return
        # What is logged here is of all of them, and the task is none of theirs.
        request_id_var.set(batch[0][2])
        sharers.set([request_id for _, _, request_id, _ in batch])
        many = self._statement.many
        assert many is not None  # noqa: S101 - only such statements come here
        try:
            rows = await self._run(many, self._pack([waiting[0] for waiting in batch]), batch[0][3])
        except DulyError as error:
            # The database itself does not serve, or gave the transaction up: alone each would only wait to hear it.
            tell([(answer, error) for _, answer, _, _ in batch])
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, each row alone says it again or succeeds
            log.info("A batch of %s is run row by row: %s", len(batch), type(error).__name__)
            for waiting in batch:
                await self._answer_alone(waiting)
            return
        names = self._statement.many_key
        width = len(names)
        found = {tuple(row[:width]): row[width:] for row in rows}
        tell([(answer, found.get(tuple(values[name] for name in names))) for values, answer, _, _ in batch])

    async def _answer_alone(self, waiting: _Waiting) -> None:
        values, answer, request_id, since = waiting
        if request_id_var.get() != request_id:
            request_id_var.set(request_id)
        if sharers.get():
            sharers.set(())
        try:
            rows = await self._run(self._statement, values, since)
        except Exception as error:  # noqa: BLE001 - it belongs to the request that waits
            if not answer.done():
                answer.set_exception(error)
            return
        if not answer.done():
            answer.set_result(rows[0] if rows else None)
