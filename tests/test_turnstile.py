"""A crowd at the door begins one by one; who has left holds up nobody, and a database that waits neither."""

import asyncio
from typing import Any

from duly.web.turnstile import EACH_TURN, Turnstile

CROWD = 50


class Rooms:
    """An application that notes who begins in which turn of the event loop, and then waits."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []
        self.turn = 0
        self.opened = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append((scope["number"], self.turn))
        await self.opened.wait()

    async def count_turns(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)


async def nothing(*_: Any) -> Any:
    raise AssertionError("nobody reads or answers here")


async def test_a_crowd_begins_in_order_and_a_few_in_each_turn_while_all_of_them_wait() -> None:
    rooms = Rooms()
    turnstile = Turnstile(rooms)
    counting = asyncio.create_task(rooms.count_turns())
    crowd = [
        asyncio.create_task(turnstile({"type": "http", "number": number}, nothing, nothing)) for number in range(CROWD)
    ]
    for _ in range(3 * CROWD):
        await asyncio.sleep(0)
    assert [number for number, _ in rooms.begun] == list(range(CROWD)), "none of them has ended"
    turns = [turn for _, turn in rooms.begun]
    assert max(turns.count(turn) for turn in turns) <= EACH_TURN
    # And as many again after a pause in which nobody came.
    late = asyncio.create_task(turnstile({"type": "websocket", "number": CROWD}, nothing, nothing))
    await asyncio.sleep(0)
    assert rooms.begun[-1][0] == CROWD
    rooms.opened.set()
    await asyncio.gather(*crowd, late)
    counting.cancel()


async def test_who_leaves_before_their_turn_holds_up_nobody() -> None:
    rooms = Rooms()
    turnstile = Turnstile(rooms)
    crowd = [
        asyncio.create_task(turnstile({"type": "http", "number": number}, nothing, nothing)) for number in range(CROWD)
    ]
    await asyncio.sleep(0)
    for one in crowd[1:-1]:
        one.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert [number for number, _ in rooms.begun] == [0, CROWD - 1]
    rooms.opened.set()
    await asyncio.gather(*crowd, return_exceptions=True)


async def test_the_servers_own_start_waits_for_nobody() -> None:
    rooms = Rooms()
    turnstile = Turnstile(rooms)
    waiting = [
        asyncio.create_task(turnstile({"type": kind, "number": number}, nothing, nothing))
        for number, kind in enumerate(["http"] * CROWD + ["lifespan"])
    ]
    await asyncio.sleep(0)
    assert CROWD in {number for number, _ in rooms.begun}
    rooms.opened.set()
    await asyncio.gather(*waiting)
