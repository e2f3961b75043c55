"""Schemathesis with every check on: what the OpenAPI document promises and what the server does are the same.

`SCHEMATHESIS_EXAMPLES=500` makes the long run, `SCHEMATHESIS_SEED` another one; both have fixed values otherwise.
"""

import dataclasses
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from schemathesis.cli.commands.run.context import ExecutionContext
from schemathesis.config import ChecksConfig, SchemathesisConfig
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.engine import StopReason, events, from_schema
from schemathesis.generation.modes import GenerationMode
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.python import asgi

from duly.app import create_app
from duly.settings import Settings

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "6"))
SEED = int(os.environ.get("SCHEMATHESIS_SEED", "20261121"))
# The first of them is the one in the document's examples, so these have to work as they are printed.
PEOPLE = {"ann@example.com": "correct-horse-battery", "ben@example.com": "tangerine-orbit-92"}
# A 412 refuses as much as a 400 does; the tool's own list leaves it out.
REFUSALS = [400, 401, 403, 404, 405, 406, 409, 412, 413, 415, 422, 428, 429]
# What no schema can promise, because it depends on what happened before: which version is current, which cursor was
# given for which list. All the rest of a valid request has to be accepted.
FROM_BEFORE = {"STALE_VERSION", "BAD_CURSOR"}
# OpenAPI has no word for "one of these two query parameters".
ACROSS_PARAMETERS = {"cursor_and_offset"}
# What the collector notes besides warnings.
NOTES = {"valid_rates", "resource_producers", "stateful_exercised", "linked_operations", "parameterless"}


@pytest.fixture(autouse=True)
def client_manners() -> Iterator[None]:
    """This hook exists for the whole process only, so it is taken away again."""
    GLOBAL_HOOK_DISPATCHER.register_hook_with_name(use_as_a_client_would, "before_call")
    yield
    GLOBAL_HOOK_DISPATCHER.unregister(use_as_a_client_would)


@pytest.fixture
def app(database_url: str, tmp_path: Path) -> Iterator[FastAPI]:
    """The application with two people in it; schemathesis starts and runs it in a thread of its own."""
    app = create_app(Settings(_env_file=None, database_url=database_url, data_dir=tmp_path, log_level="error"))
    with asgi.get_client(app) as client:
        for email, password in PEOPLE.items():
            body = {"email": email, "password": password}
            assert client.post("/api/v1/auth/register", json=body).status_code == 201
    yield app
    asgi.shutdown_lifespans()


def login_file(folder: Path) -> Path:
    """How either person signs in, as Web Fuzzing Commons writes it; used again whenever a token is refused."""
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
            "loginEndpointAuth": {**login, "payloadRaw": json.dumps({"email": email, "password": password})},
        }
        for email, password in PEOPLE.items()
    ]
    path = folder / "people.json"
    path.write_text(json.dumps({"auth": entries}))
    return path


def configuration(people: Path | None) -> SchemathesisConfig:
    """Every check and every warning; with `people`, neither of whom may see what the other has."""
    values: dict[str, Any] = {
        "seed": SEED,
        "generation": {"max-examples": EXAMPLES, "database": "none"},
        "checks": {"negative_data_rejection": {"expected-statuses": [str(status) for status in REFUSALS]}},
    }
    if people is not None:
        values["auth"] = {"wfc": {"path": str(people), "peers": list(PEOPLE)}}
    return SchemathesisConfig.from_dict(values)


def use_as_a_client_would(context: Any, case: Any, kwargs: Any) -> None:
    """What nobody can invent is not sent in a valid request: a version, a cursor; and a key is used once."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    if "If-Match" in case.headers:
        case.headers["If-Match"] = "*"
    for name in ("cursor", "since"):
        if set(case.query.get(name, "")) == {"0"}:
            del case.query[name]


def texts(value: Any) -> Iterator[str]:
    """Every string in a body or a query."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for each in value.values() for text in texts(each))
    elif isinstance(value, list):
        yield from (text for each in value for text in texts(each))


def keep_failure(context: Any, failure: Failure, case: Any, response: Any) -> bool:
    """False for a valid request that was refused for what happened before it, and for blanks around a text.

    The document describes texts without the blanks that the server drops; a pattern for both could not be read.
    """
    if isinstance(failure, AcceptedNegativeData):
        return all(text == text.strip() for text in texts([case.body, dict(case.query)]))
    if not isinstance(failure, RejectedPositiveData):
        return True
    problem = response.json()
    faults = {fault["type"] for fault in problem.get("errors", ())}
    return problem["code"] not in FROM_BEFORE and not (faults and faults <= ACROSS_PARAMETERS)


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
            answer = "" if group.response is None else f"\n  {group.response.status_code} {group.response.text[:500]}"
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


@pytest.mark.covers("A090", "B064", "D087", "E057", "E072", "E097")
def test_signed_in_people_find_the_document_true(app: FastAPI, tmp_path: Path) -> None:
    context, schema = run(app, configuration(login_file(tmp_path)))
    found = findings(context)
    assert not found, "\n\n".join(found)
    assert warnings_of(context) == {}
    assert context.stop_reason is StopReason.COMPLETED
    assert context.statistic.tested_operations >= {found.ok().label for found in schema.get_all_operations()}


@pytest.mark.covers("A037", "C050", "C122", "D021")
def test_strangers_find_the_document_true_and_every_protected_operation_shut(app: FastAPI) -> None:
    context, schema = run(app, configuration(None))
    found = findings(context)
    assert not found, "\n\n".join(found)
    assert len(protected(schema)) >= 10
    # The tool warns of what it could not test without a token, and names exactly what has to be shut.
    warned = warnings_of(context)
    assert warned.pop("missing_auth") == {401: protected(schema)}
    warned.pop("auth_flow_suggestion", None)
    assert warned == {}


def test_no_check_is_switched_off() -> None:
    checks: ChecksConfig = configuration(None).projects.get_default().checks
    names = [field.name for field in dataclasses.fields(checks) if not field.name.startswith("_")]
    off = {name for name in names if not getattr(checks, name).enabled}
    # This one is for services that promise a time; on a shared machine it would measure the neighbours.
    assert off == {"max_response_time"}
    assert len(names) >= 15
