"""Requests that come all at once do not fill one turn of the event loop, nor do their answers."""

import asyncio
import time
from collections import Counter

from duly.db.answers import AT_ONCE, tell
from duly.web.turns import LONGEST, Turns

WORK = LONGEST / 3


class Clock:
    """Counts the turns of the running loop."""

    def __init__(self) -> None:
        self.turn = 0
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self.turn += 1
        self._loop.call_soon(self._tick)


def work() -> None:
    until = time.monotonic() + WORK
    while time.monotonic() < until:
        pass


async def begin(turns: Turns, clock: Clock, begun: Counter[int]) -> None:
    loop = asyncio.get_running_loop()
    if turns.is_over(time.monotonic(), loop):
        await turns.wait(loop)
    begun[clock.turn] += 1
    work()


async def test_so_many_begin_in_a_turn_as_it_has_time_for() -> None:
    turns, clock, begun = Turns(), Clock(), Counter[int]()
    await asyncio.gather(*(begin(turns, clock, begun) for _ in range(18)))
    assert begun.total() == 18
    # The first three turns; those who waited so long go all.
    assert len(begun) >= 4
    assert [begun[turn] for turn in sorted(begun)][:3] == sorted(
        (begun[turn] for turn in sorted(begun)[:3]), reverse=True
    )
    assert max(begun[turn] for turn in sorted(begun)[:3]) <= 4


async def test_alone_each_begins_at_once() -> None:
    turns, clock, begun = Turns(), Clock(), Counter[int]()
    for _ in range(20):
        before = clock.turn
        await begin(turns, clock, begun)
        assert clock.turn == before
        await asyncio.sleep(0)


async def test_nobody_waits_for_ever_where_every_turn_is_full() -> None:
    turns, clock, loop = Turns(), Clock(), asyncio.get_running_loop()
    full = True

    def fill() -> None:
        # Somebody who came first, and a turn that has lasted too long by the time of the others.
        turns.is_over(time.monotonic() - 2 * LONGEST, loop)
        if full:
            loop.call_soon(fill)

    fill()
    await asyncio.sleep(0)
    before = clock.turn
    assert turns.is_over(time.monotonic(), loop)
    await turns.wait(loop)
    full = False
    assert 3 <= clock.turn - before <= 6


def test_a_loop_that_was_closed_in_a_turn_holds_nobody_up_in_the_next_one() -> None:
    turns = Turns()

    async def leave() -> None:
        assert not turns.is_over(time.monotonic() - 1.5, asyncio.get_running_loop())
        asyncio.get_running_loop().stop()

    loop = asyncio.new_event_loop()
    task = loop.create_task(leave())
    loop.run_forever()
    task.cancel()
    loop.close()
    other = asyncio.new_event_loop()
    assert not turns.is_over(time.monotonic(), other)
    other.close()


async def test_so_many_hear_their_answer_in_a_turn_as_it_has_time_for() -> None:
    clock, heard, loop = Clock(), Counter[int](), asyncio.get_running_loop()
    answers: list[asyncio.Future[int]] = [loop.create_future() for _ in range(5 * AT_ONCE + 1)]

    async def hear(answer: asyncio.Future[int]) -> int:
        try:
            return await answer
        finally:
            heard[clock.turn] += 1

    hearing = [asyncio.create_task(hear(answer)) for answer in answers]
    await asyncio.sleep(0)
    hearing[2].cancel()
    fault = ValueError("said to one")
    tell([(answer, fault if number == AT_ONCE else number) for number, answer in enumerate(answers)])
    found = await asyncio.gather(*hearing, return_exceptions=True)
    assert isinstance(found.pop(2), asyncio.CancelledError)
    assert found == [fault if number == AT_ONCE else number for number in range(len(answers)) if number != 2]
    assert len(heard) >= 5
    assert max(heard.values()) <= AT_ONCE
