"""The door's time limit inside one event loop: it cancels cleanly, and tells its own cancelling from another's."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from duly.errors import TimedOut
from duly.kit.logs import LineHandler
from duly.web.access_log import access_log
from duly.web.addresses import ClientAddresses
from duly.web.door import Door
from tests.serving import render

Application = Callable[[Any, Any, Any], Awaitable[None]]


def door_around(app: Application, seconds: float = 0.05) -> Door:
    return Door(
        app,
        render=render,
        max_body_bytes=1000,
        request_timeout_seconds=seconds,
        allowed_hosts=(),
        addresses=ClientAddresses(()),
        access_log=access_log(LineHandler(io.StringIO(), form="console")),
    )


async def cross(door: Door, statuses: list[int] | None = None) -> list[int]:
    """The statuses that were sent for one request, also in `statuses` when the request does not come to its end."""
    statuses = [] if statuses is None else statuses

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/", "scheme": "http", "headers": []}
    await door(scope, receive, send)
    return statuses


async def sleep(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(1)


async def sleep_and_keep_quiet(scope: Any, receive: Any, send: Any) -> None:
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        return


async def sleep_and_fail_otherwise(scope: Any, receive: Any, send: Any) -> None:
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        raise ConnectionError("the driver noticed") from None


@pytest.mark.parametrize("app", [sleep, sleep_and_keep_quiet, sleep_and_fail_otherwise])
async def test_whatever_cancelling_causes_the_answer_is_504_and_the_task_is_whole(app: Application) -> None:
    assert await cross(door_around(app)) == [TimedOut.kind.value]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    async with asyncio.timeout(1):
        await asyncio.sleep(0)


async def test_cancelling_from_outside_is_not_answered() -> None:
    door = door_around(sleep, seconds=10)
    statuses: list[int] = []
    task = asyncio.create_task(cross(door, statuses))
    await asyncio.sleep(0.02)
    assert door.in_flight == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (statuses, door.in_flight) == ([], 0)


async def test_cancelling_from_outside_wins_over_the_time_limit() -> None:
    async def cancel_twice(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(1)
        finally:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    statuses: list[int] = []
    task = asyncio.create_task(cross(door_around(cancel_twice), statuses))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert statuses == []


async def test_each_request_has_the_whole_time_for_itself() -> None:
    async def brief(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.6)
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    door = door_around(brief, seconds=1.2)
    tasks = []
    for _ in range(8):  # the first are done long before the last begin
        tasks.append(asyncio.create_task(cross(door)))
        await asyncio.sleep(0.3)
    assert await asyncio.gather(*tasks) == [[204]] * 8
