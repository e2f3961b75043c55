"""The story of calls with the package of openapi-python-client."""

import json
import sys

from generated import AuthenticatedClient, Client
from generated.api.v1_accounts_and_sessions import login, register
from generated.api.v1_tasks import create_task, delete_task, list_tasks, read_task, update_task
from generated.models import (
    AuthResponse,
    LoginRequestType0,
    Problem,
    RegisterRequest,
    TaskCreate,
    TaskListResponse,
    TaskResponse,
    TaskUpdate,
    ValidationProblem,
)

given = json.loads(sys.argv[1])
password = "tangerine-orbit-92"


def say(event: str, value: object) -> None:
    """One line, in the form of the other scripts."""
    print(json.dumps([event, value]))  # noqa: T201 - the test reads it


with Client(base_url=given["baseUrl"]) as anyone:
    registered = register.sync_detailed(client=anyone, body=RegisterRequest(email=given["email"], password=password))
    say("register", registered.status_code)
    signed = login.sync_detailed(client=anyone, body=LoginRequestType0(email=given["email"], password=password))
    assert isinstance(signed.parsed, AuthResponse)
    say("login", [signed.status_code, signed.parsed.user.email == given["email"]])
    token = signed.parsed.access_token

with AuthenticatedClient(base_url=given["baseUrl"], token=token) as client:
    created = create_task.sync_detailed(client=client, body=TaskCreate(title="One"))
    assert isinstance(created.parsed, TaskResponse)
    say("create", [created.status_code, created.parsed.title])
    task_id, etag = created.parsed.id, created.headers["ETag"]
    listed = list_tasks.sync_detailed(client=client, status="pending", limit=10)
    assert isinstance(listed.parsed, TaskListResponse)
    say("list", [listed.status_code, listed.parsed.total, listed.parsed.items[0].title])
    updated = update_task.sync_detailed(task_id, client=client, body=TaskUpdate(title="Two"), if_match=etag)
    assert isinstance(updated.parsed, TaskResponse)
    say("update", [updated.status_code, updated.parsed.title])
    stale = update_task.sync_detailed(task_id, client=client, body=TaskUpdate(title="Three"), if_match=etag)
    assert isinstance(stale.parsed, Problem)
    say("stale", [stale.status_code, stale.parsed.code])
    invalid = create_task.sync_detailed(client=client, body=TaskCreate(title=""))
    assert isinstance(invalid.parsed, ValidationProblem)
    say("invalid", [invalid.status_code, invalid.parsed.code, invalid.parsed.errors[0].field])
    say("delete", delete_task.sync_detailed(task_id, client=client).status_code)
    missing = read_task.sync_detailed(task_id, client=client)
    assert isinstance(missing.parsed, Problem)
    say("missing", [missing.status_code, missing.parsed.code])
