"""Errors of the owner contract: one shape below its addresses, whatever went wrong and wherever it is noticed."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import jwt
import pytest
from fastapi import APIRouter

from duly.contracts.owner.errors import render_owner_error
from duly.errors import DulyError, FieldFault, Forbidden, Invalid, Kind, NotFound, Unauthenticated
from duly.identity.principals import Principal
from duly.kit.clock import now
from duly.kit.jwt import AccessTokens
from duly.kit.secrets import derive_key
from duly.web.dependencies import get_current_user
from tests.better_auth.issuing import claims_for, seal
from tests.fixtures.application import Api, Person, StartApp
from tests.fixtures.owners import JSON, MOST_BYTES, PLACES, SIX, Owner, Refusal, check_refusal
from tests.fixtures.stored import Stored
from tests.raw_asgi import Asked, ask
from tests.second_connection import second_connection
from tests.test_statement_counts import Counted

SECRET = "a-key-that-is-only-in-the-owners-tests"
OUTSIDE_SECRET = "the-secret-that-the-issuer-and-we-share"
UNKNOWN = "019aa0c4-5a3e-7c31-9d5e-0f1b6f0c2a11"
REQUEST_ID = "9b2f6f5e-3a0c-4f5e-8d38-5f0c4f6f4f10"
WRITES = [operation for operation in SIX if operation.method != "GET"]


def access_token(person: Person, secret: str = SECRET, age: int = 0) -> str:
    """A token that this server could have signed, `age` seconds ago, to be good for a minute."""
    session_id = jwt.decode(person.access_token, options={"verify_signature": False})["sid"]
    tokens = AccessTokens(derive_key(secret, "access-token"), "duly", "duly", 60)
    issued = now().fromtimestamp(time.time() - age, tz=UTC)
    return tokens.issue(user_id=person.user_id, session_id=session_id, token_id="t", issued_at=issued)


def outside_user(api: Api, subject: str) -> Person:
    """Somebody whom the outside issuer vouches for."""
    claims = claims_for("", iss=None, aud=None, sub=subject)
    return Person(api.client, subject, "", seal({"alg": "HS256"}, claims, OUTSIDE_SECRET.encode(), "HS256"), "")


# The shape


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.covers("C095", "C100", "C133")
def test_every_kind_of_error_has_the_one_shape(kind: Kind) -> None:
    error = DulyError("It cannot be done. Do something else.", retry_after=3)
    error.kind = kind
    status, headers, body = render_owner_error(error, REQUEST_ID)
    assert (status, dict(headers)[b"retry-after"]) == (kind.value, b"3")
    assert Refusal.model_validate_json(body).error.message == error.message


def test_no_error_grows_with_what_was_sent() -> None:
    faults = [FieldFault("\x00ü" * 5000, "Wrong.", "wrong")] * 5000
    _, _, body = render_owner_error(Invalid("Wrong.", faults=faults), REQUEST_ID)
    assert len(body) <= MOST_BYTES
    Refusal.model_validate_json(body)


@pytest.mark.covers("C092", "C093", "C094", "C095")
async def test_whoever_raises_a_refusal_below_these_addresses_it_has_their_shape(api: Api, ann: Person) -> None:
    router = APIRouter()
    raised: dict[str, tuple[Exception, int, str]] = {
        "who": (Unauthenticated("Sign in again."), 401, "INVALID_TOKEN"),
        "mismatch": (Forbidden("Not yours.", code="USER_MISMATCH"), 403, "USER_MISMATCH"),
        "missing": (NotFound("There is none."), 404, "NOT_FOUND"),
        "bare": (RuntimeError("a secret detail"), 500, "INTERNAL_ERROR"),
    }

    @router.get("/api/{user_id}/tasks/1/fails/{how}")
    async def fail(user_id: str, how: str) -> None:
        raise raised[how][0]

    api.app.include_router(router)
    for how, (_, status, code) in raised.items():
        answer = await Owner(ann).call("GET", f"/1/fails/{how}")
        error = check_refusal(answer, status, code)
        assert "secret" not in answer.text
        assert status != 500 or error["details"]["request_id"] in error["message"]


@pytest.mark.covers("C053", "C100", "C139")
@pytest.mark.parametrize("place", PLACES)
async def test_an_address_that_leads_nowhere_and_a_wrong_method_have_the_shape(
    api: Api, ann: Person, place: str
) -> None:
    owner = Owner(ann, place)
    task = await owner.add_task()
    for path in ("/x/y", f"/{task['id']}/attachments/1/2", f"/{task['id']}/complete/x", f"/{task['id']}/restore"):
        check_refusal(await owner.call("GET", path), 404, "NOT_FOUND")
    for method, path, allowed in (
        ("PATCH", "", {"GET", "HEAD", "POST"}), ("POST", f"/{task['id']}", {"GET", "HEAD", "PUT", "DELETE"}),
        ("GET", f"/{task['id']}/complete", {"PATCH"}),
    ):  # fmt: skip
        answer = await owner.call(method, path)
        check_refusal(answer, 405, "METHOD_NOT_ALLOWED")
        assert set(answer.headers["allow"].split(", ")) == allowed
    for path in ("/api/x/nothing", "/api/v1/x/nothing", "/api", "/tasks", "/api/x/taskss", "/apis/x/tasks"):
        assert (await api.client.get(path)).headers["content-type"] == "application/problem+json", path


@pytest.mark.covers("C053", "C139")
@pytest.mark.parametrize("place", PLACES)
async def test_odd_user_ids_are_refused_in_the_shape(api: Api, ann: Person, place: str) -> None:
    signed = (*((name.lower().encode(), value.encode()) for name, value in ann.headers.items()),)
    odd = [
        "", "%00", "%ED%A0%80", "%FF%FE", "%2F", "a%2Fb", "%2e%2e", "..", ".", "%20", "%0d%0aX:1", "x" * 256,
        "x" * 20_000, "%F0%9F%92%A5", "null", "me", "%25", "V1", "%zz", "*", "{user_id}", f"{ann.user_id}%2F",
        f"{ann.user_id}%00", f"%2e%2F{ann.user_id}", f"x%2F..%2F{ann.user_id}",
    ]  # fmt: skip
    for text in odd:
        for path in ("", f"/{UNKNOWN}"):
            for headers, status in ((signed, 403), ((), 401)):
                answer = await ask(api.app, Asked("GET", f"{place}/{text}/tasks{path}", headers=headers))
                found = httpx.Response(answer.status, headers=answer.headers, content=answer.body)
                # There is no empty id, so an address with one leads nowhere.
                wanted = 404 if text == "" else status
                code = {401: "NOT_AUTHENTICATED", 403: "USER_MISMATCH", 404: "NOT_FOUND"}[wanted]
                check_refusal(found, wanted, code)


# Who asks


@pytest.mark.covers("C049", "C061", "C067", "C070", "C076", "C083", "C089", "C097", "C120", "C121", "C122")
async def test_without_a_good_token_every_operation_is_401_whoever_is_named(start_app: StartApp) -> None:
    api = await start_app(secret_key=SECRET)
    ann, gone = await api.register(), await api.register()
    assert (await gone.post("/auth/logout")).status_code == 204
    task = await ann.add_task()
    good = access_token(ann)
    assert (await Owner(Person(api.client, ann.user_id, "", good, "")).call("GET")).status_code == 200
    forged = access_token(ann, "a-key-that-is-somebody-elses-altogether")
    bad = [forged, access_token(ann, age=61), "a.b.c", good[:-4], f"{good}x", gone.access_token]
    headers: list[tuple[dict[str, str], str]] = [({"Authorization": f"Bearer {token}"}, "") for token in bad]
    headers += [({}, "NOT_AUTHENTICATED"), ({"Authorization": "Basic YTpi"}, "INVALID_TOKEN")]
    for place in PLACES:
        for operation in SIX:
            for sent, code in headers:
                for named in (ann.user_id, UNKNOWN):
                    path = f"{place}/{named}/tasks{operation.path.format(task_id=task['id'])}"
                    answer = await api.client.request(operation.method, path, headers={**sent, **JSON}, content=b"{")
                    check_refusal(answer, 401, code or answer.json()["error"]["code"])
    assert (await ann.get(f"/tasks/{task['id']}")).json() == task


@pytest.mark.covers("C132", "C043", "C119")
async def test_the_authorization_header_is_read_as_clients_write_it(api: Api, ann: Person) -> None:
    address, token = f"/api/{ann.user_id}/tasks", ann.access_token
    for value in (f"Bearer {token}", f"bearer {token}", f"BEARER {token}", f"Bearer   {token}", f"  Bearer {token}  "):
        assert (await api.client.get(address, headers={"Authorization": value})).status_code == 200, value
    for value in ("", "Bearer", "Bearer ", token, f"Token {token}", f"Bearer {token} {token}", f"Bearer, {token}",
                  f'Bearer "{token}"', f"Bearer:{token}", "Bearer null", "Bearer undefined"):  # fmt: skip
        answer = await api.client.get(address, headers={"Authorization": value})
        check_refusal(answer, 401, "INVALID_TOKEN")
    twice = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
    check_refusal(await api.client.get(address, headers=twice), 401, "INVALID_TOKEN")


@pytest.mark.covers("C046")
async def test_the_dependency_is_the_gate(api: Api, ann: Person) -> None:
    """The one test that overrides a dependency, because that it can be done is what is asked for."""
    address = f"/api/{ann.user_id}/tasks"
    check_refusal(await api.client.get(address), 401, "NOT_AUTHENTICATED")
    api.app.dependency_overrides[get_current_user] = lambda: Principal(ann.user_id, None, None, 0)
    try:
        assert (await api.client.get(address)).status_code == 200
        check_refusal(await api.client.get(f"/api/{UNKNOWN}/tasks"), 403, "USER_MISMATCH")
    finally:
        api.app.dependency_overrides.clear()
    check_refusal(await api.client.get(address), 401, "NOT_AUTHENTICATED")


@pytest.mark.covers("C048", "C098", "C134")
async def test_an_administrator_has_no_way_into_anothers_tasks(api: Api, ann: Person, stored: Stored) -> None:
    admin = await api.register()
    await stored.rows("UPDATE users SET role = 'admin' WHERE id = ?", admin.user_id)
    assert (await admin.get("/users")).status_code == 200
    task = await ann.add_task()
    for operation in SIX:
        check_refusal(await Owner(admin, named=ann.user_id).do(operation, task["id"]), 403, "USER_MISMATCH")
    assert (await ann.get(f"/tasks/{task['id']}")).json() == task


@pytest.mark.covers("C040", "C041", "C054", "C125", "C134")
@pytest.mark.parametrize("place", PLACES)
async def test_an_outside_issuers_user_goes_by_id_and_by_subject(start_app: StartApp, place: str) -> None:
    api = await start_app(better_auth_secret=OUTSIDE_SECRET)
    ann = await api.register()
    theirs = await ann.add_task("Ann's own")
    # Who has a local user's id as their subject has an id of their own, and the subject leads to their own tasks.
    for subject in ("W1CWZbbZ08jBd1SXMtzRojLYRAVIzV8a", "Ärger 7/é", "x" * 255, "a/b/tasks/c", ann.user_id):
        person = outside_user(api, subject)
        own = (await person.get("/auth/me")).json()["id"]
        task = await Owner(person, place, subject).add_task("Theirs")
        assert task["user_id"] == own
        for named in (own, subject):
            outside = Owner(person, place, named)
            for path in ("", f"/{task['id']}"):
                assert (await outside.call("GET", path)).status_code == 200, (subject, path)
            done = await outside.call("PATCH", f"/{task['id']}/complete", json={"completed": True})
            assert done.json()["completed"] is True
            check_refusal(await outside.call("GET", f"/{theirs['id']}"), 404, "NOT_FOUND")
        for named in {UNKNOWN, ann.user_id, subject.upper(), f"{subject}/"} - {subject, own}:
            check_refusal(await Owner(person, place, named).call("GET"), 403, "USER_MISMATCH")
        made = await Owner(person, place, subject).call("POST", json={"title": "Found by its address"})
        location = made.headers["location"]
        assert (await api.client.get(location, headers=person.headers)).status_code == 200
    assert (await ann.get("/tasks")).json()["items"] == [theirs]


@pytest.mark.covers("C081", "C140")
async def test_the_database_is_not_asked_who_a_foreign_id_is(start_app: StartApp) -> None:
    api = await start_app(log_sql=True)
    ann, ben = await api.register(), await api.register()
    task = await ben.add_task()
    await ann.get("/tasks")
    handler, logger = Counted(), logging.getLogger("duly.sql")
    # Beside these requests the mails of the registrations are still on their way, under the ids of those.
    handler.only = str(uuid.uuid4())
    named_so = {"X-Request-ID": handler.only}
    logger.addHandler(handler)
    try:
        for named in (ben.user_id, UNKNOWN):
            for operation in SIX:
                refused = await Owner(ann, named=named).do(operation, task["id"], headers=named_so)
                check_refusal(refused, 403, "USER_MISMATCH")
        assert handler.statements == []
        for operation in SIX[:2]:
            handler.statements.clear()
            assert (await Owner(ann).do(operation, headers=named_so)).status_code < 300
            assert 1 <= len(handler.statements) <= 2
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.WARNING)


# Every code that the document names


async def statuses_of(api: Api, person: Person, operation: Any, stored: Stored) -> set[int]:
    """The statuses that a client brings about by itself."""
    owner = Owner(person)
    task = await owner.add_task()
    moment = datetime.now(UTC)
    await stored.rows(
        "INSERT INTO idempotency_keys (user_id, key, request_hash, created_at) VALUES (?, ?, 'another', ?)",
        person.user_id, operation.id, moment,
    )  # fmt: skip
    sent: list[dict[str, Any]] = [
        {"headers": {"Host": "elsewhere.example"}}, {"headers": {"If-Match": '"99"'}}, {"params": {"nonsense": "1"}},
        {"headers": {"If-None-Match": f'"{task["version"]}"'}}, {"headers": {"Authorization": "Bearer a.b.c"}},
        {"headers": {"Idempotency-Key": operation.id}},
    ]  # fmt: skip
    if operation.body is not None:
        sent += [
            {"content": b"{", "headers": JSON}, {"json": {"nonsense": 1}}, {"content": b"a=b"},
            {"content": b'"' + b"x" * api.settings.max_body_bytes + b'"', "headers": JSON},
        ]  # fmt: skip
    answers = [await owner.do(operation, task["id"], **options) for options in sent]
    answers.append(await Owner(person, named=UNKNOWN).do(operation, task["id"]))
    if operation.has_task:
        answers.append(await owner.do(operation, UNKNOWN))
    answers.append(await owner.do(operation, task["id"]))
    for answer in answers:
        if answer.status_code >= 400:
            check_refusal(answer, answer.status_code, answer.json()["error"]["code"])
    return {answer.status_code for answer in answers}


@pytest.mark.covers("C066", "C072", "C075", "C078", "C085", "C088", "C091", "C099", "C131", "C133", "C135")
async def test_each_documented_code_is_reached_and_no_other(start_app: StartApp, stored: Stored) -> None:
    api = await start_app(allowed_hosts=("testserver",))
    ann = await api.register()
    for operation in SIX:
        path = f"/api/{{user_id}}/tasks{operation.path}"
        documented = {int(code) for code in api.app.openapi()["paths"][path][operation.method.lower()]["responses"]}
        # The other tests here bring these about; the last one is a full disk.
        beyond = {429, 500, 503, 504, 507}
        assert beyond < documented
        assert await statuses_of(api, ann, operation, stored) == documented - beyond, operation.id


@pytest.mark.covers("C100", "C133")
async def test_who_asks_too_often_is_told_when_to_come_back(start_app: StartApp) -> None:
    api = await start_app(rate_limit_enabled=True, rate_limit_anonymous="1/hour", rate_limit_user="1/hour")
    ann = await api.register()
    assert (await Owner(ann).call("GET")).status_code == 200
    for operation in SIX:
        answer = await Owner(ann).do(operation, UNKNOWN)
        check_refusal(answer, 429, "RATE_LIMITED")
        assert 0 < int(answer.headers["retry-after"]) <= 3600


@pytest.mark.covers("C095", "C100", "C118")
async def test_a_fault_of_the_server_says_the_request_id_and_nothing_else(
    api: Api, ann: Person, stored: Stored
) -> None:
    task = await ann.add_task()
    await stored.rows("ALTER TABLE tasks RENAME TO elsewhere")
    for operation in SIX:
        answer = await Owner(ann).do(operation, task["id"])
        error = check_refusal(answer, 500, "INTERNAL_ERROR")
        assert error["details"]["request_id"] in error["message"]
        assert not any(word in answer.text for word in ("SELECT", "no such table", "relation", "Traceback"))


@contextlib.asynccontextmanager
async def locked(database_url: str) -> AsyncIterator[None]:
    """Another program has the tasks to itself; SQLite's readers do not mind."""
    async with second_connection(database_url) as outside:
        await outside.run("BEGIN IMMEDIATE" if database_url.startswith("sqlite") else "BEGIN")
        if not database_url.startswith("sqlite"):
            await outside.run("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        try:
            yield
        finally:
            await outside.run("ROLLBACK")


@pytest.mark.covers("C100", "C102", "C106", "C128")
async def test_a_database_that_keeps_others_waiting_is_503_and_past_the_time_limit_504(
    start_app: StartApp, database_url: str, dialect: str
) -> None:
    api, hasty = await start_app(), await start_app(request_timeout_seconds=2)
    ann = await api.register()
    other = Person(hasty.client, ann.user_id, ann.email, ann.access_token, ann.refresh_token)
    task = await ann.add_task()
    waiting = WRITES if dialect == "sqlite" else SIX
    async with locked(database_url):
        calls = [Owner(person).do(operation, task["id"]) for operation in waiting for person in (ann, other)]
        answers = await asyncio.gather(*calls)
    for down, late in zip(answers[::2], answers[1::2], strict=True):
        check_refusal(down, 503, down.json()["error"]["code"])
        assert int(down.headers["retry-after"]) > 0
        check_refusal(late, 504, "TIMEOUT")
    assert (await Owner(ann).call("GET")).json()["tasks"] == [task]
