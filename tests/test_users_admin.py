"""Users as administrators list, change, unlock and delete them, and the one administrator who always stays."""

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from duly.identity.users import SORTS
from tests.fixtures.application import PASSWORD, Api, Person
from tests.fixtures.stored import Stored
from tests.test_users import UNKNOWN, USER_KEYS, code, faults, insert_users, promote, version_of

User = dict[str, Any]
MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)
PAGE = 7


@pytest.fixture
async def root(api: Api, stored: Stored) -> Person:
    """An administrator."""
    person = await api.register("root@example.com", username="root", name="Root")
    await promote(stored, person)
    return person


async def listed(admin: Person, **query: Any) -> list[User]:
    """Everybody on one page of 100."""
    answer = await admin.get("/users", params={"limit": 100, **query})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["total"], body["next_cursor"]) == (len(body["items"]), None)
    items: list[User] = body["items"]
    return items


async def paged(admin: Person, *, by_cursor: bool, **query: Any) -> list[User]:
    """The same in pages, by cursor or by offset."""
    found: list[User] = []
    where: dict[str, Any] = {}
    while True:
        body = (await admin.get("/users", params={"limit": PAGE, **query, **where})).json()
        found += body["items"]
        if body["next_cursor"] is None:
            assert body["total"] == len(found)
            return found
        assert len(body["items"]) == PAGE
        where = {"cursor": body["next_cursor"]} if by_cursor else {"offset": len(found)}


# Listing


def crowd() -> list[dict[str, Any]]:
    """Forty users with few names, addresses and moments among them, so that most keys are equal."""
    chance = random.Random(4)  # noqa: S311 - the same crowd each time
    names = [None, "ann", "Ann", "ANN", "Élan", "élan", "zoe", "=1+1"]
    return [
        {
            "id": f"user-{chance.randrange(10**9)}-{number}", "name": chance.choice(names),
            "email": f"u{number}@example.com" if number % 3 else None,
            "username": f"U{number}" if number % 4 == 0 else None,
            "username_key": f"u{number}" if number % 4 == 0 else None,
            "role": "admin" if number % 5 == 0 else "user", "is_active": number % 2 == 0,
            "created_at": MOMENT + timedelta(seconds=number % 3), "updated_at": MOMENT + timedelta(days=number % 4),
        }
        for number in range(40)
    ]  # fmt: skip


def searched(user: User) -> str:
    return "\n".join(user[name] or "" for name in ("email", "username", "name")).lower()


KEYS: dict[str, Callable[[User], str]] = {
    "created_at": lambda user: user["created_at"],
    "updated_at": lambda user: user["updated_at"],
    "email": lambda user: user["email"] or "",
    "username": lambda user: (user["username"] or "").lower(),
    "name": lambda user: "".join(c.lower() if c.isascii() else c for c in user["name"] or ""),
}


@pytest.mark.covers("A054", "A099")
async def test_every_order_is_whole_and_in_pages_without_overlap(root: Person, stored: Stored) -> None:
    await insert_users(stored, crowd())
    everybody = await listed(root)
    assert len(everybody) == 41
    assert all(list(user) == USER_KEYS for user in everybody)
    assert len(SORTS) == 10
    for sort in SORTS:
        key = KEYS[sort.removeprefix("-")]
        expected = sorted(everybody, key=lambda user: (key(user), user["id"]), reverse=sort.startswith("-"))
        assert await listed(root, sort=sort) == expected, sort
        for by_cursor in (True, False):
            assert await paged(root, by_cursor=by_cursor, sort=sort) == expected, (sort, by_cursor)
    assert await listed(root, sort="-created_at") == everybody


@pytest.mark.covers("A054")
async def test_every_filter_is_the_lists_own_in_every_kind_of_page(root: Person, stored: Stored) -> None:
    await insert_users(stored, crowd())
    everybody = await listed(root)
    for query, holds in (
        ({"is_active": "true"}, lambda user: user["is_active"]),
        ({"is_active": "false"}, lambda user: not user["is_active"]),
        ({"role": "admin"}, lambda user: user["role"] == "admin"),
        ({"role": "user", "is_active": "true"}, lambda user: user["role"] == "user" and user["is_active"]),
        ({"search": "ÉLAN"}, lambda user: (user["name"] or "").lower() == "élan"),
        ({"search": "u1", "role": "user"}, lambda user: "u1" in searched(user) and user["role"] == "user"),
    ):  # fmt: skip
        expected = [user for user in everybody if holds(user)]
        assert 0 < len(expected) < 41, query
        assert await listed(root, **query) == expected, query
        for by_cursor in (True, False):
            assert await paged(root, by_cursor=by_cursor, **query) == expected, query


# ruff: noqa: RUF001 - letters of other alphabets look like Latin ones, and are to be told apart
NAMES = ["Émile Zola", "ÉCOLE", "Lécole", "Ζευς Οδυσσεύς", "Straße", "100% sure", "under_score", "back\\slash",
         "Ärger im Büro", "ДОМ у реки", "plain", "under-score", None, "ǅungla", "Ωmega"]  # fmt: skip


SEARCHES: list[tuple[str, set[int]]] = [
    ("é", {0, 1, 2}), ("É", {0, 1, 2}), ("ÉCOLE", {1, 2}), ("écol", {1, 2}), ("e\u0301col", {1, 2}), ("mile zo", {0}),
    ("ΟΔΥΣΣΕΎΣ", {3}), ("οδυσσεύσ", {3}), ("STRAẞE", {4}), ("strass", set()), ("%", {5}), ("0% S", {5}), ("_", {6}),
    ("UNDER_SCORE", {6}), ("\\", {7}), ("k\\s", {7}), ("ärger IM bÜro", {8}), ("дом У РЕКИ", {9}), ("дОм", {9}),
    ("under", {6, 11}), ("ǆungla", {13}), ("Ǆ", {13}), ("Ωm", {14}), ("ωM", {14}), ("'", set()), ("*", set()),
    ("N7@EXAMPLE", {7}), ("nick.7", {7}), ("NICK.1", {1, 10, 11, 12, 13, 14}),
]  # fmt: skip


@pytest.mark.covers("A054")
async def test_search_finds_parts_in_any_case_and_takes_signs_as_they_are(root: Person, stored: Stored) -> None:
    drafts = [
        {"id": f"u{index}", "name": name, "email": f"n{index}@example.com", "username": f"Nick.{index}",
         "username_key": f"nick.{index}"}
        for index, name in enumerate(NAMES)
    ]  # fmt: skip
    await insert_users(stored, drafts)
    for search, expected in SEARCHES:
        found = {user["id"] for user in await listed(root, search=search)}
        assert found == {f"u{index}" for index in expected}, search


async def test_a_search_may_hold_a_hundred_letters_of_any_alphabet(root: Person, stored: Stored) -> None:
    letters = [chr(number) for number in range(0xC0, 0x530) if chr(number).islower() and len(chr(number).upper()) == 1]
    name = "".join(letters[::4])[:100]
    assert len(name) == 100
    await insert_users(stored, [{"id": "odd", "name": name.upper()}, {"id": "other", "name": name[1:]}])
    assert [user["id"] for user in await listed(root, search=name)] == ["odd"]
    assert faults(await root.get("/users", params={"search": name + "a"})) == {"query.search"}


@pytest.mark.covers("A054")
async def test_a_cursor_that_was_altered_or_is_anothers_is_400(api: Api, root: Person, stored: Stored) -> None:
    await insert_users(stored, crowd())
    second = await api.register("second@example.com")
    await promote(stored, second)
    query = {"limit": 5, "sort": "name", "role": "user"}
    cursor = (await root.get("/users", params=query)).json()["next_cursor"]
    assert (await root.get("/users", params={**query, "cursor": cursor})).status_code == 200
    assert (await root.get("/users", params={**query, "limit": 9, "cursor": cursor})).status_code == 200
    for place in range(0, len(cursor), 7):
        altered = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
        assert code(await root.get("/users", params={**query, "cursor": altered})) == (400, "BAD_CURSOR")
    for other in ({"sort": "-name"}, {"sort": "email"}, {"role": "admin"}, {"is_active": "true"}, {"search": "a"}):
        assert code(await root.get("/users", params={**query, **other, "cursor": cursor})) == (400, "BAD_CURSOR"), other
    for alien in ("", "x", cursor[:-1], cursor + "A", "é", "A" * 2048):
        assert code(await root.get("/users", params={**query, "cursor": alien})) == (400, "BAD_CURSOR")
    assert code(await second.get("/users", params={**query, "cursor": cursor})) == (400, "BAD_CURSOR")
    assert (await root.get("/users", params={**query, "cursor": cursor, "offset": 5})).status_code == 422


@pytest.mark.covers("A054", "A094")
async def test_a_list_answers_with_and_without_a_slash_and_refuses_what_it_does_not_know(
    root: Person, stored: Stored
) -> None:
    plain, slashed = await root.get("/users"), await root.get("/users/")
    assert (plain.status_code, slashed.status_code, plain.json()) == (200, 200, slashed.json())
    assert set(plain.json()) == {"items", "total", "limit", "offset", "next_cursor"}
    assert plain.headers["cache-control"] == "no-store"
    assert await stored.value("SELECT count(*) FROM audit_log WHERE event = 'users.listed'") == 2
    for query in ("limit=0", "limit=101", "limit=x", "offset=-1", "sort=password", "sort=role", "role=root", "search=",
                  "is_active=1", "is_active=", "page=2", "search=%00", "cursor=" + "A" * 2049):  # fmt: skip
        assert (await root.get(f"/users?{query}")).status_code == 422, query


# Changing others


@pytest.mark.covers("A035", "A056", "A057", "A089")
async def test_an_administrator_reads_and_changes_others(api: Api, root: Person, ann: Person, stored: Stored) -> None:
    path = f"/users/{ann.user_id}"
    assert (await root.get(path)).json() == (await ann.get("/users/profile")).json()
    assert (await root.patch(path, json={"name": "Renamed", "username": "renamed"})).status_code == 200
    assert (await ann.get("/auth/me")).json()["name"] == "Renamed"
    # Switching off ends the sessions; switching on again brings none of them back.
    off = await root.put(path, json={**(await root.get(path)).json(), "is_active": False})
    assert (off.status_code, off.json()["is_active"]) == (200, False)
    assert (await ann.get("/auth/me")).status_code == 401
    login = await api.client.post("/api/v1/auth/login", json={"email": ann.email, "password": PASSWORD})
    assert code(login) == (401, "INVALID_CREDENTIALS")
    assert (await root.patch(path, json={"is_active": True})).json()["is_active"] is True
    assert (await ann.get("/auth/me")).status_code == 401
    ann = await api.log_in(ann.email)
    # A new administrator keeps the session; one who is no longer one does not.
    assert (await root.patch(path, json={"role": "admin"})).json()["role"] == "admin"
    assert (await ann.get("/users")).status_code == 200
    assert (await root.patch(path, json={"role": "user"})).json()["role"] == "user"
    assert (await ann.get("/auth/me")).status_code == 401
    events = [row[0] for row in await stored.rows("SELECT event FROM audit_log WHERE target_id = ?", ann.user_id)]
    assert {"user.updated", "user.deactivated", "user.activated"} <= set(events)
    assert events.count("user.role_changed") == 2


@pytest.mark.covers("A058")
async def test_an_administrator_deletes_others_without_a_password(api: Api, root: Person, stored: Stored) -> None:
    ann = await api.register("ann@example.com", username="ann-b")
    assert code(await root.delete(f"/users/{ann.user_id}", headers={"If-Match": '"9"'})) == (412, "STALE_VERSION")
    assert (await root.delete(f"/users/{ann.user_id}")).status_code == 204
    assert (await ann.get("/auth/me")).status_code == 401
    assert code(await root.get(f"/users/{ann.user_id}")) == (404, "NOT_FOUND")
    assert code(await root.delete(f"/users/{ann.user_id}")) == (404, "NOT_FOUND")
    assert code(await root.post(f"/users/{ann.user_id}/unlock")) == (404, "NOT_FOUND")
    assert [user["id"] for user in await listed(root)] == [root.user_id]
    assert await stored.value("SELECT count(*) FROM users") == 2
    await api.register("ann@example.com", username="ann-b")


async def test_nobody_changes_their_own_rights_and_the_last_administrator_stays(
    api: Api, root: Person, ann: Person, stored: Stored
) -> None:
    path = f"/users/{root.user_id}"
    for body in ({"role": "user"}, {"is_active": False}):
        assert code(await root.patch(path, json=body)) == (409, "LAST_ADMIN")
    assert code(await root.delete(path, json={"current_password": PASSWORD})) == (409, "LAST_ADMIN")
    # An administrator who is switched off or gone is none.
    await promote(stored, ann)
    await stored.rows("UPDATE users SET is_active = ? WHERE id = ?", False, ann.user_id)
    assert code(await root.patch(path, json={"role": "user"})) == (409, "LAST_ADMIN")
    await promote(stored, ann)
    for body in ({"role": "user"}, {"is_active": False}):
        assert code(await root.patch(path, json=body)) == (403, "FORBIDDEN")
    assert await version_of(stored, root) == 1
    assert (await root.delete(path, json={"current_password": PASSWORD})).status_code == 204
    assert code(await ann.delete(f"/users/{ann.user_id}", json={"current_password": PASSWORD})) == (409, "LAST_ADMIN")


Move = Callable[[Person, Person], Any]
MOVES: dict[str, Move] = {
    "demote": lambda actor, other: actor.patch(f"/users/{other.user_id}", json={"role": "user"}),
    "deactivate": lambda actor, other: actor.patch(f"/users/{other.user_id}", json={"is_active": False}),
    "delete": lambda actor, other: actor.delete(f"/users/{other.user_id}"),
    "bulk": lambda actor, other: actor.post("/users/bulk", json={"action": "deactivate", "ids": [other.user_id]}),
    "leave": lambda actor, _: actor.delete(f"/users/{actor.user_id}", json={"current_password": PASSWORD}),
}
REFUSALS = {401, 403, 404, 409}


async def meet(people: Sequence[Person], moves: Sequence[str]) -> list[httpx.Response]:
    """Each does something to the next one, all at once."""
    pairs = zip(people, [*people[1:], people[0]], moves, strict=True)
    return list(await asyncio.gather(*(MOVES[move](actor, other) for actor, other, move in pairs)))


@pytest.mark.parametrize("kind", [*MOVES, "mixed"])
async def test_of_administrators_who_remove_each_other_at_once_one_always_stays(
    api: Api, stored: Stored, kind: str
) -> None:
    chance = random.Random(kind)  # noqa: S311 - what goes wrong can be done again
    for round_number in range(10):
        people = [await api.register() for _ in range(2 + round_number % 3)]
        await promote(stored, *people)
        moves = [chance.choice(list(MOVES)) if kind == "mixed" else kind for _ in people]
        answers = await meet(people, moves)
        assert {answer.status_code for answer in answers} <= REFUSALS | {200, 204}, [a.text for a in answers]
        left = await stored.rows("SELECT id FROM users WHERE role = 'admin' AND is_active AND deleted_at IS NULL")
        assert len(left) >= 1, (round_number, moves, [answer.status_code for answer in answers])
        await stored.rows("UPDATE users SET role = 'user'")


# Many at once


async def bulk(admin: Person, action: str, ids: Sequence[str], **more: Any) -> tuple[list[User], int, int]:
    answer = await admin.post("/users/bulk", json={"action": action, "ids": ids, **more})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [(item["index"], item["id"]) for item in body["results"]] == list(enumerate(ids))
    return body["results"], body["succeeded"], body["failed"]


def states(results: Sequence[User]) -> list[tuple[int, str | None]]:
    return [(item["status"], item["error"] and item["error"]["code"]) for item in results]


@pytest.mark.covers("A071", "A094")
async def test_one_call_changes_many_and_says_what_became_of_each(api: Api, root: Person, stored: Stored) -> None:
    ann, ben = await api.register("ann@example.com"), await api.register("ben@example.com")
    ids = [ann.user_id, UNKNOWN, root.user_id, ben.user_id, "x" * 255]
    mixed = [(200, None), (404, "NOT_FOUND"), (403, "FORBIDDEN"), (200, None), (404, "NOT_FOUND")]
    for action, more, field, value in (
        ("deactivate", {}, "is_active", False), ("activate", {}, "is_active", True),
        ("set_role", {"role": "admin"}, "role", "admin"), ("set_role", {"role": "user"}, "role", "user"),
    ):  # fmt: skip
        results, succeeded, failed = await bulk(root, action, ids, **more)
        assert (states(results), succeeded, failed) == (mixed, 2, 3)
        assert [item["user"] and item["user"][field] for item in results] == [value, None, None, value, None]
        assert results[0]["user"] == (await root.get(f"/users/{ann.user_id}")).json()
    assert (await ann.get("/auth/me")).status_code == 401
    results, succeeded, failed = await bulk(root, "delete", ids)
    deleted = [(204, None) if status == 200 else (status, error) for status, error in mixed]
    assert (states(results), succeeded, failed) == (deleted, 2, 3)
    assert all(item["user"] is None for item in results)
    single = (await root.get(f"/users/{UNKNOWN}")).json()
    assert results[1]["error"] == {"code": single["code"], "message": single["detail"], "errors": None}
    assert [user["id"] for user in await listed(root)] == [root.user_id]
    assert await stored.value("SELECT count(*) FROM audit_log WHERE event = 'users.bulk_changed'") == 5


@pytest.mark.covers("A071")
async def test_an_id_twice_is_two_calls_and_a_hundred_are_enough(root: Person, stored: Stored) -> None:
    await insert_users(stored, [{"id": f"u{number}", "name": "one of many"} for number in range(101)])
    ids = [f"u{number}" for number in range(100)]
    assert states((await bulk(root, "deactivate", ids))[0]) == [(200, None)] * 100
    assert states((await bulk(root, "deactivate", ["u1", "u1"]))[0]) == [(200, None)] * 2
    assert await stored.value("SELECT count(*) FROM users WHERE NOT is_active AND version = 2") == 100
    assert states((await bulk(root, "delete", ["u1", "u2", "u1"]))[0]) == [
        (204, None), (204, None), (404, "NOT_FOUND"),
    ]  # fmt: skip


async def test_a_bulk_call_that_cannot_be_understood_changes_nothing(root: Person, ann: Person, stored: Stored) -> None:
    one = [ann.user_id]
    for body in (
        {}, {"action": "deactivate"}, {"action": "deactivate", "ids": []}, {"action": "deactivate", "ids": one * 101},
        {"action": "deactivate", "ids": ann.user_id}, {"action": "deactivate", "ids": [*one, None]},
        {"action": "deactivate", "ids": [*one, 5]}, {"action": "deactivate", "ids": [*one, "x" * 256]},
        {"action": "promote", "ids": one}, {"action": "set_role", "ids": one},
        {"action": "set_role", "ids": one, "role": "root"}, {"action": "delete", "ids": one, "role": "user"},
        {"action": "delete", "ids": one, "atomic": True},
    ):  # fmt: skip
        assert code(await root.post("/users/bulk", json=body)) == (422, "VALIDATION_ERROR"), body
    odd = [*one, "\x00", "\u2028", "é", "", " " + ann.user_id]
    results, _, _ = await bulk(root, "deactivate", odd)
    assert states(results) == [(200, None)] + [(404, "NOT_FOUND")] * 5
    assert await version_of(stored, ann) == 2
