"""What is remembered, for whom, until when, and what happens when many ask at once."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from duly.cache.cache import Cache, Remembered
from duly.cache.entries import LONGEST_SECONDS, until_at_most
from duly.kit.clock import now

Compute = Callable[[], Awaitable[Remembered]]


class Source:
    """Counts how often it was asked; waits, where it is told to, until it may answer."""

    def __init__(self, *, open_: bool = True) -> None:
        self.asked = 0
        self.broken_off = 0
        self.gate = asyncio.Event()
        if open_:
            self.gate.set()

    def giving(self, value: object, until: float | None = None, position: int | None = None) -> Compute:
        async def compute() -> Remembered:
            self.asked += 1
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.broken_off += 1
                raise
            return Remembered(value, until, position)

        return compute


async def turns() -> None:
    """Let everybody go on who can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.covers("A073", "A074")
async def test_a_value_is_remembered_for_its_user_its_name_and_its_position() -> None:
    cache, source = Cache(), Source()
    for _ in range(3):
        assert await cache.remember("ann", 1, "stats", source.giving("anns")) == "anns"
    assert (source.asked, cache.hits["process"], cache.misses["process"]) == (1, 2, 1)
    assert await cache.remember("ben", 1, "stats", source.giving("bens")) == "bens"
    assert await cache.remember("ann", 1, "total", source.giving(7)) == 7
    assert await cache.remember("ann", 2, "stats", source.giving("changed")) == "changed"
    assert await cache.remember("ann", 2, "stats", source.giving("not asked")) == "changed"
    assert await cache.remember("ann", 1, "stats", source.giving("put back")) == "put back"


async def test_names_that_look_alike_when_joined_are_not_alike() -> None:
    cache, source = Cache(), Source()
    assert await cache.remember("a", 1, "b:c", source.giving(1)) == 1
    assert await cache.remember("a:b", 1, "c", source.giving(2)) == 2


async def test_a_value_holds_until_its_time_and_no_value_for_longer_than_an_hour() -> None:
    cache, source = Cache(), Source()
    moment = now().timestamp()
    await cache.remember("ann", 1, "past", source.giving(1, moment))
    assert await cache.remember("ann", 1, "past", source.giving(2, moment + 1000)) == 2
    assert await cache.remember("ann", 1, "past", source.giving(3, moment + 1000)) == 2
    for until in (None, moment + 10 * LONGEST_SECONDS):
        assert LONGEST_SECONDS <= until_at_most(until) - moment < LONGEST_SECONDS + 60
    assert until_at_most(moment + 5) == moment + 5


async def test_a_value_is_kept_where_it_was_read_rather_than_where_it_was_asked_for() -> None:
    cache, source = Cache(), Source()
    assert await cache.remember("ann", 1, "stats", source.giving("newer", position=2)) == "newer"
    assert await cache.remember("ann", 2, "stats", source.giving("not asked")) == "newer"
    assert source.asked == 1


async def test_what_took_long_does_not_displace_what_is_newer() -> None:
    cache, slow, quick = Cache(), Source(open_=False), Source()
    old = asyncio.create_task(cache.remember("ann", 1, "stats", slow.giving("old")))
    await turns()
    assert await cache.remember("ann", 2, "stats", quick.giving("new")) == "new"
    slow.gate.set()
    assert await old == "old"
    assert await cache.remember("ann", 2, "stats", quick.giving("not asked")) == "new"


async def test_those_who_ask_at_once_wait_for_one_computation() -> None:
    cache, source = Cache(), Source(open_=False)
    crowd = [asyncio.create_task(cache.remember("ann", 1, "stats", source.giving("once"))) for _ in range(50)]
    other = asyncio.create_task(cache.remember("ben", 1, "stats", source.giving("bens")))
    await turns()
    source.gate.set()
    assert await asyncio.gather(*crowd) == ["once"] * 50
    assert await other == "bens"
    assert (source.asked, cache.hits["process"], cache.misses["process"]) == (2, 49, 2)


async def test_those_who_waited_do_not_get_what_has_run_out_meanwhile() -> None:
    cache, source = Cache(), Source(open_=False)
    moment = now().timestamp()
    first = asyncio.create_task(cache.remember("ann", 1, "stats", source.giving("run out", moment)))
    second = asyncio.create_task(cache.remember("ann", 1, "stats", source.giving("anew", moment + 1000)))
    await turns()
    source.gate.set()
    assert (await first, await second) == ("run out", "anew")


async def test_the_first_who_goes_away_takes_nobodys_answer_along() -> None:
    cache, source = Cache(), Source(open_=False)
    first, second = (asyncio.create_task(cache.remember("ann", 1, "stats", source.giving("one"))) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    assert first.cancelled()
    source.gate.set()
    assert await second == "one"
    assert (source.asked, source.broken_off) == (1, 0)


async def test_what_nobody_waits_for_is_given_up_and_begun_anew_for_the_next() -> None:
    cache, source = Cache(), Source(open_=False)
    crowd = [asyncio.create_task(cache.remember("ann", 1, "stats", source.giving("lost"))) for _ in range(3)]
    await turns()
    for one in crowd:
        one.cancel()
    next_one = asyncio.create_task(cache.remember("ann", 1, "stats", source.giving("kept")))
    await turns()
    assert (source.asked, source.broken_off) == (2, 1)
    source.gate.set()
    assert await next_one == "kept"


async def test_a_fault_reaches_all_who_wait_and_is_not_remembered() -> None:
    cache, gate = Cache(), asyncio.Event()

    async def fail() -> Remembered:
        await gate.wait()
        raise LookupError("gone")

    crowd = [asyncio.create_task(cache.remember("ann", 1, "stats", fail)) for _ in range(3)]
    await turns()
    gate.set()
    found = await asyncio.gather(*crowd, return_exceptions=True)
    assert [type(one) for one in found] == [LookupError] * 3
    assert await cache.remember("ann", 1, "stats", Source().giving("well")) == "well"


async def test_memory_is_bounded_and_what_was_used_last_stays() -> None:
    cache, source = Cache(most=3), Source()
    for name in ("a", "b", "c"):
        await cache.remember("ann", 1, name, source.giving(name))
    await cache.remember("ann", 1, "a", source.giving("not asked"))
    await cache.remember("ann", 1, "d", source.giving("d"))
    assert source.asked == 4
    for name in ("a", "c", "d"):
        await cache.remember("ann", 1, name, source.giving("not asked"))
    assert source.asked == 4
    assert await cache.remember("ann", 1, "b", source.giving("again")) == "again"


async def test_closing_gives_up_what_is_being_computed() -> None:
    cache, source = Cache(), Source(open_=False)
    waiting = asyncio.create_task(cache.remember("ann", 1, "stats", source.giving("never")))
    await turns()
    await cache.close()
    assert source.broken_off == 1
    await asyncio.gather(waiting, return_exceptions=True)
