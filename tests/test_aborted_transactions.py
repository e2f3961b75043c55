"""PostgreSQL gives a transaction up at its COMMIT: the request is run again as a whole, and nothing happens twice.

Every writing operation is done twice by equal people, once undisturbed and once with its first transaction refused as a
serialization failure; the rows that come and go must be the same. `TORTURE=1` does all of them, otherwise some.
"""

import itertools
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fixtures.application import PASSWORD, Api, Person
from tests.second_connection import SecondConnection, second_connection

pytestmark = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
# What a request may write; what the upkeep writes beside it (links of the audit log, tokens of mails) is left alone.
WRITTEN = (
    "users", "sessions", "refresh_tokens", "blacklisted_tokens", "login_failures", "tasks", "task_counters", "changes",
    "attachments", "idempotency_keys",
)  # fmt: skip
TRAPPED = dict.fromkeys(WRITTEN, "INSERT OR UPDATE OR DELETE") | {"outbox": "INSERT", "audit_log": "INSERT"}
NEW_PASSWORD = "marigold-anchor-57"
CSV = "title,priority\nOne,high\nTwo,low\n"
KEYED = {"Idempotency-Key": "once"}

# {open}, {trashed} and {attachment} are the caller's, {other} is another user, {new} is new each time.
WRITES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "create": ("POST", "/tasks", {"json": {"title": "new"}}),
    "create with a key": ("POST", "/tasks", {"json": {"title": "new"}, "headers": KEYED}),
    "replace": ("PUT", "/tasks/{open}", {"json": {"title": "put"}}),
    "change": ("PATCH", "/tasks/{open}", {"json": {"title": "patched"}}),
    "change if unchanged": ("PATCH", "/tasks/{open}", {
        "json": {"title": "patched"}, "headers": KEYED | {"If-Match": "*"}}),
    "complete": ("PATCH", "/tasks/{open}/complete", {}),
    "delete": ("DELETE", "/tasks/{open}", {}),
    "restore": ("POST", "/tasks/{trashed}/restore", {}),
    "bulk": ("POST", "/tasks/bulk", {"json": {"operations": [
        {"op": "create", "task": {"title": "bulk"}}, {"op": "delete", "id": "{open}"}], "atomic": True}}),
    "bulk with a key": ("POST", "/tasks/bulk", {"headers": KEYED, "json": {"operations": [
        {"op": "create", "task": {"title": "bulk"}}, {"op": "complete", "id": "{open}"}]}}),
    "import": ("POST", "/tasks/import", {"files": {"file": ("a.csv", CSV)}}),
    "import with a key": ("POST", "/tasks/import", {"files": {"file": ("a.csv", CSV)}, "headers": KEYED}),
    "upload": ("POST", "/tasks/{open}/attachments", {"files": {"file": ("b.txt", b"more")}}),
    "remove a file": ("DELETE", "/tasks/{open}/attachments/{attachment}", {}),
    "register": ("POST", "/auth/register", {"json": {"email": "{new}@example.com", "password": PASSWORD}}),
    "log in": ("POST", "/auth/login", {"json": {"email": "{email}", "password": PASSWORD}}),
    "refresh": ("POST", "/auth/refresh", {"json": {"refresh_token": "{refresh_token}"}}),
    "log out": ("POST", "/auth/logout", {}),
    "log out everywhere": ("POST", "/auth/logout", {"json": {"all_sessions": True}}),
    "end a session": ("DELETE", "/auth/sessions/{session}", {}),
    "change the password": ("POST", "/auth/change-password", {"json": {
        "current_password": PASSWORD, "new_password": NEW_PASSWORD}}),
    "forget the password": ("POST", "/auth/forgot-password", {"json": {"email": "{email}"}}),
    "change the address": ("POST", "/users/me/change-email", {"json": {
        "new_email": "{new}@example.com", "current_password": PASSWORD}}),
    "rename oneself": ("PATCH", "/users/{user_id}", {"json": {"name": "Anna"}}),
    "leave": ("DELETE", "/users/{user_id}", {"json": {"current_password": PASSWORD}}),
    "promote somebody": ("PATCH", "/users/{other}", {"json": {"role": "admin"}}),
    "deactivate many": ("POST", "/users/bulk", {"json": {"action": "deactivate", "ids": ["{other}"]}}),
    "delete somebody": ("DELETE", "/users/{other}", {}),
}  # fmt: skip
SOME = ("create with a key", "bulk with a key", "import with a key", "upload", "refresh", "deactivate many")
BY_ADMIN = {"promote somebody", "deactivate many", "delete somebody"}
_numbers = itertools.count(1)


@dataclass
class House:
    """The application, and what somebody else sees of its database."""

    api: Api
    outside: SecondConnection

    async def furnish(self, *, admin: bool) -> tuple[Person, dict[str, str]]:
        """Somebody with tasks, a file, a second session and a neighbour; and what stands for the names above."""
        number = next(_numbers)
        person = await self.api.register(f"aborted{number}@example.com")
        other = await self.api.register()
        if admin:
            await self.outside.run(f"UPDATE users SET role = 'admin' WHERE id = '{person.user_id}'")
            person = await self.api.log_in(person.email)
        tasks = [(await person.add_task(title))["id"] for title in ("open", "trashed")]
        await person.delete(f"/tasks/{tasks[1]}")
        file = await person.post(f"/tasks/{tasks[0]}/attachments", files={"file": ("a.txt", b"text")})
        await self.api.log_in(person.email)
        sessions = (await person.get("/auth/sessions")).json()["items"]
        values = {
            "open": tasks[0], "trashed": tasks[1], "attachment": file.json()["id"], "other": other.user_id,
            "email": person.email, "refresh_token": person.refresh_token, "user_id": person.user_id,
            "session": next(one["id"] for one in sessions if not one["current"]), "new": f"new{number}",
        }  # fmt: skip
        return person, values

    async def counts(self) -> dict[str, int]:
        """Rows of each table, and the changes of all tasks."""
        return {table: int(await self.outside.value(f"SELECT count(*) FROM {table}")) for table in TRAPPED}

    async def do(self, name: str, *, aborted: bool) -> tuple[int, dict[str, int]]:
        """One of the writes: its status, and how many rows came or went in each table."""
        person, values = await self.furnish(admin=name in BY_ADMIN)
        method, path, options = WRITES[name]
        before = await self.counts()
        await self.outside.run("ALTER SEQUENCE aborts RESTART")
        if aborted:
            await self.outside.run("INSERT INTO armed VALUES (1)")
        answer = await person.request(method, path.format(**values), **_filled(options, values))
        await self.outside.run("DELETE FROM armed")
        refused = int(await self.outside.value("SELECT last_value FROM aborts")) > 1
        assert refused == aborted, f"{name}: the trap was not met"
        assert "idempotency-replayed" not in answer.headers
        after = await self.counts()
        return answer.status_code, {table: after[table] - before[table] for table in TRAPPED}


def _filled(what: Any, values: dict[str, str]) -> Any:
    if isinstance(what, dict):
        return {key: _filled(value, values) for key, value in what.items()}
    if isinstance(what, list):
        return [_filled(value, values) for value in what]
    return what.format(**values) if isinstance(what, str) else what


@pytest.fixture
async def house(api: Api) -> AsyncIterator[House]:
    """With the trap set: it is armed while `armed` holds a row, and refuses one transaction."""
    async with second_connection(api.settings.database_url or "") as outside:
        await outside.run("CREATE SEQUENCE aborts")
        await outside.run("CREATE TABLE armed (id int)")
        await outside.run(
            "CREATE FUNCTION abort_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF EXISTS (SELECT FROM armed) AND nextval('aborts') <= 1 THEN "
            "RAISE 'given up' USING ERRCODE = 'serialization_failure'; END IF; RETURN NULL; END $$"
        )
        for table, events in TRAPPED.items():
            await outside.run(
                f"CREATE CONSTRAINT TRIGGER abort_once AFTER {events} ON {table} DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION abort_once()"
            )
        yield House(api, outside)


async def test_a_request_that_the_database_gave_up_succeeds_and_has_its_effect_once(house: House) -> None:
    for name in WRITES if os.environ.get("TORTURE") else SOME:
        usual = await house.do(name, aborted=False)
        assert usual[0] in (200, 201, 202, 204), (name, usual)
        assert await house.do(name, aborted=True) == usual, name
