"""A disk that is really full, or was made read-only under the running server: writes are refused, reads go on.

A small file system of its own is mounted for each test, which takes root; without it these tests are skipped.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import httpx
import pytest

from tests.clusters import Cluster, running_cluster
from tests.fixtures.application import PASSWORD
from tests.fixtures.server import Server, StartServer

PATIENCE = 20.0
MEGABYTE = 1 << 20
READS = (
    "/tasks", "/tasks?status=pending&sort=priority", "/tasks?tag=red", "/tasks?search=milk", "/tasks?search=100%25",
    "/tasks?search=milk&priority=high&sort=title", "/tasks/trash?search=gone", "/tasks/stats", "/changes",
    "/auth/me", "/auth/sessions",
)  # fmt: skip


@contextlib.contextmanager
def mounted(place: Path, *words: str) -> Iterator[Path]:
    """A file system at this place for as long as the block runs; skipped where that is not allowed."""
    place.mkdir()
    done = subprocess.run(["mount", *words, str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here ({done.stderr.strip()}): run the tests as root for this one")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Six megabytes."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=6m", "tmpfs") as place:
        yield place


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of its own, which the kernel makes read-only when it is told that something is wrong with it."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(24 * MEGABYTE)
    if shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip("mkfs.ext4 is needed: apt-get install e2fsprogs")
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", str(image)], check=True)
    with mounted(tmp_path / "ext4", "-o", "loop", str(image)) as place:
        yield place


def fill(place: Path) -> Path:
    """Take all the room there is; removing what this gives makes room again."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return ballast


@pytest.fixture
def person() -> Iterator[Callable[[Server], httpx.Client]]:
    """A new account's client."""
    with contextlib.ExitStack() as stack:

        def sign_up(server: Server) -> httpx.Client:
            client = httpx.Client(base_url=f"{server.base_url}/api/v1", timeout=PATIENCE, trust_env=False)
            stack.enter_context(client)
            body = {"email": "ann@example.com", "password": PASSWORD}
            token = client.post("/auth/register", json=body).json()["access_token"]
            client.headers["Authorization"] = f"Bearer {token}"
            return client

        yield sign_up


Person = Callable[[Server], httpx.Client]


def write_some(client: httpx.Client) -> list[str]:
    """Tasks that the reads tell apart; the ids of those that stay."""
    fields: list[dict[str, Any]] = [
        {"title": "Buy milk", "tags": ["red"], "priority": "high"}, {"title": "Milking: 100% done", "tags": ["blue"]},
        {"title": "Bread", "description": "and oat-milk", "tags": ["red"], "completed": True}, {"title": "gone"},
    ]  # fmt: skip
    added = [client.post("/tasks", json=one) for one in fields]
    assert {answer.status_code for answer in added} == {201}
    ids = [answer.json()["id"] for answer in added]
    assert client.delete(f"/tasks/{ids[3]}").status_code == 204
    return ids[:3]


def read_all(client: httpx.Client) -> dict[str, Any]:
    """What each read answers."""
    found = {}
    for path in READS:
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        body = answer.json()
        found[path] = body
    return found


def change_behind_the_index(client: httpx.Client, ids: list[str]) -> None:
    """What a search has to see although nobody has searched since."""
    assert client.patch(f"/tasks/{ids[0]}", json={"title": "Buy bread"}).status_code == 200
    assert client.post("/tasks", json={"title": "More milk", "tags": ["red"], "priority": "high"}).status_code == 201
    assert client.delete(f"/tasks/{ids[1]}").status_code == 204


def refused(client: httpx.Client, count: int = 12) -> set[int]:
    """What some writes are told; each within five seconds, with two for a busy machine."""
    told = set()
    for _ in range(count):
        begun = time.monotonic()
        told.add(client.post("/tasks", json={"title": "x" * 200, "description": "y" * 900}).status_code)
        assert time.monotonic() - begun < 7
    return told


def exact_searches(client: httpx.Client) -> None:
    """The words of what is stored now, whether the index knows it or not."""

    def titles(query: str, path: str = "/tasks") -> list[str]:
        body = client.get(f"{path}?{query}").json()
        assert body["total"] == len(body["items"])
        return sorted(task["title"] for task in body["items"])

    assert titles("search=milk") == ["Bread", "More milk"]
    assert titles("search=bread") == ["Bread", "Buy bread"]
    assert titles("search=oat-milk") == ["Bread"]
    assert titles("search=milk&status=pending") == ["More milk"]
    assert titles("tag=red") == ["Bread", "Buy bread", "More milk"]
    assert titles("tag=red&priority=high&sort=title") == ["Buy bread", "More milk"]
    assert titles("search=nothing") == []
    assert titles("search=milking", "/tasks/trash") == ["Milking: 100% done"]
    pages = [client.get("/tasks", params={"tag": "red", "sort": "title", "limit": 2}).json()]
    pages.append(client.get("/tasks", params={"tag": "red", "sort": "title", "limit": 2,
                                              "cursor": pages[0]["next_cursor"]}).json())  # fmt: skip
    assert [task["title"] for page in pages for task in page["items"]] == ["Bread", "Buy bread", "More milk"]
    assert [page["total"] for page in pages] == [3, 3]


@pytest.mark.parametrize("searched", [False, True], ids=["no index yet", "index behind"])
def test_on_a_full_disk_writes_are_refused_and_reads_go_on_and_it_recovers_by_itself(
    searched: bool, small_disk: Path, start_server: StartServer, person: Person
) -> None:
    path = small_disk / "duly.db"
    server = start_server(database_url=f"sqlite:///{path}", log_level="error")
    client = person(server)
    ids = write_some(client)
    if searched:
        read_all(client)
    change_behind_the_index(client, ids)
    ballast = fill(small_disk)
    told = refused(client)
    while told == {201}:
        # What the log had room for already may still be written.
        told = refused(client)
    assert told <= {201, 503, 507}
    assert refused(client) <= {503, 507}
    read_all(client)
    exact_searches(client)
    assert behind(path) > 0
    assert httpx.get(f"{server.base_url}/health/live", trust_env=False).status_code == 200
    ballast.unlink()
    assert client.post("/tasks", json={"title": "Room again"}).status_code == 201
    exact_searches(client)
    assert behind(path) == 0
    assert server.stop() == 0
    assert integrity(path) == [("ok",)]


BEHIND = "SELECT c.position - coalesce(p.position, 0) FROM task_counters c LEFT JOIN search_places p USING (user_id)"


def behind(path: Path) -> Any:
    """How many changes the index does not know; searches that follow have to answer without it."""
    connection = apsw.Connection(str(path))
    try:
        return connection.execute(BEHIND).fetchall()[0][0]
    finally:
        connection.close()


def integrity(path: Path) -> list[Any]:
    """SQLite's own look through the file."""
    connection = apsw.Connection(str(path))
    try:
        return connection.execute("PRAGMA integrity_check").fetchall()
    finally:
        connection.close()


def test_on_a_disk_that_became_read_only_reads_go_on(
    failing_disk: Path, start_server: StartServer, person: Person
) -> None:
    path = failing_disk / "duly.db"
    settings = {"database_url": f"sqlite:///{path}", "log_level": "error"}
    server = start_server(**settings)
    client = person(server)
    ids = write_some(client)
    read_all(client)
    change_behind_the_index(client, ids)
    subprocess.run(["mount", "-o", "remount,abort", str(failing_disk)], check=False, capture_output=True)
    assert refused(client) == {503}
    read_all(client)
    exact_searches(client)
    assert behind(path) > 0
    assert httpx.get(f"{server.base_url}/health/live", trust_env=False).status_code == 200


def test_attachments_on_a_full_disk_are_refused_whole_and_taken_again_when_there_is_room(
    small_disk: Path, start_server: StartServer, person: Person, tmp_path: Path
) -> None:
    server = start_server(files_dir=small_disk / "files", log_level="error")
    client = person(server)
    task = client.post("/tasks", json={"title": "A"}).json()["id"]

    def upload(size: int) -> httpx.Response:
        return client.post(f"/tasks/{task}/attachments", files={"file": ("a.bin", b"\1" * size)})

    kept = upload(2 * MEGABYTE)
    assert kept.status_code == 201, kept.text
    assert upload(5 * MEGABYTE).status_code == 507
    ballast = fill(small_disk)
    assert upload(10_000).status_code == 507
    listed = client.get(f"/tasks/{task}/attachments").json()
    assert [one["id"] for one in listed["items"]] == [kept.json()["id"]]
    got = client.get(f"/tasks/{task}/attachments/{listed['items'][0]['id']}")
    assert (got.status_code, len(got.content)) == (200, 2 * MEGABYTE)
    ballast.unlink()
    assert upload(MEGABYTE).status_code == 201
    stored = [file.stat().st_size for file in (small_disk / "files").rglob("*") if file.is_file()]
    assert sorted(stored) == [MEGABYTE, 2 * MEGABYTE]


def test_with_postgresql_in_read_only_mode_reads_and_searches_go_on(start_server: StartServer, person: Person) -> None:
    with running_cluster() as cluster:
        server = start_server(database_url=cluster.url(), log_level="error")
        client = person(server)
        ids = write_some(client)
        read_all(client)
        change_behind_the_index(client, ids)
        cluster.run("ALTER SYSTEM SET default_transaction_read_only = on")
        cluster.run("SELECT pg_reload_conf()")
        until(lambda: refused(client, 1) == {503})
        assert refused(client) == {503}
        read_all(client)
        exact_searches(client)
        assert cluster.run(BEHIND)[0][0] > 0
        assert httpx.get(f"{server.base_url}/health/live", trust_env=False).status_code == 200
        assert server.log().count("Traceback") == 0
        cluster.run("ALTER SYSTEM RESET ALL")
        cluster.run("SELECT pg_reload_conf()")
        until(lambda: refused(client, 1) == {201})
        exact_searches(client)


def until(what: Callable[[], bool]) -> None:
    """Until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def disk_for_postgres(tmp_path: Path) -> Iterator[Path]:
    """Where a server's folder fits with little room beside it. Everybody may pass: the server is not root."""
    with contextlib.ExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="duly-full-")) / "disk"
        place.parent.chmod(0o755)
        stack.callback(shutil.rmtree, place.parent, ignore_errors=True)
        yield stack.enter_context(mounted(place, "-t", "tmpfs", "-o", "size=110m", "tmpfs"))


def test_postgresql_on_a_full_disk_refuses_panics_and_serves_again_when_there_is_room(
    disk_for_postgres: Path, start_server: StartServer, person: Person
) -> None:
    with running_cluster(disk_for_postgres, max_wal_size="32MB", min_wal_size="32MB") as cluster:
        server = start_server(database_url=cluster.url(), log_level="error")
        client = person(server)
        ids = write_some(client)
        change_behind_the_index(client, ids)
        # It has no room for its log of writes, and gives up.
        ballast = fill(disk_for_postgres)
        acknowledged, told = write_until_it_is_down(client, cluster)
        assert told <= {201, 503, 507}, told
        assert httpx.get(f"{server.base_url}/health/live", trust_env=False).status_code == 200
        assert httpx.get(f"{server.base_url}/health/ready", trust_env=False).status_code == 503
        ballast.unlink()
        cluster.end()
        back = cluster.start()
        until(lambda: client.post("/tasks", json={"title": "Room again"}).status_code == 201)
        print(f"\n{sorted(told)}; first success {time.monotonic() - back:.2f} s after PostgreSQL was back")  # noqa: T201
        exact_searches(client)
        found = {client.get(f"/tasks/{task}").status_code for task in acknowledged}
        assert found <= {200}


def write_until_it_is_down(client: httpx.Client, cluster: Cluster) -> tuple[list[str], set[int]]:
    """Write until the server has panicked; the tasks that were acknowledged, and every status that was told."""
    acknowledged, told = [], set()
    deadline = time.monotonic() + PATIENCE
    while "PANIC" not in cluster.log() and time.monotonic() < deadline:
        answer = client.post("/tasks", json={"title": "x" * 200, "description": "y" * 900})
        told.add(answer.status_code)
        if answer.status_code == 201:
            acknowledged.append(answer.json()["id"])
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            cluster.run("SELECT pg_switch_wal()")
    told |= refused(client)
    return acknowledged, told
