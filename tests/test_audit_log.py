"""The audit log among many writers, as it grows old, and as people read it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from duly.audit import offline
from duly.audit.events import Event, Origin
from duly.db.unit import Database
from duly.kit.clock import now
from duly.operations.assembly import Parts, assemble
from duly.settings import Settings
from tests.fixtures.application import Api, Person, StartApp
from tests.fixtures.stored import Stored
from tests.test_audit_chain import read_log, renew, verify

AGENT = "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"
PATIENCE = 20


@pytest.fixture
async def admin(api: Api, stored: Stored) -> Person:
    person = await api.register("root@example.com")
    await stored.rows("UPDATE users SET role = 'admin' WHERE id = ?", person.user_id)
    return person


@pytest.fixture
async def parts(database: Database, database_url: str, tmp_path: Path) -> AsyncIterator[Parts]:
    """What writes and links, without a process that links by itself."""
    made = await assemble(Settings(_env_file=None, database_url=database_url, data_dir=tmp_path), database)
    yield made
    made.identity.hasher.close()


async def write(parts: Parts, database: Database, count: int = 1) -> None:
    for _ in range(count):
        async with database.unit() as unit:
            await parts.identity.audit.record(unit, Event.USER_UPDATED, origin=Origin("192.0.2.7", AGENT))


async def assert_one_chain(stored: Stored, api: Api, admin: Person) -> int:
    """Every place from the first to the last is taken once, and the links are right; how many there are."""
    verdict = await verify(api, admin)
    assert verdict["valid"], verdict
    positions = [row[0] for row in await stored.rows("SELECT position FROM audit_log ORDER BY position")]
    assert positions == list(range(1, len(positions) + 1))
    assert verdict["entries"] == len(positions)
    return len(positions)


# Many writers


@pytest.mark.covers("A039")
async def test_eight_writers_and_two_linking_processes_make_one_chain_that_verifies_all_the_time(
    api: Api, admin: Person, start_app: StartApp, stored: Stored
) -> None:
    other = await start_app()
    people = [await api.register() for _ in range(8)]
    begun = await stored.value("SELECT count(*) FROM audit_log")
    verdicts: list[dict[str, Any]] = []
    is_over = asyncio.Event()

    async def watch(process: Api) -> None:
        while not is_over.is_set():
            verdicts.append(await verify(process, admin))
            await asyncio.sleep(0)

    async def work(process: Api, person: Person) -> None:
        for _ in range(10):
            await renew(process, person)

    watching = [asyncio.create_task(watch(process)) for process in (api, other)]
    await asyncio.gather(*(work(process, person) for process, person in zip(itertools.cycle([api, other]), people)))
    is_over.set()
    await asyncio.gather(*watching)
    assert [verdict for verdict in verdicts if not verdict["valid"]] == []
    assert len(verdicts) >= 2
    assert await assert_one_chain(stored, other, admin) == begun + 80


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
async def test_a_long_transaction_holds_up_neither_writers_nor_linking_and_comes_in_behind_them(
    api: Api, admin: Person, stored: Stored
) -> None:
    services = api.app.state.services
    async with services.database.unit() as unit:
        await services.identity.audit.record(unit, Event.USER_UPDATED, origin=Origin())
        async with asyncio.timeout(PATIENCE):
            for _ in range(3):
                await renew(api, admin)
            before = await verify(api, admin)
    assert (before["valid"], before["entries"]) == (True, 4)
    assert await assert_one_chain(stored, api, admin) == 5
    ids = [row[0] for row in await stored.rows("SELECT id FROM audit_log ORDER BY position")]
    late = await stored.value("SELECT id FROM audit_log WHERE event = 'user.updated'")
    assert ids[-1] == late == min(ids[1:])


async def test_work_that_is_rolled_back_leaves_no_entry_and_no_gap(api: Api, admin: Person, stored: Stored) -> None:
    services = api.app.state.services

    async def give_up() -> None:
        async with services.database.unit() as unit:
            await services.identity.audit.record(unit, Event.USER_UPDATED, origin=Origin())
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await give_up()
    await renew(api, admin)
    assert await assert_one_chain(stored, api, admin) == 2


async def test_no_verification_is_alarmed_by_entries_that_are_being_removed(
    parts: Parts, database: Database, stored: Stored
) -> None:
    await write(parts, database, 120)
    await parts.chain.seal(database)
    is_over = asyncio.Event()
    verdicts = []

    async def watch() -> None:
        while not is_over.is_set():
            verdicts.append(await parts.chain.verify(database))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    for position in (20, 50, 90, 110):
        moment = await stored.moment("SELECT at FROM audit_log WHERE position = ?", position)
        assert moment is not None
        assert await parts.chain.prune(database, moment) > 0
        await write(parts, database, 5)
        await asyncio.sleep(0.02)
    is_over.set()
    await watching
    assert [verdict for verdict in verdicts if not verdict.valid] == []
    assert (await parts.chain.verify(database)).entries == 120 + 20 - 109


# Growing old


async def export_of(parts_or_services: Any, database: Database) -> list[str]:
    return [line async for line in parts_or_services.chain.export(database)]


@pytest.mark.covers("A039")
async def test_old_entries_go_and_the_rest_verifies_and_an_older_anchor_is_told_why_it_is_not_found(
    api: Api, admin: Person, start_app: StartApp, stored: Stored
) -> None:
    await renew(api, admin)
    old = (await verify(api, admin))["head"]
    never = await start_app(audit_retention_days=0)
    await asyncio.sleep(0.3)
    assert (await verify(never, admin))["entries"] == 2

    pruning = await start_app(audit_retention_days=0.2 / 86400)
    for _ in range(PATIENCE * 50):
        if not await stored.value("SELECT count(*) FROM audit_log"):
            break
        await asyncio.sleep(0.02)
    assert (await verify(pruning, admin, anchor=old))["valid"] is True  # the link before the first one that is kept
    for _ in range(3):
        await renew(pruning, admin)
    verdict = await verify(pruning, admin)
    assert (verdict["valid"], verdict["entries"]) == (True, 3)
    assert (await verify(pruning, admin, anchor=verdict["head"]))["valid"] is True

    older = await verify(pruning, admin, anchor="1" * 64)
    assert (older["valid"], older["entries"], older["first_bad"]) == (False, 3, None)
    assert older["fault"].startswith("unanchored:")
    assert "AUDIT_RETENTION_DAYS" in older["fault"]
    services = pruning.app.state.services
    found = offline.verify(await export_of(services, services.database))
    assert (found.entries, found.fault) == (3, None)


async def test_an_entry_that_is_not_linked_yet_is_not_removed_however_old(
    parts: Parts, database: Database, stored: Stored
) -> None:
    await write(parts, database, 3)
    assert await parts.chain.prune(database, now() + timedelta(days=1)) == 0
    assert await stored.value("SELECT count(*) FROM audit_log") == 3
    assert (await parts.chain.verify(database)).entries == 3
    assert await parts.chain.prune(database, now() + timedelta(days=1)) == 3
    verdict = await parts.chain.verify(database)
    assert (verdict.valid, verdict.entries) == (True, 0)


async def test_more_than_one_step_of_old_entries_is_removed_up_to_the_first_young_one(
    parts: Parts, database: Database, stored: Stored
) -> None:
    await write(parts, database, 230)
    assert await parts.chain.seal(database) == 230
    cutoff = await stored.moment("SELECT at FROM audit_log WHERE position = 226")
    assert cutoff is not None
    assert await parts.chain.prune(database, cutoff) == 225
    assert await parts.chain.prune(database, cutoff) == 0
    assert (await parts.chain.verify(database)).entries == 5
    lines = await export_of(parts, database)
    assert offline.verify(lines).fault is None
    assert len(lines) == 6


@pytest.mark.parametrize("change", ["event = 'user.deleted'", "mac = 'x'", "position = NULL"])
async def test_what_was_changed_is_not_removed_with_the_old_so_that_it_stays_found(
    change: str, parts: Parts, database: Database, stored: Stored
) -> None:
    await write(parts, database, 5)
    await parts.chain.seal(database)
    [[changed]] = await stored.rows("SELECT id FROM audit_log WHERE position = 3")
    await stored.rows(f"UPDATE audit_log SET {change} WHERE position = 3")
    assert await parts.chain.prune(database, now() + timedelta(days=1)) == 2
    assert await parts.chain.prune(database, now() + timedelta(days=1)) == 0
    verdict = await parts.chain.verify(database)
    assert verdict.valid is False
    following = await stored.value("SELECT id FROM audit_log WHERE position = 4")
    assert verdict.first_bad == (following if change == "position = NULL" else changed)


async def test_entries_that_were_made_old_are_not_removed(parts: Parts, database: Database, stored: Stored) -> None:
    await write(parts, database, 5)
    await parts.chain.seal(database)
    await stored.rows("UPDATE audit_log SET at = ?", now() - timedelta(days=1000))
    assert await parts.chain.prune(database, now() - timedelta(days=365)) == 0
    assert (await parts.chain.verify(database)).valid is False


async def test_nothing_is_removed_from_a_chain_whose_head_is_forged(
    parts: Parts, database: Database, stored: Stored
) -> None:
    await write(parts, database, 5)
    await parts.chain.seal(database)
    await stored.rows("UPDATE audit_head SET start_position = 1, mac = 'x'")
    assert await parts.chain.prune(database, now() + timedelta(days=1)) == 0
    assert await stored.value("SELECT count(*) FROM audit_log") == 5


async def test_an_export_during_which_old_entries_go_says_so(parts: Parts, database: Database) -> None:
    await write(parts, database, 5)
    lines = parts.chain.export(database)
    await anext(lines)
    await parts.chain.prune(database, now() + timedelta(days=1))
    with pytest.raises(Exception, match="Export again"):
        await anext(lines)


# Reading


@pytest.mark.covers("A040", "A094")
@pytest.mark.parametrize("path", ["/audit-log", "/audit-log/verify"])
async def test_the_log_is_for_administrators_and_a_refusal_is_in_it(
    path: str, api: Api, admin: Person, ann: Person
) -> None:
    assert (await api.client.get(f"/api/v1{path}")).status_code == 401
    refused = await ann.get(path)
    assert (refused.status_code, refused.headers["content-type"]) == (403, "application/problem+json")
    [denied] = (await admin.get("/audit-log", params={"event": "access.denied"})).json()["items"]
    assert (denied["actor_id"], denied["outcome"]) == (ann.user_id, "failure")
    assert denied["request_id"] == refused.headers["x-request-id"]
    assert denied["details"] == {"method": "GET", "path": f"/api/v1{path}"}


async def events_of(admin: Person, **params: Any) -> list[tuple[str, str | None]]:
    answer = await admin.get("/audit-log", params=params)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["total"] == len(body["items"])
    return [(item["event"], item["actor_id"]) for item in body["items"]]


@pytest.mark.covers("A040")
async def test_each_filter_finds_what_it_says_and_nothing_else(api: Api, admin: Person, ann: Person) -> None:
    await renew(api, ann)
    await api.client.post("/api/v1/auth/login", json={"email": ann.email, "password": "quite wrong"})
    me = ann.user_id
    assert await events_of(admin, event="session.refreshed") == [("session.refreshed", me)]
    assert await events_of(admin, actor_id=me) == [("session.refreshed", me), ("user.registered", me)]
    assert await events_of(admin, target_id=me) == [("user.login_failed", None), ("user.registered", me)]
    assert await events_of(admin, outcome="failure") == [("user.login_failed", None)]
    assert await events_of(admin, outcome="failure", actor_id=me) == []
    assert await events_of(admin, actor_id="nobody") == []

    log = (await admin.get("/audit-log", params={"target_id": me})).json()["items"]
    failed, registered = (entry["at"] for entry in log)
    both = {"target_id": me}
    assert len(await events_of(admin, since=registered, **both)) == 2
    assert len(await events_of(admin, since=failed, **both)) == 1
    assert len(await events_of(admin, until=failed, **both)) == 1
    assert len(await events_of(admin, until=registered, **both)) == 0
    assert len(await events_of(admin, since=registered, until=failed, **both)) == 1


@pytest.mark.parametrize(
    "params", [{"event": "user.teleported"}, {"outcome": "maybe"}, {"since": "yesterday"}, {"limit": "101"},
               {"limit": "0"}, {"sort": "at"}, {"hash": "1"}]
)  # fmt: skip
async def test_a_filter_that_does_not_exist_is_refused(params: dict[str, str], admin: Person) -> None:
    assert (await admin.get("/audit-log", params=params)).status_code == 422


@pytest.mark.covers("A040")
async def test_pages_do_not_overlap_and_leave_nothing_out(api: Api, admin: Person, ann: Person) -> None:
    for _ in range(7):
        await renew(api, ann)
    wanted = [entry["id"] for entry in reversed(await read_log(api, admin))]
    assert len(wanted) == 7
    only = {"event": "session.refreshed", "limit": "3"}
    by_offset = [(await admin.get("/audit-log", params={**only, "offset": str(n)})).json() for n in (0, 3, 6)]
    assert [entry["id"] for page in by_offset for entry in page["items"]] == wanted
    assert {page["total"] for page in by_offset} == {7}

    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await admin.get("/audit-log", params={**only, **cursor})).json()
        seen += [entry["id"] for entry in page["items"]]
        await renew(api, ann)  # what comes in while somebody turns pages moves none of them
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == wanted


async def test_without_a_filter_a_cursor_meets_each_entry_once_although_reading_is_one_too(
    api: Api, admin: Person, ann: Person
) -> None:
    for _ in range(4):
        await renew(api, ann)
    seen: list[str] = []
    page = (await admin.get("/audit-log", params={"limit": "2"})).json()
    while True:
        seen += [entry["id"] for entry in page["items"]]
        if page["next_cursor"] is None:
            break
        page = (await admin.get("/audit-log", params={"limit": "2", "cursor": page["next_cursor"]})).json()
    assert len(seen) == len(set(seen)) == 6
    assert seen == sorted(seen, reverse=True)


async def test_a_cursor_that_was_altered_or_belongs_to_another_filter_is_refused(
    api: Api, admin: Person, ann: Person
) -> None:
    for _ in range(3):
        await renew(api, ann)
    only = {"event": "session.refreshed", "limit": "1"}
    cursor = (await admin.get("/audit-log", params=only)).json()["next_cursor"]
    for params in (
        {**only, "cursor": "A" + cursor[1:] if cursor[0] != "A" else "B" + cursor[1:]},
        {**only, "cursor": "nonsense"},
        {"limit": "1", "cursor": cursor},
        {**only, "outcome": "success", "cursor": cursor},
    ):
        refused = await admin.get("/audit-log", params=params)
        assert (refused.status_code, refused.json()["code"]) == (400, "BAD_CURSOR")
    assert (await admin.get("/audit-log", params={**only, "cursor": cursor, "offset": "1"})).status_code == 422
    assert (await ann.get("/users/me/security-events", params={"cursor": cursor})).status_code == 400


@pytest.mark.covers("A095", "A047")
async def test_address_and_agent_are_encrypted_in_the_table_and_clear_in_the_answer(
    api: Api, admin: Person, stored: Stored
) -> None:
    headers = {"User-Agent": AGENT}
    body = {"email": admin.email, "password": "quite wrong"}
    await api.client.post("/api/v1/auth/login", json=body, headers=headers)
    [entry] = (await admin.get("/audit-log", params={"event": "user.login_failed"})).json()["items"]
    assert (entry["ip_address"], entry["user_agent"]) == ("127.0.0.1", AGENT)
    for row in await stored.rows("SELECT * FROM audit_log"):
        text = " ".join(map(str, row))
        assert "127.0.0.1" not in text
        assert "Firefox" not in text
    origins = [row[0] for row in await stored.rows("SELECT origin FROM audit_log")]
    assert all(origin.startswith("enc1.") for origin in origins)
    assert len(set(origins)) == len(origins)


async def test_an_origin_that_cannot_be_opened_is_named_so_and_hides_nothing_else(
    api: Api, admin: Person, stored: Stored
) -> None:
    await stored.rows("UPDATE audit_log SET origin = 'enc1.deadbeef.AAAA', details = '{'")
    [entry] = (await admin.get("/audit-log")).json()["items"]
    assert entry["event"] == "user.registered"
    assert entry["ip_address"] == entry["user_agent"] == "(encrypted under a key that is not here)"
    assert entry["details"] == {"unreadable": "{"}


async def test_people_see_what_they_did_and_what_was_done_to_them_and_nothing_else(
    api: Api, admin: Person, ann: Person, ben: Person
) -> None:
    await renew(api, ben)
    await api.client.post("/api/v1/auth/login", json={"email": ann.email, "password": "quite wrong"})
    assert (await admin.patch(f"/users/{ann.user_id}", json={"name": "Ann"})).status_code == 200
    own = await ann.get("/users/me/security-events")
    assert own.status_code == 200
    body = own.json()
    assert [(item["event"], item["actor_id"]) for item in body["items"]] == [
        ("user.updated", admin.user_id), ("user.login_failed", None), ("user.registered", ann.user_id),
    ]  # fmt: skip
    assert (body["total"], body["next_cursor"]) == (3, None)
    assert all(item["hash"] for item in body["items"])
    first = (await ann.get("/users/me/security-events", params={"limit": "2"})).json()
    rest = (await ann.get("/users/me/security-events", params={"limit": "2", "cursor": first["next_cursor"]})).json()
    assert [*first["items"], *rest["items"]] == body["items"]
    assert (await ben.get("/users/me/security-events", params={"cursor": first["next_cursor"]})).status_code == 400
    assert (await api.client.get("/api/v1/users/me/security-events")).status_code == 401
    assert (await ann.get("/users/me/security-events", params={"actor_id": ben.user_id})).status_code == 422
