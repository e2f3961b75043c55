"""Statements that take long are in the log, with their request and without their values."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.application import PASSWORD, StartApp
from tests.fixtures.server import Server, StartServer, free_port
from tests.second_connection import second_connection

UUID4 = "5a3f8a52-1111-4c1e-9d5e-0123456789ab"
postgres = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)


def lines(server: Server, event: str | None = "slow_statement") -> list[dict[str, Any]]:
    """The lines of the log in JSON that are about this event; None: all of them."""
    found = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    return [line for line in found if event is None or line.get("event") == event]


async def counted(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "duly_slow_statements_total"
    )


async def talk(server: Server) -> tuple[float, str]:
    """Register and write a task under a known request id; the count of slow statements, and the person's id."""
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20) as client:
        body = {"email": "ann.slow@example.com", "password": PASSWORD}
        answer = await client.post("/api/v1/auth/register", json=body)
        assert answer.status_code == 201, answer.text
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}", "X-Request-ID": UUID4}
        made = await client.post("/api/v1/tasks", json={"title": "Not to be logged"}, headers=headers)
        assert made.headers["x-request-id"] == UUID4
        await client.get(f"/api/v1/tasks/{made.json()['id']}", headers=headers)
        return await counted(client), answer.json()["user"]["id"]


@pytest.mark.covers("C111", "D053")
async def test_a_slow_statement_is_named_with_its_request_and_without_values(
    start_server: StartServer, database_url: str
) -> None:
    server = start_server(database_url=database_url, slow_statement_seconds="0.0000001", log_format="json")
    count, user_id = await talk(server)
    server.stop()
    found = lines(server)
    assert 0 < count <= len(found)
    of_request = [line for line in found if line["request_id"] == UUID4]
    texts = " ".join(line["statement"] for line in of_request)
    assert "INSERT INTO tasks" in texts
    assert "SELECT" in texts
    for line in found:
        assert line["level"] == "WARNING"
        assert line["seconds"] >= 0
        assert line["waited_seconds"] >= 0
        assert line["rows"] is None or line["rows"] >= 0
        assert len(line["statement"]) <= 501
        for value in ("Not to be logged", "ann.slow", user_id):
            assert value not in line["statement"] + line["message"]


async def test_quick_statements_are_not_named(start_server: StartServer, database_url: str) -> None:
    for seconds in ("30", "0"):
        server = start_server(database_url=database_url, slow_statement_seconds=seconds, log_format="json")
        async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20) as client:
            assert await counted(client) == 0
        server.stop()
        assert lines(server) == []


async def test_waiting_is_a_figure_of_its_own(
    start_app: StartApp, dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    """For a connection of the pool, or for the turn of SQLite's writer."""
    api = await start_app(database_pool_size=1, database_max_overflow=0, slow_statement_seconds=0.2)
    database = api.app.state.services.database
    holder = database.unit()
    await holder.begin()

    async def begin_and_end() -> None:
        # In one task: on SQLite both share a commit, for which the holder waits until this one has ended too.
        async with database.unit() as late:
            await late.begin()

    waiting = asyncio.create_task(begin_and_end())
    await asyncio.sleep(0.4)
    caplog.clear()
    await holder.__aexit__(None, None, None)
    await waiting
    fields = [record.fields for record in caplog.records if getattr(record, "fields", {}).get("statement")]
    begins = [field for field in fields if str(field["statement"]).startswith("BEGIN")]
    assert any(field["waited_seconds"] >= 0.2 > field["seconds"] for field in begins), fields


@postgres
async def test_a_statement_that_is_given_up_is_named_too(
    start_app: StartApp, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    api = await start_app(slow_statement_seconds=0.5)
    ann = await api.register()
    async with second_connection(database_url) as other:
        await other.run("BEGIN")
        await other.run("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        refused = await ann.post("/tasks", json={"title": "Waits"}, headers={"X-Request-ID": UUID4})
        await other.run("ROLLBACK")
    assert refused.status_code == 503
    failed = [record for record in caplog.records if getattr(record, "fields", {}).get("event") == "slow_statement"]
    found = [record for record in failed if "INSERT INTO tasks" in record.getMessage()]
    assert found
    assert found[0].fields["rows"] is None  # type: ignore[attr-defined]
    assert found[0].fields["seconds"] > 3  # type: ignore[attr-defined]


@postgres
async def test_requests_that_share_a_statement_are_all_named(
    start_app: StartApp, caplog: pytest.LogCaptureFixture
) -> None:
    api = await start_app(slow_statement_seconds=0.0000001)
    ann = await api.register()
    task = await ann.add_task()
    caplog.clear()
    ids = [f"5a3f8a52-1111-4c1e-9d5e-{number:012d}" for number in range(20)]
    await asyncio.gather(*(ann.get(f"/tasks/{task['id']}", headers={"X-Request-ID": name}) for name in ids))
    named: set[str] = set()
    for record in caplog.records:
        fields = getattr(record, "fields", {})
        named |= set(fields.get("request_ids", ()))
    assert len(named & set(ids)) > 1


@postgres
async def test_operators_see_who_is_connected(start_app: StartApp, database_url: str) -> None:
    await start_app()
    async with second_connection(database_url) as other:
        names = await other.run(
            "SELECT DISTINCT application_name FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert names == [("duly",)]


@pytest.mark.covers("D053", "D058")
async def test_what_the_relay_logs_of_a_mail_bears_the_id_of_who_asked_for_it(
    start_server: StartServer, database_url: str
) -> None:
    server = start_server(
        database_url=database_url, log_format="json", smtp_host="127.0.0.1", smtp_port=free_port(),
        smtp_from="duly@example.com",
    )  # fmt: skip
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=20) as client:
        body = {"email": "ann@example.com"}
        for path in ("forgot-password", "resend-verification"):
            answer = await client.post(f"/api/v1/auth/{path}", json=body, headers={"X-Request-ID": UUID4})
            assert answer.status_code == 202, answer.text
        registered = await client.post(
            "/api/v1/auth/register", json={**body, "password": PASSWORD}, headers={"X-Request-ID": UUID4}
        )
        assert registered.status_code == 201
        for _ in range(100):
            if tried := [line for line in lines(server, None) if "was not delivered" in line["message"]]:
                break
            await asyncio.sleep(0.1)
    assert tried
    assert {line["request_id"] for line in tried} == {UUID4}


@postgres
async def test_a_request_that_is_run_again_says_so(
    start_app: StartApp, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    api = await start_app(log_level="info")
    ann = await api.register()
    async with second_connection(database_url) as other:
        await other.run("CREATE SEQUENCE tries")
        await other.run(
            "CREATE FUNCTION once_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF nextval('tries') = 1 THEN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END IF; RETURN NEW; END $$"
        )
        await other.run("CREATE TRIGGER once_only BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION once_only()")
    made = await ann.post("/tasks", json={"title": "Twice"}, headers={"X-Request-ID": UUID4})
    assert made.status_code == 201
    assert [record for record in caplog.records if "run again" in record.getMessage()]
