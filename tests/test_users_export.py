"""All users as a file: streamed, complete, and no cell of it a formula."""

import csv
import io
import json
from typing import Any

import httpx
import pytest

from tests.fixtures.application import PASSWORD, Api, Person
from tests.fixtures.server import StartServer
from tests.fixtures.stored import Stored
from tests.test_users import USER_KEYS, code, insert_users, promote

MANY = 1_037
STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def crowd() -> list[dict[str, Any]]:
    """More than the export reads at once, most of them of one moment, and names of every awkward kind."""
    awkward = [f"{start}cmd|' /C calc'!A0" for start in STARTS]
    awkward += ['a "quoted", name', "two\r\nlines", "Émile 😀", "'apostrophe", " =1", None]
    people = [{"id": f"many-{number:05}", "email": f"many{number}@example.com"} for number in range(MANY)]
    for person, name in zip(people, awkward, strict=False):
        person["name"] = name or ""
    people += [{"id": f"{start}id", "email": f"{start}{number}@example.com"} for number, start in enumerate("=+-")]
    return people


@pytest.fixture
async def root(api: Api, stored: Stored) -> Person:
    """The administrator of a full house; one user of it is deleted."""
    person = await api.register("root@example.com", username="root", name="Root")
    await promote(stored, person)
    gone = await api.register("gone@example.com")
    assert (await person.delete(f"/users/{gone.user_id}")).status_code == 204
    await insert_users(stored, crowd())
    return person


async def all_users(root: Person) -> list[dict[str, Any]]:
    """What the list says, oldest first."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        body = (await root.get("/users", params={"sort": "created_at", "limit": 100, **cursor})).json()
        found += body["items"]
        if body["next_cursor"] is None:
            return found
        cursor = {"cursor": body["next_cursor"]}


@pytest.mark.covers("A070", "A094")
async def test_the_json_file_holds_everybody_as_the_list_does(root: Person, stored: Stored) -> None:
    for query in ("", "?format=json"):
        answer = await root.get(f"/users/export{query}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.headers["content-disposition"] == 'attachment; filename="users.json"'
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "content-length" not in answer.headers
        found = answer.json()
        assert len(found) == MANY + 4
        assert found == await all_users(root)
        assert list(found[0]) == USER_KEYS
    names = {user["name"] for user in found}
    assert {f"{start}cmd|' /C calc'!A0" for start in STARTS} <= names
    details = [json.loads(row[0]) for row in await stored.rows(
        "SELECT details FROM audit_log WHERE event = 'data.exported' AND actor_id = ?", root.user_id)]  # fmt: skip
    assert details == [{"what": "users", "format": "json"}] * 2


@pytest.mark.covers("A070")
async def test_no_cell_of_the_csv_file_is_a_formula(root: Person) -> None:
    answer = await root.get("/users/export?format=csv")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert answer.headers["content-disposition"] == 'attachment; filename="users.csv"'
    text = answer.content.decode()
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert header == USER_KEYS
    assert text.startswith(",".join(USER_KEYS) + "\r\n")
    assert text.endswith("\r\n")
    everybody = await all_users(root)
    assert len(rows) == len(everybody) == MANY + 4
    assert not [cell for row in rows for cell in row if cell.startswith(STARTS)]
    for row, user in zip(rows, everybody, strict=True):
        for cell, name in zip(row, header, strict=True):
            value = user[name]
            plain = "" if value is None else str(value).lower() if isinstance(value, bool) else value
            assert cell == ("'" + plain if plain.startswith(STARTS) else plain), name


async def test_the_files_are_for_administrators_and_come_in_two_forms(root: Person, ann: Person) -> None:
    assert code(await ann.get("/users/export")) == (403, "FORBIDDEN")
    assert (await ann.client.get("/api/v1/users/export")).status_code == 401
    for query in ("format=xml", "format=", "format=CSV", "kind=csv"):
        assert code(await root.get(f"/users/export?{query}")) == (422, "VALIDATION_ERROR"), query
    assert (await root.get("/users/export/?format=csv")).status_code == 200


async def test_an_empty_name_and_the_only_user_make_a_file_too(api: Api, ann: Person, stored: Stored) -> None:
    await promote(stored, ann)
    [only] = (await ann.get("/users/export")).json()
    assert only == (await ann.get("/users/profile")).json()
    [row] = csv.DictReader(io.StringIO((await ann.get("/users/export?format=csv")).text))
    assert (row["id"], row["name"], row["role"], row["is_active"]) == (ann.user_id, "", "admin", "true")


async def test_the_file_is_sent_while_it_is_read(start_server: StartServer, database_url: str, stored: Stored) -> None:
    server = start_server(database_url=database_url)
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=30) as client:
        body = {"email": "root@example.com", "password": PASSWORD}
        token = (await client.post("/api/v1/auth/register", json=body)).json()["access_token"]
        await stored.rows("UPDATE users SET role = 'admin'")
        await insert_users(stored, crowd())
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        for form in ("json", "csv"):
            async with client.stream("GET", f"/api/v1/users/export?format={form}", headers=headers) as answer:
                assert (answer.status_code, answer.headers["transfer-encoding"]) == (200, "chunked")
                pieces = [piece async for piece in answer.aiter_raw()]
            assert len(pieces) > 3
            whole = b"".join(pieces).decode()
            count = (
                len(json.loads(whole)) if form == "json" else len(list(csv.reader(io.StringIO(whole, newline="")))) - 1
            )
            assert count == MANY + 4
