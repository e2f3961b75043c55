"""Schemathesis with every check on: what the OpenAPI document promises and what the server does are the same.

`SCHEMATHESIS_EXAMPLES=500` makes the long run, `SCHEMATHESIS_SEED` another one; both have fixed values otherwise. Each
caller meets one of the databases, and with `TORTURE=1` both.
"""

import asyncio
import dataclasses
import json
import os
import secrets
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jwt
import pytest
import schemathesis
from fastapi import FastAPI
from schemathesis.cli.commands.run.context import ExecutionContext
from schemathesis.config import ChecksConfig, SchemathesisConfig
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import StopReason, events, from_schema
from schemathesis.generation.modes import GenerationMode
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.python import asgi

from duly.app import create_app
from duly.identity.outside_users import NO_USER_IDS
from duly.settings import Settings

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "6"))
TORTURE = bool(os.environ.get("TORTURE"))
SEED = int(os.environ.get("SCHEMATHESIS_SEED", "20261121"))
# Somebody for the document's examples, which have to work as they are printed; an administrator, so that the examples
# for those work too. The runs sign in as others.
PRINTED = {"email": "ann@example.com", "username": "ann", "password": "correct-horse-battery"}
AS_PRINTED = {(PRINTED[name], PRINTED["password"]) for name in ("email", "username")}
PASSWORD = "tangerine-orbit-92"
# Who signs in. Two users, neither of whom may see what the other has; or an administrator, who sees everybody, and who
# cannot take their own rights away.
USERS = ("carol@example.com", "dave@example.com")
ADMIN = "root@example.com"
REGISTRATION_TOKEN = "the-first-one-may-come-in-with-this-0123456789"
# A 412 refuses as much as a 400 does; the tool's own list leaves it out.
REFUSALS = [400, 401, 403, 404, 405, 406, 409, 412, 413, 415, 422, 428, 429]
# What no schema can promise, because it depends on what happened before: which version is current, which cursor was
# given for which list. All the rest of a valid request has to be accepted.
FROM_BEFORE = {"STALE_VERSION", "BAD_CURSOR"}
# Nor these types of a fault, which depend on what was mailed, on what is in a file, and on how hard a password is to
# guess; and the last three, because OpenAPI has no word for "one of these two query parameters" nor for the bounds of a
# time, and the document says "with this value of the other field" to people alone.
UNPROMISED = {
    "bad_token", "unreadable_file", "password_guessable", "password_common", "password_is_email", "password_is_name",
    "password_is_context", "cursor_and_offset", "role_and_action", "time_out_of_range",
}  # fmt: skip
OWNER = "/api/{user_id}/"
FOR_ADMINISTRATORS = {
    "GET /api/v1/users", "GET /api/v1/users/export", "POST /api/v1/users/bulk", "POST /api/v1/users/{user_id}/unlock",
    "GET /api/v1/audit-log", "GET /api/v1/audit-log/verify", "GET /api/admins/me", "GET /api/admins/users",
    "POST /api/admins/register", "POST /api/password/test-email",
}  # fmt: skip
# What the collector notes besides warnings.
NOTES = {"valid_rates", "resource_producers", "stateful_exercised", "linked_operations", "parameterless"}


@dataclasses.dataclass
class Client:
    """How a client uses the service that it knows: what nobody can invent is not sent in a valid request."""

    is_admin: bool = False
    printed_id: str = ""
    own_ids: set[str] = dataclasses.field(default_factory=set)
    tasks: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def before_call(self, context: Any, case: Any, kwargs: Any) -> None:
        """No version, cursor or password is made up; a key is used once; who is needed to the end stays."""
        name_caller(case, self.tasks)
        if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
            return
        if "Idempotency-Key" in case.headers:
            case.headers["Idempotency-Key"] = str(uuid.uuid4())
        if "If-Match" in case.headers:
            case.headers["If-Match"] = "*"
        for name in ("cursor", "since"):
            if set(case.query.get(name, "")) == {"0"}:
                del case.query[name]
        user_id = case.path_parameters.get("user_id")
        is_about_user = not case.path.startswith(OWNER)
        if is_about_user and (user_id == self.printed_id or (user_id in self.own_ids and case.method == "DELETE")):
            case.path_parameters["user_id"] = str(uuid.uuid4())
        if isinstance(case.body, dict):
            sensible = self.sensible(case.operation.label, case.body)
            # The tool judges a body that was set anew, and takes one with a file in it for invalid.
            if sensible != case.body:
                case.body = sensible

    def sensible(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """The body without what needs a proof, a version, or the rights of an administrator who is not there."""
        kept = dict(body)
        if operation.endswith("/login"):
            return with_other_names(kept)
        if operation in {"PUT /api/v1/users/{user_id}", "PATCH /api/v1/users/{user_id}"}:
            dropped = {"email", "version"} | (set() if self.is_admin else {"is_active", "role"})
            return {name: value for name, value in kept.items() if name not in dropped}
        if "ids" in kept:
            kept["ids"] = [str(uuid.uuid4()) if one == self.printed_id else one for one in kept["ids"]]
        return with_passwords(operation, kept)


def name_caller(case: Any, tasks: dict[str, list[str]]) -> None:
    """Where the path names the owner of what is below, put the caller there: of others it only tells that it is shut.

    Below it stands the first of the caller's `tasks`, and for each deletion another one, so that no chance decides
    whether there is any. A path that is wrong on purpose stays so.
    """
    if case.path.startswith(OWNER) and str(case.path_parameters.get("user_id")).partition("/")[0] in NO_USER_IDS:
        # With `v1` or `auth` in the place of an id it is another operation's address, or none, as the document says.
        case.path_parameters["user_id"] = str(uuid.uuid4())
    token = case.headers.get("Authorization", "").removeprefix("Bearer ")
    path = case.meta and case.meta.components.get(ParameterLocation.PATH)
    is_right = path and path.mode is GenerationMode.POSITIVE
    if is_right and case.path.startswith(OWNER) and (user_id := subject_of(token)):
        case.path_parameters["user_id"] = user_id
        # The tool also signs in as people whom it registered itself; they have what it creates for them.
        own = tasks.get(user_id, [])
        if own and "task_id" in case.path_parameters:
            case.path_parameters["task_id"] = own.pop() if case.method == "DELETE" and len(own) > 1 else own[0]


def subject_of(token: str) -> str:
    """Whom an access token of the server names; nobody for one that the tool made up."""
    try:
        return str(jwt.decode(token, options={"verify_signature": False})["sub"])
    except (jwt.InvalidTokenError, KeyError):
        return ""


def with_other_names(body: dict[str, Any]) -> dict[str, Any]:
    """Nobody's name is guessed at twice, which would lock it."""
    for name in {"email", "username", "identifier"} & body.keys():
        if isinstance(body[name], str) and (body[name], body["password"]) not in AS_PRINTED:
            body[name] = body[name][:200] + secrets.token_urlsafe(12)
    return body


def with_passwords(operation: str, body: dict[str, Any]) -> dict[str, Any]:
    """The caller's own where it is asked for, and new ones as long as they were, but hard to guess."""
    if isinstance(body.get("current_password"), str) or (operation == "PUT /api/users/me" and "email" in body):
        body["current_password"] = PASSWORD
    for name in {"new_password", "password"} & body.keys():
        hard = (secrets.token_urlsafe(12) + body[name])[: max(len(body[name]), 8)]
        body[name] = PASSWORD if operation.endswith("/change-password") else hard
    return body


@pytest.fixture(autouse=True)
def client() -> Iterator[Client]:
    """Its hook exists for the whole process only, so it is taken away again."""
    client = Client()
    GLOBAL_HOOK_DISPATCHER.register_hook_with_name(client.before_call, "before_call")
    yield client
    GLOBAL_HOOK_DISPATCHER.unregister(client.before_call)


class Leaving:
    """The application for a client that leaves a stream of events, which has no end, with the first of them.

    The tool's own client has no address; this one is on the same machine, so that /metrics answers it.
    """

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self.app, name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["client"] = ("127.0.0.1", 50000)
        if scope["type"] != "http" or not scope["path"].endswith("/events"):
            await self.app(scope, receive, send)
            return
        left = asyncio.Event()

        async def receive_until_left() -> Any:
            await left.wait()
            return {"type": "http.disconnect"}

        async def send_one(message: Any) -> None:
            is_event = bool(message.get("body"))
            if not left.is_set():
                await send({**message, "more_body": False} if is_event else message)
            if is_event:
                left.set()

        await self.app(scope, receive_until_left, send_one)


def first_tasks(http: Any, headers: dict[str, str]) -> list[str]:
    operations = [{"op": "create", "task": {"title": "There from the start"}}] * 100
    created = http.post("/api/v1/tasks/bulk", json={"operations": operations}, headers=headers).json()
    assert created["succeeded"] == 100
    return [result["task"]["id"] for result in created["results"]]


@pytest.fixture
def app(database_url: str, tmp_path: Path, client: Client) -> Iterator[FastAPI]:
    """The application with people in it; schemathesis starts and runs it in a thread of its own."""
    settings = Settings(
        _env_file=None,
        database_url=database_url,
        data_dir=tmp_path,
        log_level="error",
        rate_limit_enabled=False,
        admin_registration_token=REGISTRATION_TOKEN,
    )
    app: Any = Leaving(create_app(settings))
    with asgi.get_client(app) as http:
        headers = {"X-Admin-Registration-Token": REGISTRATION_TOKEN}
        for body in (PRINTED, {"email": ADMIN, "username": "root", "password": PASSWORD}):
            registered = http.post("/api/admins/register", json=body, headers=headers)
            assert registered.status_code == 201
            headers = {"Authorization": f"Bearer {registered.json()['access_token']}"}
            client.printed_id = client.printed_id or registered.json()["admin"]["id"]
            client.own_ids.add(registered.json()["admin"]["id"])
            client.tasks[registered.json()["admin"]["id"]] = first_tasks(http, headers)
        for email in USERS:
            registered = http.post("/api/v1/auth/register", json={"email": email, "password": PASSWORD})
            assert registered.status_code == 201
            client.own_ids.add(registered.json()["user"]["id"])
            own = {"Authorization": f"Bearer {registered.json()['access_token']}"}
            client.tasks[registered.json()["user"]["id"]] = first_tasks(http, own)
    yield app
    asgi.shutdown_lifespans()


def login_file(folder: Path, people: Sequence[str]) -> Path:
    """How each of them signs in, as Web Fuzzing Commons writes it; used again whenever a token is refused."""
    login = {
        "endpoint": "/api/v1/auth/login",
        "verb": "POST",
        "contentType": "application/json",
        "token": {
            "extractFrom": "body", "extractSelector": "/access_token",
            "sendIn": "header", "sendName": "Authorization", "sendTemplate": "Bearer {token}",
        },
    }  # fmt: skip
    entries = [
        {
            "name": email,
            "loginEndpointAuth": {**login, "payloadRaw": json.dumps({"email": email, "password": PASSWORD})},
        }
        for email in people
    ]
    path = folder / "people.json"
    path.write_text(json.dumps({"auth": entries}))
    return path


def configuration(logins: Path | None = None, peers: Sequence[str] = ()) -> SchemathesisConfig:
    """Every check and every warning; no one of the `peers` may see what another one has."""
    values: dict[str, Any] = {
        "seed": SEED,
        "generation": {"max-examples": EXAMPLES, "database": "none"},
        "checks": {"negative_data_rejection": {"expected-statuses": [str(status) for status in REFUSALS]}},
    }
    if logins is not None:
        values["auth"] = {"wfc": {"path": str(logins), **({"peers": list(peers)} if peers else {})}}
    return SchemathesisConfig.from_dict(values)


def texts(value: Any) -> Iterator[str]:
    """Every string in a body or a query."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for each in value.values() for text in texts(each))
    elif isinstance(value, list):
        yield from (text for each in value for text in texts(each))


def keep_failure(context: Any, failure: Failure, case: Any, response: Any) -> bool:
    """False for a valid request that was refused for what happened before it, and for two kinds that were taken.

    What is wrong inside one of many operations is that one's result. And the document describes texts without the
    blanks that the server drops; a pattern for both could not be read.
    """
    if isinstance(failure, AcceptedNegativeData):
        is_bulk = case.operation.label == "POST /api/v1/tasks/bulk"
        if is_bulk and any(result["status"] == 422 for result in response.json()["results"]):
            return False
        return all(text == text.strip() for text in texts([case.body, dict(case.query)]))
    if not isinstance(failure, RejectedPositiveData):
        return True
    problem = response.json()
    if isinstance(problem.get("error"), dict):  # the owner contract
        problem = {**problem["error"], **problem["error"]["details"]}
    faults = {fault["type"] for fault in problem.get("errors", ())}
    kind = problem.get("code", problem.get("error"))
    return kind not in FROM_BEFORE and not (faults and faults <= UNPROMISED)


def run(app: FastAPI, config: SchemathesisConfig) -> tuple[ExecutionContext, Any]:
    """All phases against the application, with the bookkeeping of `st run`."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    schema.hooks.register_hook_with_name(keep_failure, "filter_failure")
    context = ExecutionContext(config=schema.config, find_operation_by_label=schema.find_operation_by_label)
    for event in from_schema(schema).execute():
        if isinstance(event, events.FatalError):
            raise event.exception
        context.on_event(event)
    return context, schema


def findings(context: ExecutionContext) -> list[str]:
    """Each failure and each error in a few lines, with the request that shows it."""
    found = [f"{error.label}: {error.value}" for error in context.errors]
    for label, groups in context.statistic.failures.items():
        for group in groups.values():
            response = group.response
            answer = "" if response is None else f"\n  {response.status_code} {response.content[:500]!r}"
            found += [
                f"{label}: {failure.title}\n  {failure.message[:500]}\n  {(group.code_sample or '')[:1000]}{answer}"
                for failure in group.failures
            ]
    return found


def warnings_of(context: ExecutionContext) -> dict[str, Any]:
    """What `st run` would print as warnings."""
    fields = (field.name for field in dataclasses.fields(context.warnings) if field.name not in NOTES)
    return {name: value for name in fields if (value := getattr(context.warnings, name))}


def protected(schema: Any) -> set[str]:
    """The operations that the document says need a token."""
    operations = [found.ok() for found in schema.get_all_operations()]
    return {operation.label for operation in operations if operation.definition.raw.get("security")}


def with_mailed_token(schema: Any) -> set[str]:
    """The operations that ask for a token which only a mail holds."""
    named = ("verify-email", "confirm-email", "reset-password")
    return {one.label for one in (found.ok() for found in schema.get_all_operations()) if one.path.endswith(named)}


@pytest.mark.covers("A090", "B064", "C130", "C137", "C139", "D087", "E057", "E072", "E097")
@pytest.mark.parametrize(
    ("dialect", "is_admin"),
    [("sqlite", False), ("postgresql", True)] + TORTURE * [("postgresql", False), ("sqlite", True)],
    indirect=["dialect"],
)
def test_signed_in_people_find_the_document_true(app: FastAPI, client: Client, tmp_path: Path, is_admin: bool) -> None:
    client.is_admin = is_admin
    people = [ADMIN] if is_admin else USERS
    context, schema = run(app, configuration(login_file(tmp_path, people), peers=() if is_admin else people))
    found = findings(context)
    assert not found, "\n\n".join(found)
    warned = warnings_of(context)
    # What is for administrators alone is shut for users, and the tool warns of exactly that.
    refused = warned.pop("missing_auth", {})
    # A call that ends the caller's session is followed by one 401, after which they sign in again; schemathesis speaks
    # of it where nothing but refusals came, which is so where only administrators may go.
    assert set(refused.pop(401, ())) <= (set() if is_admin else set(FOR_ADMINISTRATORS))
    assert refused == ({} if is_admin else {403: FOR_ADMINISTRATORS})
    # A user sees and changes nobody else, and the runs delete nobody whom they need.
    methods = ("DELETE",) if is_admin else ("GET", "PUT", "PATCH", "DELETE")
    unreached = {f"{method} /api/v1/users/{{user_id}}" for method in methods}
    assert warned.pop("missing_test_data", set()) <= unreached
    # There is no mail to take a token from, and nobody makes up a file that holds tasks.
    mismatched = unreached | with_mailed_token(schema) | {"POST /api/v1/tasks/import"}
    assert warned.pop("validation_mismatch", set()) <= mismatched
    assert warned == {}
    assert context.stop_reason is StopReason.COMPLETED
    assert context.statistic.tested_operations >= {found.ok().label for found in schema.get_all_operations()}


@pytest.mark.covers("A037", "C050", "C122", "D021")
@pytest.mark.parametrize("dialect", ["postgresql"] + TORTURE * ["sqlite"], indirect=True)
def test_strangers_find_the_document_true_and_every_protected_operation_shut(app: FastAPI) -> None:
    context, schema = run(app, configuration())
    found = findings(context)
    assert not found, "\n\n".join(found)
    assert len(protected(schema)) >= 10
    # The tool warns of what it could not test without a token, and names exactly what has to be shut.
    warned = warnings_of(context)
    assert warned.pop("missing_auth") == {401: protected(schema)}
    assert warned.pop("validation_mismatch", set()) <= with_mailed_token(schema)
    warned.pop("auth_flow_suggestion", None)
    # The tool signs up people of its own; whether one of them meets a task of theirs in the trash is left to chance.
    assert warned.pop("missing_test_data", set()) <= {"POST /api/v1/tasks/{task_id}/restore"}
    assert warned == {}


def test_no_check_is_switched_off() -> None:
    checks: ChecksConfig = configuration().projects.get_default().checks
    names = [field.name for field in dataclasses.fields(checks) if not field.name.startswith("_")]
    off = {name for name in names if not getattr(checks, name).enabled}
    # This one is for services that promise a time; on a shared machine it would measure the neighbours.
    assert off == {"max_response_time"}
    assert len(names) >= 15
