"""Behind a real PgBouncer in transaction mode, where two statements in a row may reach two different sessions."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from duly.db import migrate
from duly.db.shapes import CarryFault
from duly.operations.copying import copy_database
from tests.filling import Silent
from tests.fixtures.application import Person, StartApp
from tests.fixtures.database import POSTGRES_URL, skip_or_fail
from tests.fixtures.server import environment, free_port
from tests.schemas import address_of, run_sql

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
# Far fewer sessions than clients, so that they really change hands.
SESSIONS = 3
CLIENTS = 32

CONFIGURATION = """
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 200
unix_socket_dir =
"""


@pytest.fixture
def dialect() -> str:
    return "postgresql"


@pytest.fixture(scope="module")
def pooler_port() -> Iterator[int]:
    """Where a PgBouncer of our own listens, in front of the tests' server."""
    if PROGRAM is None:
        skip_or_fail("PgBouncer is needed: apt-get install pgbouncer")
    address, port = address_of(POSTGRES_URL), free_port()
    server = {"host": address.hosts[0], "port": address.ports[0], "user": address.user, "password": address.password}
    server_text = " ".join(f"{name}={value}" for name, value in server.items() if value)
    # It does not run as root, and the tests' own folders are closed to others.
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    folder.chmod(0o755)
    (folder / "pgbouncer.ini").write_text(
        CONFIGURATION.format(server=server_text, port=port, sessions=SESSIONS), encoding="utf-8"
    )
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*user, str(PROGRAM), str(folder / "pgbouncer.ini")], stdout=log, stderr=log)
    try:
        wait_until_it_answers(port, process, folder / "log")
        yield port
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder)


def wait_until_it_answers(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    url = urlunsplit(urlsplit(POSTGRES_URL)._replace(netloc=f"postgres@127.0.0.1:{port}"))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            asyncio.run(run_sql(url, "SELECT"))
            return
        time.sleep(0.05)
    pytest.fail(f"PgBouncer did not come up:\n{log.read_text()}")


def through(url: str, port: int, query: str = "") -> str:
    """The same database, by way of the pooler."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}", query=query))


async def use_tasks(person: Person, name: str) -> None:
    """Everything a client does, each step seeing the one before."""
    task = await person.add_task(name, tags=["work"], due_date="2030-01-01T00:00:00Z")
    path = f"/tasks/{task['id']}"
    assert (await person.get(path)).json() == task
    changed = await person.patch(path, json={"title": f"{name}!"}, headers={"Idempotency-Key": name})
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    listed = (await person.get("/tasks", params={"tag": "work", "sort": "title", "limit": 100})).json()
    assert f"{name}!" in [item["title"] for item in listed["items"]]
    done = await person.patch(path, json={"completed": True})
    assert done.json()["completed_at"] is not None
    assert (await person.delete(path)).status_code == 204
    assert (await person.get(path)).status_code == 404


@pytest.mark.covers("C019", "E050")
@pytest.mark.parametrize(
    ("query", "settings"),
    [("", {"database_prepared_statements": False}), ("pgbouncer=true", {})],
    ids=["by the setting", "by the address"],
)
async def test_many_clients_work_through_a_pooler_in_transaction_mode(
    start_app: StartApp, database_url: str, pooler_port: int, query: str, settings: dict[str, Any]
) -> None:
    api = await start_app(database_url=through(database_url, pooler_port, query), **settings)
    ann, ben = await api.register("ann@example.com"), await api.register("ben@example.com")
    people = [ann, ben, await api.log_in("ann@example.com"), await api.log_in("ben@example.com")]
    await asyncio.gather(*(use_tasks(people[number % 4], f"Task {number:02}") for number in range(CLIENTS)))
    for person in people:
        feed = (await person.get("/changes", params={"limit": 100})).json()["items"]
        assert len(feed) == 4 * CLIENTS // 2
        assert (await person.get("/tasks")).json()["total"] == 0
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert 1 <= (await run_sql(database_url, sessions))[0][0] <= SESSIONS


async def test_the_schema_is_upgraded_through_the_pooler_by_one_process_after_another(
    empty_database_url: str, pooler_port: int, tmp_path: Path
) -> None:
    url = through(empty_database_url, pooler_port, "pgbouncer=true")
    upgrade = [sys.executable, "-m", "duly", "migrate", "upgrade"]
    for said in (f"Schema is at {migrate.head()}, was empty.\n", f"Schema is at {migrate.head()}.\n"):
        done = await asyncio.to_thread(
            subprocess.run, upgrade, cwd=tmp_path, env=environment(tmp_path, database_url=url), capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.stdout, done.stderr) == (said, "")
    address = address_of(url)
    results = await asyncio.gather(*(migrate.upgrade(address) for _ in range(4)))
    assert results == [(migrate.head(), migrate.head())] * 4
    assert await migrate.differences(address) == []
    assert await migrate.downgrade(address, "base") == (migrate.head(), None)


async def test_a_database_is_copied_through_the_pooler_which_is_recognised_as_the_same_server(
    database_url: str, targets: dict[str, str], pooler_port: int
) -> None:
    await run_sql(database_url, "INSERT INTO users (id, version, created_at, updated_at) VALUES ('u', 1, now(), now())")
    source, target = (address_of(through(url, pooler_port)) for url in (database_url, targets["postgresql"]))
    made = await copy_database(source, target, Silent())
    assert made.is_equal
    assert [proof.table for proof in made.proofs if proof.rows_there] == ["users", "task_counters"]
    with pytest.raises(CarryFault, match="give another one"):
        await copy_database(source, address_of(database_url), Silent())
