"""What one live stream hands over at a time: changes that come together, and a sign of life where nothing comes."""

import contextlib
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request

from duly.contracts.v1 import live
from duly.web.streams import Stream
from tests.fixtures.application import Api, Person


@contextlib.asynccontextmanager
async def stream_of(api: Api, person: Person) -> AsyncIterator[Stream]:
    services = api.app.state.services
    request = Request({"type": "http", "headers": [(b"authorization", f"Bearer {person.access_token}".encode())]})
    caller = await services.guard.authenticate(request.scope)
    async with services.streams.open(request, caller, None) as stream:
        yield stream


@pytest.mark.covers("A139")
async def test_changes_that_come_together_are_handed_over_together_in_order(api: Api) -> None:
    ann = await api.register()
    async with stream_of(api, ann) as stream, contextlib.aclosing(stream.batches(live.MOST_EVENTS)) as batches:
        operations = [{"op": "create", "task": {"title": f"{number}"}} for number in range(live.MOST_EVENTS * 2 + 5)]
        assert (await ann.post("/tasks/bulk", json={"operations": operations})).status_code == 200
        found = [await anext(batches) for _ in range(3)]
    assert [len(batch) for batch in found] == [live.MOST_EVENTS, live.MOST_EVENTS, 5]
    listed = (await ann.get("/changes", params={"limit": 100})).json()["items"]
    assert [change.cursor for batch in found for change in batch] == [item["cursor"] for item in listed]


async def test_a_stream_with_nothing_to_say_gives_signs_of_life_and_then_its_news(api: Api) -> None:
    ann = await api.register()
    async with stream_of(api, ann) as stream, contextlib.aclosing(stream.batches(1)) as batches:
        stream.beat_seconds = 0.1
        assert [await anext(batches) for _ in range(3)] == [(), (), ()]
        position = stream.follower.position
        await ann.add_task("One")
        batch = await anext(batches)
        while not batch:
            batch = await anext(batches)
        assert [change.type for change in batch] == ["task.created"]
        assert stream.follower.position == position  # until somebody asks for what comes after it
        await ann.add_task("Two")
        batch = await anext(batches)
        while not batch:
            batch = await anext(batches)
        assert stream.follower.position == position + 1


async def test_a_websocket_has_no_empty_batches(api: Api) -> None:
    ann = await api.register()
    async with stream_of(api, ann) as stream:
        stream.beat(stream.proven_at + 1_000)
        assert not stream.follower.woken.is_set()
