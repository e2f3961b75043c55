"""Errors of the accounts contract: one shape below its addresses, whatever went wrong and wherever it is noticed."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import apsw
import asyncpg
import httpx
import pytest
from fastapi import APIRouter

from duly.contracts.accounts.errors import NAMES, render_accounts_error
from duly.errors import DulyError, FieldFault, Invalid, Kind
from tests.fixtures.accounts import MOST_BYTES, Accounts, Member, check_refusal, faulty_fields
from tests.fixtures.application import PASSWORD, StartApp
from tests.fixtures.smtp import MailServer
from tests.fixtures.wire import wire_to
from tests.second_connection import SecondConnection, second_connection

JSON = {"Content-Type": "application/json"}


@contextlib.asynccontextmanager
async def locked(database_url: str) -> AsyncIterator[None]:
    """Another program has the tables of users to itself."""
    if database_url.startswith("sqlite"):
        link = apsw.Connection(database_url.removeprefix("sqlite:///"))
        link.set_busy_timeout(4000)
        # In a thread: the application may have to finish a commit in this loop first.
        await asyncio.to_thread(link.execute, "BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            link.execute("ROLLBACK")
            link.close()
        return
    server = await asyncpg.connect(database_url, timeout=5)
    try:
        await server.execute("BEGIN; LOCK TABLE users, sessions, refresh_tokens IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        await server.close()


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.covers("B049", "D044")
def test_every_kind_of_error_has_a_name_and_the_one_shape(kind: Kind) -> None:
    names = list(NAMES.values())
    assert NAMES[kind].endswith("Error")
    assert names.count(NAMES[kind]) == 1
    error = DulyError("It cannot be done. Do something else.")
    error.kind = kind
    status, headers, body = render_accounts_error(error, "9b2f6f5e-3a0c-4f5e-8d38-5f0c4f6f4f10", "/api/users")
    answer = httpx.Response(status, headers=[*headers, (b"x-request-id", b"9b2f6f5e-3a0c-4f5e-8d38-5f0c4f6f4f10")],
                            content=body)  # fmt: skip
    assert list(answer.json()) == ["error", "message", "status_code", "request_id"]
    assert (answer.status_code, answer.json()["error"]) == (kind.value, NAMES[kind])


def test_no_error_grows_with_what_was_sent() -> None:
    faults = [FieldFault("\x00ü" * 5000, "Wrong.", "wrong")] * 5000
    for error in (Invalid("Wrong.", faults=faults), DulyError("Wrong.")):
        _, _, body = render_accounts_error(error, "x", "/api/users/" + "ü" * 100_000)
        assert len(body) <= MOST_BYTES


@pytest.mark.covers("D062", "D063", "D064", "D065", "D066", "D067", "D053", "D055", "B071")
async def test_each_status_has_the_one_shape_below_every_address_of_the_contract(
    accounts: Accounts, user: Member
) -> None:
    broken = await accounts.post("/users/login", content=b'{"email": ', headers=JSON)
    check_refusal(broken, 400, "BadRequestError")
    twice = await accounts.post("/users/login", content=b'{"email": "a", "email": "b"}', headers=JSON)
    check_refusal(twice, 400, "BadRequestError")
    check_refusal(await accounts.get("/users/me"), 401, "AuthenticationError")
    check_refusal(await accounts.get("/admins/me", user), 403, "AuthorizationError")
    for path in ("/users/nonexistent", "/admins/nonexistent", "/password/nonexistent", "/users", "/admins/users/x"):
        body = check_refusal(await accounts.get(path), 404, "NotFoundError")
        assert body["message"] == f"The requested resource '/api{path}' was not found"
    odd = await accounts.api.client.get("/api/users/%3Cscript%3E%0a%22" + "x" * 3000)
    assert "<" not in check_refusal(odd, 404, "NotFoundError")["message"]
    large = b'{"email": "' + b"x" * accounts.api.settings.max_body_bytes + b'"}'
    check_refusal(await accounts.post("/users/login", content=large, headers=JSON), 413, "PayloadTooLargeError")
    check_refusal(await accounts.post("/users/login", content=b"a=b"), 415, "UnsupportedMediaTypeError")
    assert faulty_fields(await accounts.post("/users/login", json={"email": 5, "password": "x"})) == {"email"}


@pytest.mark.covers("D066")
async def test_a_wrong_method_is_told_the_right_ones(accounts: Accounts, user: Member) -> None:
    for method, path, allowed in (
        ("DELETE", "/users/me", {"GET", "HEAD", "PUT"}),
        ("GET", "/users/login", {"POST"}),
        ("PATCH", "/admins/users", {"GET", "HEAD"}),
        ("GET", "/password/test-email", {"POST"}),
    ):
        answer = await accounts.call(method, path, user)
        check_refusal(answer, 405, "MethodNotAllowedError")
        assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.covers("D065", "B045")
async def test_other_addresses_keep_the_shape_of_their_own_contract(accounts: Accounts) -> None:
    for path in ("/v1/users/me", "/tasks", "/usersx", "/user", "/v1/nonexistent", "/passwords"):
        answer = await accounts.get(path)
        assert answer.headers["content-type"] == "application/problem+json", path


@pytest.mark.covers("D068", "D025")
async def test_the_third_of_two_allowed_requests_is_told_when_to_come_back(start_app: StartApp) -> None:
    accounts = Accounts(
        await start_app(rate_limit_enabled=True, rate_limit_anonymous="2/hour", rate_limit_login="1/hour")
    )
    for _ in range(2):
        assert (await accounts.get("/users/me")).status_code == 401
    answer = await accounts.get("/users/me")
    check_refusal(answer, 429, "RateLimitError")
    assert 0 < int(answer.headers["retry-after"]) <= 3600
    assert "ratelimit-policy" in answer.headers
    login = {"email": "a@example.com", "password": PASSWORD}
    assert (await accounts.post("/users/login", json=login)).status_code == 401
    check_refusal(await accounts.post("/users/login", json=login), 429, "RateLimitError")
    check_refusal(await accounts.post("/admins/login", json=login), 429, "RateLimitError")


@pytest.mark.covers("D025")
async def test_an_address_may_ask_two_hundred_times_an_hour(start_app: StartApp) -> None:
    accounts = Accounts(await start_app(rate_limit_enabled=True, log_level="error"))
    for _ in range(200):
        assert (await accounts.get("/users/me")).status_code == 401
    check_refusal(await accounts.get("/users/me"), 429, "RateLimitError")


async def build_wall(outside: SecondConnection, dialect: str) -> None:
    """From now on the database refuses each new user, with words of its own."""
    if dialect == "postgresql":
        await outside.run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a secret detail'; END $$"
        )
        await outside.run("CREATE TRIGGER wall BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION refuse()")
    else:
        await outside.run(
            "CREATE TRIGGER wall BEFORE INSERT ON users BEGIN SELECT RAISE(ABORT, 'a secret detail'); END"
        )


@pytest.mark.covers("D069", "D072")
async def test_a_database_that_refuses_a_row_for_no_known_reason_is_an_internal_error(
    accounts: Accounts, database_url: str, dialect: str
) -> None:
    async with second_connection(database_url) as outside:
        await build_wall(outside, dialect)
    answer = await accounts.post("/users/register", json=accounts.draft())
    body = check_refusal(answer, 500, "InternalServerError")
    assert body["request_id"] in body["message"]
    assert not any(word in answer.text for word in ("secret", "users", "INSERT", "Traceback", "trigger"))


@pytest.mark.covers("D073", "D069", "D053")
async def test_a_bare_exception_is_an_internal_error_with_one_traceback_in_the_log(
    accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    router = APIRouter()

    @router.get("/api/admins/boom")
    async def fail() -> None:
        raise RuntimeError("a secret detail")

    accounts.api.app.include_router(router)
    with caplog.at_level(logging.ERROR):
        answer = await accounts.get("/admins/boom")
    check_refusal(answer, 500, "InternalServerError")
    assert "secret" not in answer.text
    assert "RuntimeError" not in answer.text
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [RuntimeError]


@pytest.mark.covers("D070", "D072")
async def test_a_locked_database_is_unavailable_and_not_an_internal_error(
    accounts: Accounts, user: Member, database_url: str
) -> None:
    async with locked(database_url):
        answer = await accounts.post("/users/login", json={"email": user.email, "password": PASSWORD})
        check_refusal(answer, 503, "ServiceUnavailableError")
        assert int(answer.headers["retry-after"]) > 0
    await accounts.log_in(user.email)


@pytest.mark.covers("D070", "D072")
@pytest.mark.parametrize("dialect", ["postgresql"])
async def test_a_database_that_is_gone_is_unavailable_until_it_is_back(database_url: str, start_app: StartApp) -> None:
    async with wire_to(database_url) as (wire, address):
        accounts = Accounts(await start_app(database_url=address))
        user = await accounts.register()
        wire.cut()
        for answer in (
            await accounts.get("/users/me", user),
            await accounts.post("/users/login", json={"email": user.email, "password": PASSWORD}),
            await accounts.post("/password/forgot-password", json={"email": user.email}),
        ):
            check_refusal(answer, 503, "ServiceUnavailableError")
            assert int(answer.headers["retry-after"]) > 0
        wire.mend()
        await accounts.log_in(user.email)


@pytest.mark.covers("D071")
async def test_a_request_that_takes_too_long_is_given_up(start_app: StartApp, mail_server: MailServer) -> None:
    settings = {"request_timeout_seconds": 3, "admin_registration_token": "x" * 40, **mail_server.settings}
    accounts = Accounts(await start_app(**settings))
    headers = {"X-Admin-Registration-Token": "x" * 40}
    admin = accounts.member(await accounts.post("/admins/register", json=accounts.draft(), headers=headers), 201)
    mail_server.mode = "hang"
    began = asyncio.get_running_loop().time()
    answer = await accounts.post("/password/test-email", admin)
    check_refusal(answer, 504, "TimeoutError")
    assert asyncio.get_running_loop().time() - began < 7
    mail_server.mode = "ok"
    assert (await accounts.post("/password/test-email", admin)).status_code == 200
