"""One user over HTTP: reading, changing and deleting oneself, and what nobody else can see or do."""

import asyncio
from datetime import datetime
from typing import Any

import httpx
import pytest

from duly.kit.clock import now
from tests.fixtures.application import PASSWORD, Api, Person
from tests.fixtures.stored import Stored

COLUMNS = ("id", "email", "username", "username_key", "name", "role", "is_active", "email_verified", "created_at",
           "updated_at", "version")  # fmt: skip
USER_KEYS = ["id", "email", "username", "name", "role", "is_active", "email_verified", "created_at", "updated_at"]
UNKNOWN = "019aa0c4-1b11-7b02-8c4e-6a7b1d2e3f40"


async def promote(stored: Stored, *people: Person) -> None:
    """Make them administrators by the back door."""
    for person in people:
        await stored.rows("UPDATE users SET role = 'admin', is_active = ? WHERE id = ?", True, person.user_id)


async def insert_users(stored: Stored, drafts: list[dict[str, Any]], moment: datetime | None = None) -> None:
    """Many users at once, who cannot sign in; what a draft leaves out is empty."""
    moment = moment or now()
    common = {"role": "user", "is_active": True, "email_verified": False, "created_at": moment, "updated_at": moment}
    for start in range(0, len(drafts), 400):
        part = [{**common, "version": 1, **draft} for draft in drafts[start : start + 400]]
        values = [draft.get(name) for draft in part for name in COLUMNS]
        marks = ", ".join(f"({', '.join('?' * len(COLUMNS))})" for _ in part)
        await stored.rows(f"INSERT INTO users ({', '.join(COLUMNS)}) VALUES {marks}", *values)


def code(response: httpx.Response) -> tuple[int, str]:
    """Status and stable code of a refusal."""
    return response.status_code, response.json()["code"]


def faults(response: httpx.Response) -> set[str]:
    """The fields that a 422 names."""
    assert response.status_code == 422, response.text
    return {fault["field"] for fault in response.json()["errors"]}


def anonymous(response: httpx.Response) -> tuple[int, dict[str, Any], set[str]]:
    """A refusal without what belongs to this one request."""
    body = {name: value for name, value in response.json().items() if name not in {"instance", "request_id"}}
    return response.status_code, body, set(response.headers)


async def version_of(stored: Stored, person: Person) -> int:
    found: int = await stored.value("SELECT version FROM users WHERE id = ?", person.user_id)
    return found


# Reading


@pytest.mark.covers("A019", "A056", "A059", "A089")
async def test_a_person_reads_themselves_by_id_and_as_the_profile(api: Api) -> None:
    ann = await api.register("ann@example.com", username="Ann-B", name="Ann")
    answers = [await ann.get(path) for path in (f"/users/{ann.user_id}", "/users/profile", "/users/profile/")]
    for answer in answers:
        assert (answer.status_code, answer.headers["etag"], answer.headers["cache-control"]) == (200, '"1"', "no-store")
        assert list(answer.json()) == USER_KEYS
        assert answer.json() == (await ann.get("/auth/me")).json()
    assert answers[0].json() | {"id": "", "created_at": "", "updated_at": ""} == {
        "id": "", "email": "ann@example.com", "username": "Ann-B", "name": "Ann", "role": "user", "is_active": True,
        "email_verified": False, "created_at": "", "updated_at": "",
    }  # fmt: skip
    for path in (f"/users/{ann.user_id}", "/users/profile"):
        unmodified = await ann.get(path, headers={"If-None-Match": '"1"'})
        assert (unmodified.status_code, unmodified.content, unmodified.headers["etag"]) == (304, b"", '"1"')
        assert (await ann.get(path, headers={"If-None-Match": '"2"'})).status_code == 200


@pytest.mark.covers("A059")
@pytest.mark.parametrize(("name", "allowed"), [("profile", "GET, HEAD"), ("export", "GET, HEAD"), ("bulk", "POST")])
async def test_a_fixed_path_is_nobodys_id_whatever_the_method(
    api: Api, ann: Person, stored: Stored, name: str, allowed: str
) -> None:
    await promote(stored, ann)
    await insert_users(stored, [{"id": name, "name": "named like a path"}])
    for method in {"GET", "PUT", "PATCH", "DELETE", "POST"} - set(allowed.split(", ")):
        answer = await ann.request(method, f"/users/{name}", json={"name": "swallowed"})
        assert code(answer) == (405, "METHOD_NOT_ALLOWED"), method
        assert answer.headers["allow"] == allowed
    assert await stored.rows("SELECT name, deleted_at FROM users WHERE id = ?", name) == [("named like a path", None)]
    assert (await ann.get("/users/profile")).json()["id"] == ann.user_id


@pytest.mark.covers("A056", "A057", "A058")
async def test_unknown_and_foreign_users_are_one_answer(api: Api, ann: Person, ben: Person, stored: Stored) -> None:
    ids = [ben.user_id, UNKNOWN, "x", "Profile", "a" * 256, "%00", "%F0%9F%98%80", "..%2f", "%0d%0a", "é"]
    for method, body in (("GET", None), ("PUT", {"name": "X"}), ("PATCH", {"is_active": False}),
                         ("PATCH", {"email": "x@example.com"}), ("DELETE", None),
                         ("DELETE", {"current_password": PASSWORD})):  # fmt: skip
        answers = [anonymous(await ann.request(method, f"/users/{user_id}", json=body)) for user_id in ids]
        assert answers[0][0] == 404, method
        assert all(answer[:2] == answers[0][:2] for answer in answers), method
        for user_id in ids[:2]:  # a condition tells nothing either
            stale = await ann.request(method, f"/users/{user_id}", json=body, headers={"If-Match": '"9"'})
            assert anonymous(stale) == answers[0], method
    assert (await version_of(stored, ben), (await ben.get("/auth/me")).status_code) == (1, 200)


async def test_nothing_here_is_for_strangers(api: Api, ann: Person) -> None:
    one = f"/users/{ann.user_id}"
    for method, path in (("GET", "/users"), ("GET", "/users/"), ("GET", "/users/profile"), ("GET", "/users/export"),
                         ("POST", "/users/bulk"), ("POST", f"{one}/unlock"), ("GET", one), ("PUT", one),
                         ("PATCH", one), ("DELETE", one)):  # fmt: skip
        answer = await api.client.request(method, f"/api/v1{path}")
        assert code(answer) == (401, "NOT_AUTHENTICATED"), (method, path)


# Changing


@pytest.mark.covers("A057", "A094")
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_what_is_absent_stays_and_null_clears(api: Api, stored: Stored, method: str) -> None:
    ann = await api.register("ann@example.com", username="ann-b", name="Ann")
    path = f"/users/{ann.user_id}"
    steps: list[tuple[dict[str, Any], tuple[str | None, str | None], int]] = [
        ({"name": "  Ann Example "}, ("ann-b", "Ann Example"), 2),
        ({"username": "Ann.C"}, ("Ann.C", "Ann Example"), 3), ({"name": None}, ("Ann.C", None), 4),
        ({"username": None, "name": "E\u0301va"}, (None, "Éva"), 5), ({}, (None, "Éva"), 5),
        ({"name": "Éva", "username": None}, (None, "Éva"), 5),
    ]  # fmt: skip
    for body, expected, version in steps:
        answer = await ann.request(method, path, json=body)
        found = answer.json()
        assert (answer.status_code, (found["username"], found["name"])) == (200, expected), body
        assert answer.headers["etag"] == f'"{version}"'
        assert (await ann.get(path)).json() == found
    found = [row[0] for row in await stored.rows("SELECT details FROM audit_log WHERE event = 'user.updated'")]
    assert sorted(found) == sorted(
        f'{{"fields": "{fields}"}}' for fields in ("name", "username", "name", "name,username")
    )


@pytest.mark.covers("A057")
async def test_a_user_that_was_read_can_be_edited_and_sent_back_whole(api: Api, ben: Person) -> None:
    ann = await api.register("ann@example.com", username="ann-b", name="Ann")
    read = (await ann.get(f"/users/{ann.user_id}")).json()
    for edit in ({"name": "Edited"}, {"username": "edited"}, {}):
        answer = await ann.put(f"/users/{ann.user_id}", json={**read, **edit})
        assert answer.status_code == 200, answer.text
        assert answer.json() | {"updated_at": ""} == read | edit | {"updated_at": ""}
        read = answer.json()
    # What only the server sets is read over, whatever it says.
    other = {"id": ben.user_id, "created_at": "2001-01-01T00:00:00Z", "updated_at": None, "email_verified": True}
    answer = await ann.put(f"/users/{ann.user_id}", json={**read, **other, "email": "ANN@Example.com"})
    assert (answer.status_code, answer.json()) == (200, read)


@pytest.mark.covers("A057")
async def test_what_cannot_be_said_is_named_and_changes_nothing(api: Api, ann: Person, stored: Stored) -> None:
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({"nickname": "X"}, {"nickname"}), ({"hashed_password": "x"}, {"hashed_password"}), ({"name": ""}, {"name"}),
        ({"name": "x" * 201}, {"name"}), ({"name": "a\x00b"}, {"name"}), ({"name": 5}, {"name"}),
        ({"username": "ab"}, {"username"}), ({"username": "a b c"}, {"username"}), ({"username": "a@b"}, {"username"}),
        ({"is_active": None}, {"is_active"}), ({"is_active": "true"}, {"is_active"}), ({"role": None}, {"role"}),
        ({"role": "root"}, {"role"}), ({"version": "1"}, {"version"}), ({"version": 0}, {"version"}),
        ({"email": "new@example.com"}, {"email"}), ({"email": None}, {"email"}), ({"email": "no address"}, {"email"}),
    ]  # fmt: skip
    for body, fields in cases:
        answer = await ann.patch(f"/users/{ann.user_id}", json={"name": "Changed", **body})
        assert faults(answer) == fields, body
    assert (await version_of(stored, ann), (await ann.get("/users/profile")).json()["name"]) == (1, None)
    assert (await ann.patch(f"/users/{ann.user_id}?force=true", json={"name": "X"})).status_code == 422


@pytest.mark.covers("A057")
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_a_stale_version_is_412_and_changes_nothing(api: Api, ann: Person, stored: Stored, method: str) -> None:
    path, body = f"/users/{ann.user_id}", {"current_password": PASSWORD} if method == "DELETE" else {"name": "Late"}
    assert (await ann.patch(path, json={"name": "First"}, headers={"If-Match": '"1"'})).status_code == 200
    stale: list[tuple[dict[str, str], dict[str, Any]]] = [({"If-Match": '"1"'}, {}), ({"If-Match": '"x"'}, {}),
                                                          ({"If-Match": 'W/"2"'}, {})]  # fmt: skip
    if method != "DELETE":
        stale += [({}, {"version": 1}), ({"If-Match": '"2"'}, {"version": 1}), ({"If-Match": "*"}, {"version": 3})]
    for headers, extra in stale:
        answer = await ann.request(method, path, json={**body, **extra}, headers=headers)
        assert code(answer) == (412, "STALE_VERSION"), (headers, extra)
    assert await version_of(stored, ann) == 2
    fresh: list[tuple[dict[str, str], dict[str, Any]]] = [({"If-Match": '"2"'}, {})]
    if method != "DELETE":
        fresh = [({}, {"version": 2}), ({"If-Match": '"3"'}, {"version": 3}), ({"If-Match": "*"}, {})]
    for number, (headers, extra) in enumerate(fresh):
        body = body | ({"name": f"Now {number}"} if method != "DELETE" else {})
        answer = await ann.request(method, path, json={**body, **extra}, headers=headers)
        assert answer.status_code == (204 if method == "DELETE" else 200), answer.text


@pytest.mark.covers("A057")
async def test_of_64_writers_with_one_tag_exactly_one_wins(api: Api, ann: Person, stored: Stored) -> None:
    path = f"/users/{ann.user_id}"
    answers = await asyncio.gather(
        *(ann.patch(path, json={"name": f"Writer {number}"}, headers={"If-Match": '"1"'}) for number in range(64))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 63
    [winner] = [answer.json() for answer in answers if answer.status_code == 200]
    assert ((await ann.get(path)).json(), await version_of(stored, ann)) == (winner, 2)
    assert await stored.value("SELECT count(*) FROM audit_log WHERE event = 'user.updated'") == 1


async def test_writers_without_a_tag_lose_no_field_of_each_other(api: Api, ann: Person, stored: Stored) -> None:
    path = f"/users/{ann.user_id}"
    bodies = [{"name": f"Ann {number}"} if number % 2 else {"username": f"ann{number}"} for number in range(16)]
    answers = await asyncio.gather(*(ann.patch(path, json=body) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    found = (await ann.get(path)).json()
    assert (found["name"] is not None, found["username"] is not None) == (True, True)
    assert await version_of(stored, ann) == 17


async def test_a_username_is_one_persons_whatever_its_case(api: Api, stored: Stored) -> None:
    ann, ben = await api.register(username="Ann-B"), await api.register(username="ben-c")
    for spelling in ("ann-b", "ANN-B", "Ann-B"):
        taken = await ben.patch(f"/users/{ben.user_id}", json={"username": spelling, "name": "Not kept"})
        assert code(taken) == (409, "USERNAME_TAKEN")
    assert (await version_of(stored, ben), (await ben.get("/users/profile")).json()["name"]) == (1, None)
    assert (await ann.patch(f"/users/{ann.user_id}", json={"username": "ANN-b"})).json()["username"] == "ANN-b"
    assert (await ann.patch(f"/users/{ann.user_id}", json={"username": None})).status_code == 200
    assert (await ben.patch(f"/users/{ben.user_id}", json={"username": "ann-b"})).json()["username"] == "ann-b"


@pytest.mark.covers("A035")
async def test_nobody_gives_themselves_rights(api: Api, ann: Person, stored: Stored) -> None:
    for body in ({"role": "admin"}, {"is_active": False}, {"role": "admin", "name": "Root"}):
        for method in ("PUT", "PATCH"):
            assert code(await ann.request(method, f"/users/{ann.user_id}", json=body)) == (403, "FORBIDDEN")
    assert (await ann.patch(f"/users/{ann.user_id}", json={"role": "user", "is_active": True})).status_code == 200
    rows = await stored.rows("SELECT role, is_active, version, name FROM users")
    assert [(row[0], bool(row[1]), *row[2:]) for row in rows] == [("user", True, 1, None)]
    for method, path in (("GET", "/users"), ("GET", "/users/export"), ("POST", f"/users/{ann.user_id}/unlock")):
        assert code(await ann.request(method, path)) == (403, "FORBIDDEN"), path
    bulk = {"action": "set_role", "ids": [ann.user_id], "role": "admin"}
    assert code(await ann.post("/users/bulk", json=bulk)) == (403, "FORBIDDEN")
    denied = await stored.value("SELECT count(*) FROM audit_log WHERE event = 'access.denied'")
    assert denied == 4


# Deleting


@pytest.mark.covers("A058", "D032", "D125", "A094")
async def test_deleting_oneself_needs_the_password_and_ends_everything(api: Api, stored: Stored) -> None:
    ann = await api.register("ann@example.com", username="ann-b", name="Ann")
    other, path = await api.log_in("ann@example.com"), f"/users/{ann.user_id}"
    for body in (None, {}, {"current_password": None}):
        assert faults(await ann.delete(path, json=body) if body is not None else await ann.delete(path)) == {
            "current_password"
        }
    assert faults(await ann.delete(path, json={"current_password": PASSWORD, "sure": True})) == {"sure"}
    wrong = await ann.delete(path, json={"current_password": PASSWORD + "x"})
    assert code(wrong) == (403, "WRONG_PASSWORD")
    assert (await ann.get("/auth/me")).status_code == 200
    gone = await ann.delete(path, json={"current_password": PASSWORD})
    assert (gone.status_code, gone.content) == (204, b"")
    for person in (ann, other):
        assert (await person.get("/auth/me")).status_code == 401
        refreshed = await api.client.post("/api/v1/auth/refresh", json={"refresh_token": person.refresh_token})
        assert refreshed.status_code == 401
    for name in ("ann@example.com", "ann-b"):
        login = await api.client.post("/api/v1/auth/login", json={"identifier": name, "password": PASSWORD})
        assert code(login) == (401, "INVALID_CREDENTIALS")
    [row] = await stored.rows(
        "SELECT email, username, username_key, name, hashed_password, is_active, deleted_at IS NULL FROM users"
    )
    assert (row[:5], bool(row[5]), bool(row[6])) == ((None,) * 5, False, False)
    assert await stored.value("SELECT count(*) FROM audit_log WHERE event = 'user.deleted'") == 1
    again = await api.register("ann@example.com", username="Ann-B")
    assert again.user_id != ann.user_id
    assert await stored.value("SELECT count(*) FROM users") == 2


async def test_of_many_deletions_at_once_one_is_done(api: Api, ann: Person, stored: Stored) -> None:
    body = {"current_password": PASSWORD}
    answers = await asyncio.gather(*(ann.delete(f"/users/{ann.user_id}", json=body) for _ in range(8)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 204
    assert set(statuses[1:]) <= {401, 403, 404}, statuses
    assert await stored.value("SELECT count(*) FROM audit_log WHERE event = 'user.deleted'") == 1
