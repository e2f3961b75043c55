"""Each event of the closed set as HTTP produces it: one entry and one log line, with the id that the answer has."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from duly.audit.events import Event
from duly.kit.passwords import PasswordHasher
from tests.better_auth.issuing import claims_for, seal
from tests.commands import answer, run_duly
from tests.fixtures.accounts import REGISTRATION, REGISTRATION_TOKEN
from tests.fixtures.application import PASSWORD, Api, StartApp
from tests.fixtures.server import Server, StartServer
from tests.fixtures.smtp import MailServer
from tests.fixtures.stored import Stored
from tests.mails import CONFIRM, NEW_PASSWORD, PUBLIC_URL, RESET, VERIFY, settle, token_in

AGENT = "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"
WRONG = "a-wrong-guess-4711"
OUTSIDE_SECRET = "the-secret-that-both-sides-of-these-tests-share"
NAMES = [
    "access.denied", "admin.registered", "audit.read", "data.exported", "data.imported", "email.change_requested",
    "email.changed", "email.verified", "file.infected", "key.rotated", "outside_user.first_seen", "password.changed",
    "password.rehashed", "password.reset", "password.reset_requested", "rate.limited", "session.refreshed",
    "session.revoked", "token.reused", "user.activated", "user.deactivated", "user.deleted", "user.locked",
    "user.logged_in", "user.logged_out", "user.logged_out_everywhere", "user.login_failed", "user.registered",
    "user.role_changed", "user.unlocked", "user.updated", "users.bulk_changed", "users.listed",
]  # fmt: skip
# Imports come with the tasks' exchange of files; keys are rotated on the command line (tests/test_rotate_keys.py).
NOT_OVER_HTTP = {"data.imported", "key.rotated"}
# Limits are switched on in a test of their own, below; a virus scanner is in tests/test_virus_scan.py.
NOT_IN_THE_STORY = {"rate.limited", "file.infected"}
Row = tuple[str, str | None, str | None, str | None, str]


@pytest.mark.covers("A040")
def test_the_set_of_events_is_closed_and_known() -> None:
    assert sorted(event.value for event in Event) == sorted(NAMES)
    assert len(NAMES) >= 24


@dataclass
class Story:
    """What people did over HTTP, and which entries each answer stands for."""

    client: httpx.AsyncClient
    stored: Stored
    mails: MailServer
    expected: dict[str, list[Row]] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=lambda: {PASSWORD, NEW_PASSWORD, WRONG, OUTSIDE_SECRET})

    async def call(
        self, method: str, path: str, status: int, *events: Row, token: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """One request that is to be answered so, and to leave these entries in this order."""
        headers = options.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        reply = await self.client.request(method, f"/api{path}", headers=headers, **options)
        assert reply.status_code == status, (path, reply.text)
        self.expected[reply.headers["x-request-id"]] = list(events)
        is_json = "json" in reply.headers.get("content-type", "")
        body: Any = reply.json() if is_json else {}
        if isinstance(body, dict):
            self.secrets |= {body[name] for name in ("access_token", "refresh_token") if name in body}
            return body
        return {}

    async def register(self, email: str) -> tuple[str, str, str]:
        """Somebody new: id, access token and refresh token."""
        body = await self.call("POST", "/v1/auth/register", 201, json={"email": email, "password": PASSWORD})
        user_id = body["user"]["id"]
        self.expect_last(("user.registered", user_id, "user", user_id, "success"))
        return user_id, body["access_token"], body["refresh_token"]

    async def log_in(self, email: str, user_id: str, *before: Row, password: str = PASSWORD) -> tuple[str, str]:
        """A session: access token and refresh token."""
        event = ("user.logged_in", user_id, "user", user_id, "success")
        body = await self.call(
            "POST", "/v1/auth/login", 200, *before, event, json={"email": email, "password": password}
        )
        return body["access_token"], body["refresh_token"]

    async def mailed(self, email: str, subject: str) -> str:
        """The token of a mail."""
        token = token_in(await self.mails.wait_for(email, subject))
        self.secrets.add(token)
        return token

    async def session_of(self, user_id: str) -> str:
        """The newest session."""
        found = await self.stored.rows("SELECT id FROM sessions WHERE user_id = ? ORDER BY id", user_id)
        return str(found[-1][0])

    def expect_last(self, *events: Row) -> None:
        """What the last answer stands for, when its body says who it was."""
        self.expected[list(self.expected)[-1]] = list(events)


@pytest.fixture
def server(start_server: StartServer, mail_server: MailServer, database_url: str) -> Server:
    return start_server(
        database_url=database_url, log_format="json", log_level="debug", public_url=PUBLIC_URL,
        better_auth_secret=OUTSIDE_SECRET, admin_registration_token=REGISTRATION_TOKEN, **mail_server.settings,
    )  # fmt: skip


@pytest.fixture
async def story(server: Server, mail_server: MailServer, stored: Stored) -> AsyncIterator[Story]:
    options: Any = {"base_url": server.base_url, "trust_env": False, "headers": {"User-Agent": AGENT}, "timeout": 20}
    async with httpx.AsyncClient(**options) as client:
        yield Story(client, stored, mail_server, secrets={PASSWORD, NEW_PASSWORD, WRONG, REGISTRATION_TOKEN})


async def sessions_come_and_go(story: Story) -> None:
    ann, token, first = await story.register("ann@example.com")
    session = await story.session_of(ann)
    refreshed = ("session.refreshed", ann, "session", session, "success")
    second = await story.call("POST", "/v1/auth/refresh", 200, refreshed, json={"refresh_token": first})
    # A lost answer brings the same pair again, which is no second event.
    await story.call("POST", "/v1/auth/refresh", 200, json={"refresh_token": first})
    await story.call("POST", "/v1/auth/refresh", 200, refreshed, json={"refresh_token": second["refresh_token"]})
    reused = ("token.reused", ann, "session", session, "failure")
    await story.call("POST", "/v1/auth/refresh", 401, reused, json={"refresh_token": first})
    await story.call("GET", "/v1/auth/me", 401, token=token)

    token, _ = await story.log_in("ann@example.com", ann)
    out = ("user.logged_out", ann, "session", await story.session_of(ann), "success")
    await story.call("POST", "/v1/auth/logout", 204, out, token=token)
    await story.call("POST", "/v1/auth/logout", 401, token=token)
    await story.log_in("ann@example.com", ann)
    session = await story.session_of(ann)
    token, _ = await story.log_in("ann@example.com", ann)
    revoked = ("session.revoked", ann, "session", session, "success")
    await story.call("DELETE", f"/v1/auth/sessions/{session}", 204, revoked, token=token)
    await story.call("DELETE", f"/v1/auth/sessions/{session}", 404, token=token)
    everywhere = ("user.logged_out_everywhere", ann, "user", ann, "success")
    await story.call("POST", "/v1/auth/logout", 204, everywhere, token=token, json={"all_sessions": True})


async def refusals_write_only_what_they_must(story: Story, ann: str) -> None:
    taken = {"email": "ann@example.com", "password": PASSWORD}
    await story.call("POST", "/v1/auth/register", 409, json=taken)
    await story.call("POST", "/v1/auth/register", 422, json={"email": "weak@example.com", "password": "password1"})
    failed: Row = ("user.login_failed", None, "user", ann, "failure")
    unknown: Row = ("user.login_failed", None, None, None, "failure")
    await story.call("POST", "/v1/auth/login", 401, failed, json={"email": "ann@example.com", "password": WRONG})
    await story.call("POST", "/v1/auth/login", 401, unknown, json={"email": "nobody@example.com", "password": WRONG})


async def passwords_and_addresses_change(story: Story) -> None:
    email, new_email = "ben@example.com", "ben@new.example.com"
    ben, token, _ = await story.register(email)
    proof = await story.mailed(email, VERIFY)
    own: dict[str, Row] = {
        name: (name, ben, "user", ben, "success")
        for name in ("email.verified", "email.change_requested", "email.changed", "password.changed",
                     "password.reset", "password.rehashed", "user.updated", "user.deleted")
    }  # fmt: skip
    await story.call("POST", "/v1/auth/verify-email", 204, own["email.verified"], json={"token": proof})
    await story.call("POST", "/v1/auth/verify-email", 422, json={"token": proof})
    body = {"new_email": new_email, "current_password": PASSWORD}
    await story.call("POST", "/v1/users/me/change-email", 202, own["email.change_requested"], token=token, json=body)
    confirmation = await story.mailed(new_email, CONFIRM)
    await story.call("POST", "/v1/auth/confirm-email", 204, own["email.changed"], json={"token": confirmation})
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    await story.call("POST", "/v1/auth/change-password", 204, own["password.changed"], token=token, json=body)
    # Recorded when the mail is made, where it is found out whether anybody has the address.
    asked: Row = ("password.reset_requested", None, "user", ben, "success")
    await story.call("POST", "/v1/auth/forgot-password", 202, asked, json={"email": new_email})
    nobody: Row = ("password.reset_requested", None, None, None, "failure")
    await story.call("POST", "/v1/auth/forgot-password", 202, nobody, json={"email": "nobody@example.com"})
    body = {"token": await story.mailed(new_email, RESET), "new_password": PASSWORD}
    await story.call("POST", "/v1/auth/reset-password", 204, own["password.reset"], json=body)
    hasher = PasswordHasher("bcrypt", 10)
    older = await hasher.hash(PASSWORD)
    hasher.close()
    story.secrets.add(older)
    await story.stored.rows("UPDATE users SET hashed_password = ? WHERE id = ?", older, ben)
    token, _ = await story.log_in(new_email, ben, own["password.rehashed"])
    await story.call("PATCH", f"/v1/users/{ben}", 200, own["user.updated"], token=token, json={"name": "Ben"})
    await story.call("PATCH", f"/v1/users/{ben}", 200, token=token, json={"name": "Ben"})
    denied: Row = ("access.denied", ben, None, None, "failure")
    await story.call("GET", "/v1/audit-log", 403, denied, token=token)
    body = {"current_password": PASSWORD}
    await story.call("DELETE", f"/v1/users/{ben}", 204, own["user.deleted"], token=token, json=body)


async def administrators_work(story: Story) -> str:
    """The token of an administrator."""
    draft = {"email": "root@example.com", "username": "root", "password": PASSWORD}
    body = await story.call("POST", "/admins/register", 201, json=draft, headers=REGISTRATION)
    root, token = str(body["admin"]["id"]), str(body["access_token"])
    story.expect_last(("admin.registered", root, "user", root, "success"))
    cid, _, _ = await story.register("cid@example.com")
    dan, _, _ = await story.register("dan@example.com")

    def done(name: str, target: str) -> Row:
        return (name, root, "user", target, "success")

    failed: Row = ("user.login_failed", None, "user", cid, "failure")
    for number in range(1, 6):
        events = [failed, ("user.locked", None, "user", cid, "failure")] if number == 5 else [failed]
        body = {"email": "cid@example.com", "password": WRONG}
        await story.call("POST", "/v1/auth/login", 401, *events, json=body)
    await story.call("POST", "/v1/auth/login", 423, json={"email": "cid@example.com", "password": PASSWORD})
    await story.call("POST", f"/v1/users/{cid}/unlock", 204, done("user.unlocked", cid), token=token)
    await story.call("POST", f"/v1/users/{cid}/unlock", 204, token=token)
    path = f"/v1/users/{cid}"
    await story.call("PATCH", path, 200, done("user.role_changed", cid), token=token, json={"role": "admin"})
    await story.call("PATCH", path, 200, done("user.deactivated", cid), token=token, json={"is_active": False})
    await story.call("PATCH", path, 200, done("user.activated", cid), token=token, json={"is_active": True})
    bulk: Row = ("users.bulk_changed", root, None, None, "success")
    many = {"action": "deactivate", "ids": [cid, dan, "nobody"]}
    events = [done("user.deactivated", cid), done("user.deactivated", dan), bulk]
    await story.call("POST", "/v1/users/bulk", 200, *events, token=token, json=many)
    await story.call("DELETE", f"/v1/users/{dan}", 204, done("user.deleted", dan), token=token)
    listed: Row = ("users.listed", root, None, None, "success")
    await story.call("GET", "/v1/users", 200, listed, token=token)
    await story.call("GET", "/admins/users", 200, listed, token=token)
    exported: Row = ("data.exported", root, None, None, "success")
    await story.call("GET", "/v1/users/export?format=csv", 200, exported, token=token)
    await story.call("GET", "/v1/audit-log", 200, ("audit.read", root, None, None, "success"), token=token)
    await story.call("GET", "/v1/audit-log/verify", 200, token=token)
    await story.call("GET", "/v1/users/me/security-events", 200, token=token)
    return token


async def somebody_comes_from_outside(story: Story) -> None:
    claims = claims_for("", iss=None, aud=None, sub="outside-1")
    token = seal({"alg": "HS256"}, claims, OUTSIDE_SECRET.encode(), "HS256")
    story.secrets |= {token, OUTSIDE_SECRET}
    first: Row = ("outside_user.first_seen", "outside-1", "user", "outside-1", "success")
    await story.call("GET", "/v1/auth/me", 200, first, token=token)
    await story.call("GET", "/v1/auth/me", 200, token=token)


async def read_everything(story: Story, token: str) -> list[dict[str, Any]]:
    """The whole log, oldest first."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        params = {"limit": "100", **({"cursor": cursor} if cursor else {})}
        headers = {"Authorization": f"Bearer {token}"}
        page = (await story.client.get("/api/v1/audit-log", params=params, headers=headers)).json()
        found += page["items"]
        cursor = page["next_cursor"]
    return found[::-1]


@pytest.mark.covers("A022", "A039", "A040", "A047", "A094")
async def test_each_event_leaves_one_entry_and_one_log_line_with_the_answer_s_request_id_and_no_secret(
    story: Story, server: Server
) -> None:
    await sessions_come_and_go(story)
    ann = await story.stored.value("SELECT id FROM users WHERE email = 'ann@example.com'")
    await refusals_write_only_what_they_must(story, ann)
    await passwords_and_addresses_change(story)
    token = await administrators_work(story)
    await somebody_comes_from_outside(story)
    await settle(story.stored)
    log = await read_everything(story, token)
    entries = [entry for entry in log if entry["request_id"] in story.expected]

    found: dict[str, list[Row]] = {request_id: [] for request_id in story.expected}
    for entry in entries:
        row = (entry["event"], entry["actor_id"], entry["target_type"], entry["target_id"], entry["outcome"])
        found[entry["request_id"]].append(row)
        assert (entry["ip_address"], entry["user_agent"]) == ("127.0.0.1", AGENT), entry
        assert (entry["actor_id"] is None) == (entry["actor_name"] is None) or entry["event"] == "access.denied"
    assert found == story.expected
    assert {entry["event"] for entry in log if entry not in entries} <= {"audit.read"}
    assert {entry["event"] for entry in entries} == set(NAMES) - NOT_OVER_HTTP - NOT_IN_THE_STORY

    assert_one_line_each(server, entries)
    await assert_no_secret(story, server)


def assert_one_line_each(server: Server, entries: list[dict[str, Any]]) -> None:
    """Each entry has one line of JSON that names it."""
    deadline = time.monotonic() + 5
    while entries[-1]["id"] not in server.log() and time.monotonic() < deadline:
        time.sleep(0.05)
    lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    said = [line for line in lines if "audit_id" in line]
    ids = [line["audit_id"] for line in said]
    assert len(ids) == len(set(ids))
    by_id = {line["audit_id"]: line for line in said}
    for entry in entries:
        line = by_id[entry["id"]]
        for name in ("event", "outcome", "request_id", "actor_id", "target_type", "target_id"):
            assert line[name] == entry[name], (name, line)
        assert line["level"] == ("INFO" if entry["outcome"] == "success" else "WARNING"), line


async def assert_no_secret(story: Story, server: Server) -> None:
    """No password, token or stored hash stands in a log line or in a row of the log."""
    assert len(story.secrets) > 20
    rows = "\n".join(" ".join(map(str, row)) for row in await story.stored.rows("SELECT * FROM audit_log"))
    lines = server.log()
    for secret in story.secrets:
        assert secret not in lines
        assert secret not in rows


async def test_a_caller_who_is_turned_away_by_a_limit_is_in_the_log_once(start_app: StartApp, stored: Stored) -> None:
    api: Api = await start_app(rate_limit_enabled=True, rate_limit_anonymous="2/hour", rate_limit_user="3/hour")
    ann = await api.register()
    anonymous = [await api.client.get("/api/v1/auth/me", headers={"User-Agent": AGENT}) for _ in range(5)]
    assert [reply.status_code for reply in anonymous] == [401, 401, 429, 429, 429]
    signed_in = [await ann.get("/auth/me", headers={"User-Agent": AGENT}) for _ in range(6)]
    refused = [reply for reply in signed_in if reply.status_code == 429]
    assert refused
    rows = await stored.rows("SELECT actor_id, outcome, request_id FROM audit_log WHERE event = 'rate.limited'")
    assert sorted(rows, key=str) == sorted(
        [(None, "failure", anonymous[2].headers["x-request-id"]),
         (ann.user_id, "failure", refused[0].headers["x-request-id"])], key=str,
    )  # fmt: skip


async def test_the_command_line_is_in_the_log_too_and_comes_from_nowhere(
    api: Api, stored: Stored, database_url: str, tmp_path: Any
) -> None:
    ann = await api.register("ann@example.com")
    for _ in range(5):
        await api.client.post("/api/v1/auth/login", json={"email": ann.email, "password": WRONG})
    answer(await run_duly(tmp_path, "unlock", ann.email, database_url=database_url))
    rows = await stored.rows(
        "SELECT actor_id, target_type, target_id, outcome, origin, request_id FROM audit_log "
        "WHERE event = 'user.unlocked'"
    )
    assert rows == [(None, "user", ann.user_id, "success", None, None)]
