"""PostgreSQL restarted, hung, locked or exhausted: answers in bounded time, and nothing to restart afterwards."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest

from duly.db.conflicts import TransactionAborted
from duly.db.database import open_database
from duly.db.unit import Database
from duly.errors import Unavailable
from duly.settings import Settings
from tests.fixtures.application import Person, StartApp
from tests.people import COUNT_UP, add, ids, stored
from tests.proxies import Proxy
from tests.schemas import address_of, run_sql

# Five seconds are promised; the rest is for a busy machine.
PROMISED_SECONDS = 7
TERMINATE = """
    SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def dialect() -> str:
    return "postgresql"


def while_the_loop_stands(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it in another thread and wait, so that this loop notices nothing of what it does to its connections."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(work)))
    thread.start()
    thread.join(20)
    return results[0]


async def write(database: Database, *names: str) -> None:
    async with database.unit() as unit:
        await add(unit, *names)


async def write_single(database: Database, name: str) -> None:
    async with database.single() as unit:
        await add(unit, name)


async def open_connections(database: Database, count: int) -> None:
    """Leave so many idle connections in the pool."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            unit = await stack.enter_async_context(database.unit())
            await unit.begin()


async def test_reads_and_writes_go_on_after_the_server_ended_every_connection(
    database: Database, database_url: str
) -> None:
    await open_connections(database, 5)
    assert while_the_loop_stands(run_sql(database_url, TERMINATE)) == [(5,)]
    assert await ids(database) == []
    await open_connections(database, 5)
    assert while_the_loop_stands(run_sql(database_url, TERMINATE))[0][0] >= 5
    await write(database, "ann")
    await open_connections(database, 5)
    while_the_loop_stands(run_sql(database_url, TERMINATE))
    await database.ping()
    assert await run_sql(database_url, TERMINATE)
    await write_single(database, "ben")
    assert await stored(database_url) == ["ann", "ben"]


async def test_a_commit_on_a_connection_that_broke_is_no_success(database: Database, database_url: str) -> None:
    ran: list[str] = []

    async def write_and_lose() -> None:
        async with database.unit() as unit:
            await add(unit, "ann")
            unit.after_commit(lambda: ran.append("ann"))
            await run_sql(database_url, TERMINATE)

    with pytest.raises(Unavailable):
        await write_and_lose()
    assert (ran, await stored(database_url)) == ([], [])
    await write(database, "ann")
    assert await stored(database_url) == ["ann"]


async def test_a_server_that_cannot_be_reached_is_unavailable_at_once(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, database_url="postgresql://127.0.0.1:1/nowhere", data_dir=tmp_path)
    with pytest.raises(Unavailable):
        await open_database(settings)


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    address = address_of(database_url)
    async with Proxy(address.hosts[0], address.ports[0]).serve() as serving:
        yield serving


@pytest.fixture
def proxied_url(proxy: Proxy, database_url: str) -> str:
    parts = urlsplit(database_url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}", query="sslmode=disable"))


async def statuses(*requests: Any) -> list[int]:
    """Answers that all come within the promised time."""
    async with asyncio.timeout(PROMISED_SECONDS):
        responses: list[httpx.Response] = await asyncio.gather(*requests)
    for response in responses:
        if response.status_code == 503:
            assert int(response.headers["Retry-After"]) > 0
    return [response.status_code for response in responses]


async def test_a_hung_server_is_answered_503_in_time_and_is_used_again_when_it_wakes(
    proxied_url: str, proxy: Proxy, start_app: StartApp
) -> None:
    api = await start_app(database_url=proxied_url)
    ann = await api.register()
    task = await ann.add_task("Milk")
    proxy.hang()
    found = await statuses(
        ann.get("/tasks"),
        ann.post("/tasks", json={"title": "Bread"}),
        ann.post("/tasks", json={"title": "Eggs"}, headers={"Idempotency-Key": "eggs"}),
        ann.patch(f"/tasks/{task['id']}", json={"title": "Oats"}),
        *(ann.get(f"/tasks/{task['id']}") for _ in range(20)),
    )
    assert set(found) == {503}
    proxy.resume()
    async with asyncio.timeout(PROMISED_SECONDS):
        assert (await ann.get(f"/tasks/{task['id']}")).json()["title"] in {"Milk", "Oats"}
        await ann.add_task("Butter")
    assert (await api.client.get("/health/live")).status_code == 200


async def test_connections_that_break_under_requests_are_replaced(
    proxied_url: str, proxy: Proxy, start_app: StartApp
) -> None:
    api = await start_app(database_url=proxied_url)
    ann = await api.register()
    await asyncio.gather(*(ann.get("/tasks") for _ in range(8)))
    for _ in range(3):
        proxy.cut()
        await asyncio.sleep(0)
        assert (await ann.get("/tasks")).status_code == 200
    proxy.cut()
    await asyncio.sleep(0.05)
    await ann.add_task("Milk")
    assert (await ann.get("/tasks")).json()["total"] == 1


async def test_a_pool_without_a_free_connection_is_answered_503_in_time(start_app: StartApp) -> None:
    api = await start_app(database_pool_size=1, database_max_overflow=1)
    ann = await api.register()
    database: Database = api.app.state.services.database
    async with database.unit() as one, database.unit() as other:
        await one.begin()
        await other.begin()
        found = await statuses(ann.get("/tasks"), ann.post("/tasks", json={"title": "Bread"}), ann.get("/tasks"))
        assert found == [503, 503, 503]
    assert (await ann.get("/tasks")).json()["total"] == 0
    await ann.add_task("Milk")


@pytest.mark.covers("A017", "A018", "A097", "C027", "C029", "E010")
async def test_requests_beyond_the_pool_wait_for_their_turn(start_app: StartApp) -> None:
    # Live updates listen on a connection of their own.
    api = await start_app(database_pool_size=1, database_max_overflow=1, live_enabled=False)
    ann = await api.register()
    await asyncio.gather(*(ann.add_task(f"Task {number}") for number in range(40)))
    assert (await ann.get("/tasks")).json()["total"] == 40
    rows = await run_sql(
        str(api.settings.database_url), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    )
    assert rows[0][0] <= 3


@contextlib.asynccontextmanager
async def locked(url: str, table: str) -> AsyncIterator[None]:
    """While this is open, nobody else can use the table."""
    rival = await asyncpg.connect(url)
    try:
        async with rival.transaction():
            await rival.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await rival.close()


async def until_waiting(url: str, count: int) -> None:
    """Until so many statements wait for a lock; fails when that takes long."""
    for _ in range(500):
        if await run_sql(url, WAITING) == [(count,)]:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"there are not {count} that wait")


async def test_a_locked_table_is_answered_503_in_time_and_nothing_goes_on_waiting_for_it(
    ann: Person, database_url: str
) -> None:
    async with locked(database_url, "tasks"):
        found = await statuses(
            ann.get("/tasks"),
            ann.post("/tasks", json={"title": "Bread"}),
            ann.post("/tasks", json={"title": "Eggs"}, headers={"Idempotency-Key": "eggs"}),
        )
        assert found == [503, 503, 503]
        await until_waiting(database_url, 0)
    assert (await ann.get("/tasks")).json()["total"] == 0
    await ann.add_task("Milk")


async def test_what_a_cancelled_task_asked_the_server_for_is_stopped(database: Database, database_url: str) -> None:
    async with locked(database_url, "users"):
        tasks = [asyncio.create_task(work) for work in (ids(database), write(database, "ann"))]
        await until_waiting(database_url, 2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=10)
        assert [task.cancelled() for task in tasks] == [True, True]
        await until_waiting(database_url, 0)
    assert await ids(database) == []
    await write(database, "ann")


class Rival:
    """Another program's transaction. It never is the victim of a deadlock: it does not look for one in time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def take(self, table: str, key: str, value: str) -> None:
        """Lock one row, or wait for it."""
        async with asyncio.timeout(20):
            await self._connection.fetch(f"SELECT 1 FROM {table} WHERE {key} = $1 FOR UPDATE", value)


@contextlib.asynccontextmanager
async def rivalling(url: str) -> AsyncIterator[Rival]:
    connection = await asyncpg.connect(url)
    await connection.execute("SET deadlock_timeout = '1min'")
    try:
        async with connection.transaction():
            yield Rival(connection)
    finally:
        await connection.close()


# PostgreSQL looks for a deadlock once, a second after a wait began: whoever is to find it must be the last to wait.


async def test_the_victim_of_a_deadlock_is_rolled_back_and_told(database: Database, database_url: str) -> None:
    await write(database, "ann", "ben")
    has_ann, may_go_on = asyncio.Event(), asyncio.Event()

    async def ann_then_ben() -> None:
        async with database.unit() as unit:
            await unit.fetch(COUNT_UP, which="ann")
            has_ann.set()
            await may_go_on.wait()
            await unit.fetch(COUNT_UP, which="ben")

    async with rivalling(database_url) as rival:
        await rival.take("users", "id", "ben")
        victim = asyncio.create_task(ann_then_ben())
        await has_ann.wait()
        waiting = asyncio.create_task(rival.take("users", "id", "ann"))
        await until_waiting(database_url, 1)
        may_go_on.set()
        await asyncio.wait([victim], timeout=10)
        assert isinstance(victim.exception(), TransactionAborted)
        await waiting
    assert await run_sql(database_url, "SELECT version FROM users") == [(1,), (1,)]
    await ann_then_ben()
    assert await run_sql(database_url, "SELECT version FROM users") == [(2,), (2,)]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "once"}], ids=["lane", "framework"])
@pytest.mark.covers("A086")
async def test_a_request_whose_transaction_was_the_victim_is_run_again_and_the_client_sees_success(
    ann: Person, database_url: str, headers: dict[str, str]
) -> None:
    task = await ann.add_task("Milk")
    async with rivalling(database_url) as rival:
        await rival.take("task_counters", "user_id", ann.user_id)
        async with rivalling(database_url) as first:
            await first.take("tasks", "id", task["id"])
            change = {"title": "Oats", "completed": True}
            request = asyncio.create_task(ann.patch(f"/tasks/{task['id']}", json=change, headers=headers))
            await until_waiting(database_url, 1)
            waiting = asyncio.create_task(rival.take("tasks", "id", task["id"]))
            await until_waiting(database_url, 2)
        # The request was the first in the line for the task; it goes on to the counters, which the rival has.
        await waiting
        assert not request.done()
    response = await request
    assert response.status_code == 200, response.text
    assert (response.json()["title"], response.json()["version"]) == ("Oats", 2)
    feed = (await ann.get("/changes")).json()
    assert [change["type"] for change in feed["items"]] == ["task.created", "task.completed"]
