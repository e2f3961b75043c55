"""What /metrics says of the parts: database, passwords, limits, mails, audit, streams; and when one does not answer."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from sqlalchemy import update
from starlette.requests import Request

from duly.audit.tables import AuditEntry
from duly.db.statements import Statement
from duly.operations.backlog import LOOK
from duly.outbox.tables import OutboxMessage
from tests.fixtures.application import Api, StartApp
from tests.fixtures.server import free_port
from tests.proxies import Proxy
from tests.test_metrics import figures, once

postgres = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
entries = AuditEntry.__table__  # type: ignore[attr-defined]
outbox = OutboxMessage.__table__  # type: ignore[attr-defined]


async def until(api: Api, holds: Callable[[dict[str, float]], bool], seconds: float = 10) -> dict[str, float]:
    """The figures once they are as they should be."""
    deadline = time.monotonic() + seconds
    while not holds(found := await figures(api)):
        assert time.monotonic() < deadline, {name: found[name] for name in found if name.startswith("duly_")}
        await asyncio.sleep(0.05)
    return found


@pytest.mark.covers("A018")
async def test_connections_in_use_and_callers_that_wait(start_app: StartApp, dialect: str) -> None:
    api = await start_app(database_pool_size=1, database_max_overflow=1)
    database = api.app.state.services.database
    limit = 1 if dialect == "sqlite" else 2
    assert (await figures(api))["duly_database_pool_limit"] == limit
    held = [database.unit() for _ in range(limit)]
    for unit in held:
        await unit.begin()
    late = asyncio.create_task(database.unit().begin())
    await asyncio.sleep(0.1)
    found = await figures(api)
    # The relay and the audit chain may wait too; on PostgreSQL so does this very look at the database.
    assert found["duly_database_pool_connections[in_use]"] == limit
    assert found["duly_database_waiting"] >= 1
    assert found["duly_database_pool_connections[idle]"] == 0
    late.cancel()
    for unit in held:
        await unit.__aexit__(None, None, None)
    await until(
        api, lambda found: found["duly_database_waiting"] == 0 == found["duly_database_pool_connections[in_use]"]
    )


@once
async def test_passwords_that_are_hashed_and_that_wait(start_app: StartApp) -> None:
    api = await start_app()
    hasher = api.app.state.services.identity.hasher
    idle = await figures(api)
    assert (idle["duly_password_hashing_running"], idle["duly_password_hashing_waiting"]) == (0, 0)
    gate = threading.Event()
    threads = int(idle["duly_password_hashing_limit"]) - 256
    work = [asyncio.create_task(hasher.run(lambda: gate.wait(10))) for _ in range(threads + 3)]
    found = await until(api, lambda found: found["duly_password_hashing_waiting"] == 3)
    assert found["duly_password_hashing_running"] == threads
    gate.set()
    await asyncio.gather(*work)
    await until(api, lambda found: found["duly_password_hashing_running"] == 0)


async def test_mails_that_wait_and_mails_given_up(start_app: StartApp) -> None:
    api = await start_app(smtp_host="127.0.0.1", smtp_port=free_port(), smtp_from="duly@example.com")
    ann = await api.register()  # a mail to prove the address
    for _ in range(2):
        await api.client.post("/api/v1/auth/forgot-password", json={"email": ann.email})
    found = await until(api, lambda found: found["duly_outbox_messages[waiting]"] == 3)
    assert found["duly_outbox_messages[dead]"] == 0
    assert found["duly_up_database"] == 1
    await until(api, lambda found: found["duly_outbox_oldest_seconds"] > 0.5)
    async with api.app.state.services.database.unit() as unit:
        await unit.fetch(Statement(update(outbox).where(outbox.c.kind == "verify_email").values(state="dead")))
    await until(
        api,
        lambda found: (found["duly_outbox_messages[dead]"], found["duly_outbox_messages[waiting]"]) == (1, 2),
    )


async def test_audit_entries_that_are_not_in_the_chain_yet(api: Api) -> None:
    await api.register()
    await until(api, lambda found: found["duly_audit_unsealed"] == 0)
    async with api.app.state.services.database.unit() as unit:
        await unit.fetch(Statement(update(entries).values(position=None)))
    assert (await until(api, lambda found: found["duly_audit_unsealed"] > 0))["duly_audit_unsealed"] >= 1


class _Looks(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "outbox" in (text := record.getMessage()) and "audit_log" in text


@pytest.fixture
def looks() -> Iterator[_Looks]:
    handler = _Looks()
    logger = logging.getLogger("duly.sql")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.WARNING)


async def test_readings_at_once_share_one_look_at_the_database(start_app: StartApp, looks: _Looks) -> None:
    api = await start_app(log_sql=True)
    begun = time.monotonic()
    for _ in range(3):
        await asyncio.gather(*(figures(api) for _ in range(10)))
    assert 1 <= looks.count <= 1 + (time.monotonic() - begun)
    await asyncio.sleep(1.1)
    await figures(api)
    assert looks.count >= 2


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", 5432).serve() as serving:
        yield serving


@postgres
@pytest.mark.covers("A063")
async def test_a_database_that_hangs_or_is_gone_holds_up_nothing(
    start_app: StartApp, proxy: Proxy, database_url: str
) -> None:
    url = database_url.replace(":5432/", f":{proxy.port}/")
    assert url != database_url
    api = await start_app(database_url=url)
    ann = await api.register()
    assert (await figures(api))["duly_up_database"] == 1
    proxy.hang()
    await asyncio.sleep(1.1)  # what was seen before counts for a second
    times = []
    for _ in range(3):
        begun = time.monotonic()
        found = await figures(api)
        times.append(time.monotonic() - begun)
        assert found["duly_up_database"] == 0
        assert not any(name.startswith(("duly_outbox", "duly_audit")) for name in found)
        assert found["duly_http_requests_total[POST][/api/v1/auth/register][201]"] == 1
    assert min(times) < 1
    proxy.cut()
    with_fault = await ann.get("/tasks")
    assert with_fault.status_code == 503
    assert (await figures(api))["duly_database_unavailable_total"] >= 1
    proxy.resume()
    await until(api, lambda found: found["duly_up_database"] == 1 and "duly_audit_unsealed" in found, 20)


async def test_what_a_stream_was_not_handed_is_its_lag(api: Api) -> None:
    ann = await api.register()
    services = api.app.state.services
    request = Request({"type": "http", "headers": [(b"authorization", f"Bearer {ann.access_token}".encode())]})
    caller = await services.guard.authenticate(request.scope)
    async with services.streams.open(request, caller, None) as stream:
        changes = stream.batches(1)
        reading = asyncio.create_task(anext(changes))
        await asyncio.sleep(0.1)
        assert (await figures(api))["duly_feed_lag_seconds"] == 0
        await ann.add_task("One")
        await reading  # handed over, and not taken on
        await ann.add_task("Two")
        await asyncio.sleep(0.4)
        assert (await figures(api))["duly_feed_lag_seconds"] >= 0.4
        await anext(changes)
        more = asyncio.create_task(anext(changes))
        found = await until(api, lambda found: found["duly_feed_lag_seconds"] == 0)
        assert found["duly_live_streams"] == 1
        more.cancel()
        await asyncio.gather(more, return_exceptions=True)
        await changes.aclose()


async def test_signals_are_connected_where_there_are_any(start_app: StartApp, dialect: str) -> None:
    api = await start_app()
    if dialect == "sqlite":
        assert "duly_signals_connected" not in await figures(api)
    else:
        await until(api, lambda found: found["duly_signals_connected"] == 1)


@postgres
async def test_signals_that_do_not_pass_are_not_connected(start_app: StartApp, proxy: Proxy, database_url: str) -> None:
    api = await start_app(database_url=database_url.replace(":5432/", f":{proxy.port}/"))
    await until(api, lambda found: found["duly_signals_connected"] == 1)
    proxy.hang()
    proxy.cut()
    await until(api, lambda found: found["duly_signals_connected"] == 0)


@once
async def test_limits_are_shared_while_redis_counts(start_app: StartApp) -> None:
    async with Proxy("127.0.0.1", 6379).serve() as redis:
        api = await start_app(rate_limit_enabled=True, redis_url=f"redis://127.0.0.1:{redis.port}/12")
        deadline = time.monotonic() + 10
        while not (await figures(api))["duly_rate_limits_shared"]:  # the first to ask may find it slow
            assert time.monotonic() < deadline
            await api.client.get("/api/v1/tasks")
            await asyncio.sleep(0.1)
        redis.hang()
        redis.cut()
        for _ in range(3):
            await api.client.get("/api/v1/tasks")
        assert (await figures(api))["duly_rate_limits_shared"] == 0
    without = await start_app(rate_limit_enabled=True)
    assert (await figures(without))["duly_rate_limits_shared"] == 0


@postgres
async def test_the_look_is_read_from_indexes(api: Api) -> None:
    """With many finished mails and linked entries in the tables, nothing reads them."""
    database = api.app.state.services.database
    async with database.pool.take() as connection:
        await connection.execute(
            "INSERT INTO outbox (id, kind, recipient_key, state, attempts, created_at, due_at)"
            " SELECT 'x' || n, 'k', 'r', 'sent', 0, now(), now() FROM generate_series(1, 20000) n"
        )
        await connection.execute(
            "INSERT INTO audit_log (id, position, at, event, outcome, details, mac)"
            " SELECT 'x' || n, 1000 + n, now(), 'e', 'success', '{}', '' FROM generate_series(1, 20000) n"
        )
        await connection.execute("ANALYZE")
        plan = LOOK.plan(database.dialect)
        rows = await connection.fetch(f"EXPLAIN {plan.sql}", *plan.arguments({}))
        text = "\n".join(row[0] for row in rows)
        await connection.execute("DELETE FROM audit_log WHERE id LIKE 'x%'")
    assert "Seq Scan" not in text, text
