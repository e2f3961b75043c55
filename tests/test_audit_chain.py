"""Whoever changes the audit log behind Duly's back is found out: what, and where."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from duly.kit.secrets import derive_key, keyed_hash
from duly.operations.startup import KEY_FILE
from duly.settings import Settings
from tests.fixtures.application import Api, Person, StartApp, running
from tests.fixtures.stored import Stored

START = "0" * 64
ENTRIES = 8
Entry = dict[str, Any]
CONTENT = (
    "at", "event", "outcome", "actor_id", "actor_name", "target_type", "target_id", "origin", "request_id", "details",
)  # fmt: skip


@pytest.fixture
async def admin(api: Api, stored: Stored) -> Person:
    """An administrator whose log has eight entries; the process has linked them, and remembers."""
    return await fill(api, stored)


async def fill(api: Api, stored: Stored) -> Person:
    """Register an administrator, and renew the session until there are eight entries."""
    person = await api.register("root@example.com")
    await stored.rows("UPDATE users SET role = 'admin' WHERE id = ?", person.user_id)
    for _ in range(ENTRIES - 1):
        await renew(api, person)
    verdict = await verify(api, person)
    assert (verdict["valid"], verdict["entries"], verdict["first_bad"], verdict["fault"]) == (True, ENTRIES, None, None)
    return person


@dataclass(frozen=True)
class Process:
    """A process, an administrator who asks it, and the database by the back door."""

    api: Api
    admin: Person
    stored: Stored

    async def judge(self) -> tuple[str, str | None]:
        """The first word of the fault, and the entry that is named."""
        verdict = await verify(self.api, self.admin)
        assert verdict["valid"] is False
        return verdict["fault"].partition(":")[0], verdict["first_bad"]


@dataclass(frozen=True)
class Kept:
    """A log that is put back as it was after every intrusion, and what reads it."""

    settings: Settings
    stored: Stored
    token: str


@pytest.fixture(scope="module")
def kept(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """The log of an administrator with eight entries, and a copy of it beside it."""
    values: dict[str, Any] = {
        "database_url": shared_database_url, "data_dir": tmp_path_factory.mktemp("data"), "log_level": "error",
        "rate_limit_enabled": False,
    }  # fmt: skip
    return asyncio.run(_fill(Settings(_env_file=None, **values), Stored(shared_database_url)))


async def _fill(settings: Settings, stored: Stored) -> Kept:
    async with running(settings) as api:
        person = await fill(api, stored)
    for table in ("audit_log", "audit_head"):
        await stored.rows(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
    return Kept(settings, stored, person.access_token)


@pytest.fixture
async def process(kept: Kept) -> AsyncIterator[Process]:
    """A process that has linked none of it, and knows nothing but the database and the key."""
    for table in ("audit_log", "audit_head"):
        await kept.stored.rows(f"DELETE FROM {table}")
        await kept.stored.rows(f"INSERT INTO {table} SELECT * FROM kept_{table}")
    async with running(kept.settings) as api:
        yield Process(api, Person(api.client, "", "", kept.token, ""), kept.stored)


async def renew(api: Api, person: Person) -> None:
    """One more event, the cheapest there is."""
    answer = await api.client.post("/api/v1/auth/refresh", json={"refresh_token": person.refresh_token})
    assert answer.status_code == 200, answer.text
    person.refresh_token = answer.json()["refresh_token"]


async def verify(api: Api, admin: Person, **query: str) -> dict[str, Any]:
    """The verdict, as an administrator hears it from this process."""
    answer = await api.client.get("/api/v1/audit-log/verify", headers=admin.headers, params=query)
    assert answer.status_code == 200, answer.text
    verdict: dict[str, Any] = answer.json()
    assert set(verdict) == {"valid", "entries", "first_bad", "head", "fault"}
    return verdict


async def read_log(api: Api, admin: Person) -> list[Entry]:
    """Every entry as the API shows it, oldest first."""
    answer = await api.client.get(
        "/api/v1/audit-log", headers=admin.headers, params={"limit": 100, "event": "session.refreshed"}
    )
    assert answer.status_code == 200, answer.text
    return list(reversed(answer.json()["items"]))


async def own_events(admin: Person) -> list[Entry]:
    """Every entry, oldest first, since all are about the administrator; reading these is no entry."""
    answer = await admin.get("/users/me/security-events", params={"limit": "100"})
    assert answer.status_code == 200, answer.text
    return list(reversed(answer.json()["items"]))


async def id_at(stored: Stored, position: int | None) -> str | None:
    if position is None:
        return None
    return str(await stored.value("SELECT id FROM audit_log WHERE position = ?", position))


def other_first(column: str) -> str:
    return f"CASE WHEN substr({column}, 1, 1) = '0' THEN '1' ELSE '0' END || substr({column}, 2)"


def other_last(column: str) -> str:
    return (
        f"substr({column}, 1, length({column}) - 1) || "
        f"CASE WHEN substr({column}, length({column}), 1) = 'A' THEN 'B' ELSE 'A' END"
    )


# The statements of the intruder, the first word of the fault, and the position of the entry that is named.
PLANTED: dict[str, tuple[Sequence[str], str, int | None]] = {
    **{
        f"a byte of {column}": (
            (f"UPDATE audit_log SET {column} = {other_last(column)} WHERE position = 4",), "changed", 4,
        )
        for column in ("id", "event", "outcome", "actor_id", "actor_name", "target_type", "target_id", "origin",
                       "request_id")
    },
    **{
        f"a byte of {column}": (
            (f"UPDATE audit_log SET {column} = {other_first(column)} WHERE position = 4",), "changed", 4,
        )
        for column in ("hash", "previous_hash")
    },
    **{
        f"no {column}": ((f"UPDATE audit_log SET {column} = NULL WHERE position = 4",), "changed", 4)
        for column in ("actor_id", "actor_name", "origin", "request_id", "hash", "previous_hash")
    },
    "a blank in the details": (("UPDATE audit_log SET details = details || ' ' WHERE position = 4",), "changed", 4),
    "details that are no JSON": (("UPDATE audit_log SET details = '{' WHERE position = 4",), "changed", 4),
    "details that are a list": (("UPDATE audit_log SET details = '[]' WHERE position = 4",), "changed", 4),
    "half a character": (("""UPDATE audit_log SET details = '{"a": "\\ud800"}' WHERE position = 4""",), "changed", 4),
    "a keyed hash": (("UPDATE audit_log SET mac = 'ÿ' WHERE position = 4",), "changed", 4),
    "another entry's origin": (
        ("UPDATE audit_log SET origin = (SELECT origin FROM audit_log WHERE position = 5) WHERE position = 4",),
        "changed", 4,
    ),
    "the first deleted": (("DELETE FROM audit_log WHERE position = 1",), "missing", 2),
    "one in the middle deleted": (("DELETE FROM audit_log WHERE position = 4",), "missing", 5),
    "one deleted and the gap closed": (
        ("DELETE FROM audit_log WHERE position = 4", "UPDATE audit_log SET position = -position WHERE position > 4",
         "UPDATE audit_log SET position = -position - 1 WHERE position < 0"), "moved", 4,
    ),
    "one taken out of its place": (("UPDATE audit_log SET position = NULL WHERE position = 4",), "missing", 5),
    "one put before the first": (("UPDATE audit_log SET position = -3 WHERE position = 4",), "missing", 5),
    "one put behind the last": (("UPDATE audit_log SET position = 9 WHERE position = 8",), "inserted", 9),
    "the last one deleted": (("DELETE FROM audit_log WHERE position = 8",), "truncated", 7),
    "the tail deleted": (("DELETE FROM audit_log WHERE position > 5",), "truncated", 5),
    "the tail deleted, and a head to match": (
        ("DELETE FROM audit_log WHERE position > 5",
         "UPDATE audit_head SET position = 5, hash = (SELECT hash FROM audit_log WHERE position = 5)"),
        "replaced", None,
    ),
    "every entry deleted": (("DELETE FROM audit_log",), "truncated", None),
    "every entry deleted, and a head to match": (
        ("DELETE FROM audit_log", f"UPDATE audit_head SET position = 0, hash = '{START}'"), "replaced", None,
    ),
    "old entries deleted, and a head to match": (
        ("UPDATE audit_head SET start_position = 5, start_hash = (SELECT hash FROM audit_log WHERE position = 4)",
         "DELETE FROM audit_log WHERE position < 5"), "replaced", None,
    ),
    "the head deleted": (("DELETE FROM audit_head",), "replaced", None),
    "the head's hash": ((f"UPDATE audit_head SET hash = {other_first('hash')}",), "replaced", None),
    "the head's keyed hash": (("UPDATE audit_head SET mac = 'ÿ'",), "replaced", None),
    "a head of an empty chain": ((f"UPDATE audit_head SET position = 0, hash = '{START}'",), "inserted", 1),
    "two positions swapped": (
        ("UPDATE audit_log SET position = -4 WHERE position = 4",
         "UPDATE audit_log SET position = 4 WHERE position = 5",
         "UPDATE audit_log SET position = 5 WHERE position = -4"), "moved", 4,
    ),
}  # fmt: skip


@pytest.mark.covers("A039")
@pytest.mark.parametrize("name", PLANTED)
async def test_a_planted_change_is_found_and_named_and_stays_found(name: str, process: Process) -> None:
    statements, kind, position = PLANTED[name]
    for statement in statements:
        await process.stored.rows(statement)
    bad = await id_at(process.stored, position)
    assert await process.judge() == (kind, bad)
    # The log can still be read. That this is an entry too neither hides the change nor fails.
    assert isinstance(await read_log(process.api, process.admin), list)
    later, first_bad = await process.judge()
    # Behind a tail that is gone the next entry is the first that is not in order.
    assert kind == "truncated" or (later, first_bad) == (kind, bad)


@pytest.mark.parametrize("seconds", [-1, 1e-6])
async def test_a_changed_time_is_found(seconds: float, process: Process) -> None:
    moment = await process.stored.moment("SELECT at FROM audit_log WHERE position = 4")
    assert moment is not None
    await process.stored.rows("UPDATE audit_log SET at = ? WHERE position = 4", moment + timedelta(seconds=seconds))
    assert await process.judge() == ("changed", await id_at(process.stored, 4))


async def test_swapped_contents_are_found(process: Process) -> None:
    columns = ", ".join(CONTENT)
    await process.stored.rows(
        f"UPDATE audit_log SET ({columns}) = (SELECT {columns} FROM audit_log AS other "
        "WHERE other.position = 9 - audit_log.position) WHERE position IN (4, 5)"
    )
    assert await process.judge() == ("changed", await id_at(process.stored, 4))


FOREIGN = {
    "sqlite": (
        "at = 'yesterday'", "at = x'ff'", "at = 7", "at = replace(at, 'Z', '+00:00')", "event = x'ff'",
        "origin = x'ff'", "details = x'ff'", "actor_name = CAST(x'ff' AS TEXT)", "mac = x'ff'", "hash = 7",
    ),
    "postgresql": ("at = 'infinity'", "at = '-infinity'", "at = '4000-01-01 BC'", "at = '20000-01-01'"),
}  # fmt: skip


async def test_what_only_this_database_takes_into_a_column_is_found(process: Process) -> None:
    """SQLite takes everything into every column, and PostgreSQL knows times that Python does not."""
    stored = process.stored
    names = ", ".join(("id", "mac", "hash", *CONTENT))
    for change in FOREIGN[stored.url.partition(":")[0]]:
        await stored.rows(f"UPDATE audit_log SET {change} WHERE position = 4")
        assert await process.judge() == ("changed", await id_at(stored, 4)), change
        await stored.rows(
            f"UPDATE audit_log SET ({names}) = (SELECT {names} FROM kept_audit_log WHERE position = 4) "
            "WHERE position = 4"
        )
    assert (await verify(process.api, process.admin))["valid"] is True


# Forgers


def content(entry: Entry) -> str:
    said = {name: value for name, value in entry.items() if name not in {"hash", "previous_hash"}}
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def forged_entry(**fields: Any) -> Entry:
    """What an intruder would like to have happened, with the names of an entry and nothing encrypted."""
    moment = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    names = ("actor_id", "actor_name", "target_type", "target_id", "ip_address", "user_agent", "request_id")
    return {
        "id": str(uuid.uuid4()), "at": moment, "event": "user.logged_in", "outcome": "success", "details": {},
        **dict.fromkeys(names), **fields,
    }  # fmt: skip


async def insert(stored: Stored, entry: Entry, *, position: int | None, mac: str) -> None:
    await stored.rows(
        "INSERT INTO audit_log (id, at, event, outcome, details, mac, position, hash, previous_hash) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        entry["id"], datetime.fromisoformat(entry["at"]), entry["event"], entry["outcome"], "{}", mac, position,
        entry.get("hash"), entry.get("previous_hash"),
    )  # fmt: skip


async def link_anew(stored: Stored, entries: Sequence[Entry], *, begin: int) -> str:
    """Recompute every link, as everybody can who knows how; the hash at the end."""
    await stored.rows("UPDATE audit_log SET position = NULL WHERE position >= ?", begin)
    before = await stored.rows("SELECT hash FROM audit_log WHERE position = ?", begin - 1)
    running = before[0][0] if before else START
    for position, entry in enumerate(entries, begin):
        computed = sha256(f"{running}\n{content(entry)}".encode()).hexdigest()
        await stored.rows(
            "UPDATE audit_log SET position = ?, hash = ?, previous_hash = ? WHERE id = ?",
            position, computed, running, entry["id"],
        )  # fmt: skip
        running = computed
    return str(running)


async def set_head(stored: Stored, position: int, end: str, mac: str = "A" * 43) -> None:
    await stored.rows("UPDATE audit_head SET position = ?, hash = ?, mac = ?", position, end, mac)


@pytest.mark.parametrize("mac", ["", "A" * 43])
@pytest.mark.parametrize("count", [1, 250])
async def test_entries_put_in_without_a_link_are_named_and_keep_nothing_from_being_linked(
    mac: str, count: int, api: Api, admin: Person, stored: Stored
) -> None:
    for number in range(count):
        await insert(stored, forged_entry(id=f"0000-{number:04}"), position=None, mac=mac)
    await renew(api, admin)
    verdict = await verify(api, admin)
    assert (verdict["fault"].partition(":")[0], verdict["first_bad"]) == ("inserted", "0000-0000")
    assert verdict["entries"] == ENTRIES + 1
    assert await stored.value("SELECT count(*) FROM audit_log WHERE position IS NULL") == count


async def test_an_entry_that_was_removed_cannot_be_put_in_once_more(api: Api, admin: Person, stored: Stored) -> None:
    names = "id, at, event, outcome, details, mac, actor_id, actor_name, target_type, target_id, origin, request_id"
    [row] = await stored.rows(f"SELECT {names} FROM audit_log WHERE position = 8")
    await stored.rows("DELETE FROM audit_log WHERE position = 8")
    values = [datetime.fromisoformat(value) if name == "at" and isinstance(value, str) else value
              for name, value in zip(names.split(", "), row, strict=True)]  # fmt: skip
    await stored.rows(f"INSERT INTO audit_log ({names}) VALUES ({', '.join('?' * len(values))})", *values)
    verdict = await verify(api, admin)
    assert verdict["fault"].startswith("truncated:")
    assert await stored.value("SELECT position FROM audit_log WHERE id = ?", row[0]) is None


@pytest.mark.parametrize("with_head", [False, True])
async def test_an_entry_linked_into_the_middle_without_the_key_is_found(
    with_head: bool, api: Api, admin: Person, start_app: StartApp, stored: Stored
) -> None:
    entries = await own_events(admin)
    forged = forged_entry()
    await insert(stored, forged, position=None, mac="")
    end = await link_anew(stored, [*entries[:3], forged, *entries[3:]], begin=1)
    if with_head:
        await set_head(stored, 9, end)
    fresh = await start_app()
    await renew(fresh, admin)
    verdict = await verify(fresh, admin)
    assert verdict["valid"] is False
    expected = ("replaced", None) if with_head else ("inserted", entries[-1]["id"])
    assert (verdict["fault"].partition(":")[0], verdict["first_bad"]) == expected


async def replace_all(stored: Stored, admin: Person) -> str:
    """A whole new chain in which somebody else was at work; its end."""
    entries = await own_events(admin)
    await stored.rows("UPDATE audit_log SET actor_name = 'eve@example.com'")
    return await link_anew(stored, [{**entry, "actor_name": "eve@example.com"} for entry in entries], begin=1)


@pytest.mark.parametrize("with_head", [False, True])
async def test_a_whole_chain_made_without_the_key_is_found(
    with_head: bool, api: Api, admin: Person, start_app: StartApp, stored: Stored
) -> None:
    end = await replace_all(stored, admin)
    if with_head:
        await set_head(stored, ENTRIES, end)
    fresh = await start_app()
    verdict = await verify(fresh, admin)
    last = None if with_head else await id_at(stored, ENTRIES)
    assert (verdict["fault"].partition(":")[0], verdict["first_bad"]) == ("replaced", last)
    await renew(fresh, admin)  # to link this to the forgery would sign it
    assert (await verify(fresh, admin))["valid"] is False


@pytest.fixture
def key(tmp_path: Path) -> Callable[[str], str]:
    """Signs as the server does; reads its key at the first use."""
    return lambda text: keyed_hash(derive_key((tmp_path / KEY_FILE).read_text().strip(), "audit"), text)


async def test_a_whole_chain_made_with_the_key_is_found_by_an_anchor_from_outside(
    api: Api, admin: Person, start_app: StartApp, stored: Stored, key: Callable[[str], str]
) -> None:
    anchor = (await verify(api, admin))["head"]
    end = await replace_all(stored, admin)
    await set_head(stored, ENTRIES, end, key(f"{ENTRIES} {end} 1 {START}"))
    fresh = await start_app()
    assert (await verify(fresh, admin))["valid"] is True
    assert (await verify(fresh, admin, anchor=end))["valid"] is True
    verdict = await verify(fresh, admin, anchor=anchor)
    assert (verdict["valid"], verdict["first_bad"]) == (False, None)
    assert verdict["fault"].startswith("replaced: the anchor")
    # The process that linked the true one needs no anchor.
    assert (await verify(api, admin))["fault"].startswith("replaced: another entry")


async def test_a_head_from_earlier_is_found_by_the_process_that_was_further_and_by_an_anchor(
    api: Api, admin: Person, start_app: StartApp, stored: Stored
) -> None:
    [earlier] = await stored.rows("SELECT position, hash, mac FROM audit_head")
    await renew(api, admin)
    anchor = (await verify(api, admin))["head"]
    await stored.rows("DELETE FROM audit_log WHERE position > ?", earlier[0])
    await set_head(stored, *earlier)
    await renew(api, admin)
    verdict = await verify(api, admin)
    assert (verdict["valid"], verdict["fault"].partition(":")[0]) == (False, "truncated")
    fresh = await start_app()
    assert (await verify(fresh, admin, anchor=anchor))["fault"].startswith("replaced: the anchor")


async def test_an_emptied_database_is_found_by_the_process_that_was_further_and_by_an_anchor(
    api: Api, admin: Person, start_app: StartApp, stored: Stored
) -> None:
    anchor = (await verify(api, admin))["head"]
    await stored.rows("DELETE FROM audit_log")
    await stored.rows("DELETE FROM audit_head")
    await renew(api, admin)
    assert (await verify(api, admin))["fault"].startswith("replaced: the head")
    fresh = await start_app()
    assert (await verify(fresh, admin, anchor=anchor))["fault"].startswith("replaced: the anchor")


async def test_anchors_noted_on_the_way_stay_good(api: Api, admin: Person) -> None:
    anchors = []
    for _ in range(3):
        anchors.append((await verify(api, admin))["head"])
        await renew(api, admin)
    for anchor in [*anchors, START]:
        verdict = await verify(api, admin, anchor=anchor)
        assert (verdict["valid"], verdict["entries"]) == (True, ENTRIES + 3)


@pytest.mark.parametrize("anchor", ["", "zz", "A" * 64, "0" * 65])
async def test_an_anchor_that_is_no_hash_is_refused(anchor: str, api: Api, admin: Person) -> None:
    answer = await admin.get("/audit-log/verify", params={"anchor": anchor})
    assert answer.status_code == 422


async def test_an_empty_log_is_in_order(start_app: StartApp, stored: Stored) -> None:
    api = await start_app()
    person = await api.register()
    await stored.rows("UPDATE users SET role = 'admin'")
    await stored.rows("DELETE FROM audit_log")
    await stored.rows("DELETE FROM audit_head")
    fresh = await start_app()
    assert await verify(fresh, person) == {
        "valid": True, "entries": 0, "first_bad": None, "head": START, "fault": None,
    }  # fmt: skip
