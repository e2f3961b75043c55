"""Every operation of the OpenAPI document × every kind of caller, as tests/authorisation.toml says."""

import itertools
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio
from fastapi import FastAPI
from starlette.routing import Route, WebSocketRoute

from duly.app import create_app
from duly.kit.clock import now
from duly.kit.jwt import AccessTokens
from duly.kit.secrets import derive_key
from duly.settings import Settings
from tests.better_auth.issuing import claims_for, seal
from tests.fixtures.application import PASSWORD, Api, Person, running
from tests.fixtures.stored import Stored

SECRET = "a-key-that-is-only-in-this-very-matrix"
OUTSIDE_SECRET = "the-secret-that-the-issuer-and-we-share"
POLICY_FILE = Path(__file__).with_name("authorisation.toml")
POLICY = tomllib.loads(POLICY_FILE.read_text())
LINES: dict[str, dict[str, Any]] = POLICY["operations"]
CLASSES: dict[str, dict[str, Any]] = POLICY["classes"]
KEYS = {"who", "body", "file", "headers", "ids", "spends", "answer", "outside", "alias", "by"}
METHODS = ("get", "post", "put", "patch", "delete")
_numbers = itertools.count(1)
shared = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Operation:
    """One operation of the document. `succeeds` are the 2xx that it declares."""

    id: str
    method: str
    path: str
    needs_body: bool
    succeeds: frozenset[int]


def operations(app: FastAPI) -> Iterator[Operation]:
    for path, methods in app.openapi()["paths"].items():
        for method in METHODS:
            if (found := methods.get(method)) is not None:
                succeeds = frozenset(int(status) for status in found["responses"] if status[0] == "2")
                needs_body = "requestBody" in found
                yield Operation(found["operationId"], method.upper(), path, needs_body, succeeds)


@dataclass
class Owner:
    """An ordinary user with a task that has a file, a task in the trash, and what their ids are."""

    person: Person
    values: dict[str, str]


@dataclass
class Cast:
    """Everybody who calls. `dead` are headers with tokens that are no longer, or never were, good."""

    api: Api
    owner: Owner
    stranger: Person
    admin: Person
    dead: dict[str, dict[str, str]] = field(default_factory=dict)

    async def another_admin(self) -> Person:
        person = await self.api.register()
        answer = await self.admin.patch(f"/users/{person.user_id}", json={"role": "admin"})
        assert answer.status_code == 200, answer.text
        return person


async def new_owner(api: Api) -> Owner:
    person = await api.register()
    task, trashed = await person.add_task("Kept"), await person.add_task("Thrown away")
    assert (await person.delete(f"/tasks/{trashed['id']}")).status_code == 204
    file = await person.post(f"/tasks/{task['id']}/attachments", files={"file": ("kept.txt", b"Kept")})
    assert file.status_code == 201, file.text
    session_id = jwt.decode(person.access_token, options={"verify_signature": False})["sid"]
    values = {
        "email": person.email, "password": PASSWORD, "refresh_token": person.refresh_token, "user_id": person.user_id,
        "task_id": task["id"], "trashed_task_id": trashed["id"], "session_id": session_id,
        "attachment_id": file.json()["id"],
    }  # fmt: skip
    return Owner(person, values)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def outside_user() -> dict[str, str]:
    """Somebody whom the outside issuer vouches for, never seen before."""
    claims = claims_for("", iss=None, aud=None, sub=f"outside-{next(_numbers)}")
    return bearer(seal({"alg": "HS256"}, claims, OUTSIDE_SECRET.encode(), "HS256"))


async def dead_tokens(cast: Cast) -> dict[str, dict[str, str]]:
    """Tokens of people who lost what they had, each of which was good before."""
    api, admin = cast.api, cast.admin
    deactivated, deleted = await api.register(), await api.register()
    demoted, logged_out = await cast.another_admin(), await api.register()
    for person in (deactivated, deleted, demoted, logged_out):
        assert (await person.get("/auth/me")).status_code == 200
    assert (await demoted.get("/users")).status_code == 200
    changes: list[tuple[Person, str, str, dict[str, Any]]] = [
        (admin, "PATCH", f"/users/{deactivated.user_id}", {"json": {"is_active": False}}),
        (admin, "DELETE", f"/users/{deleted.user_id}", {}),
        (admin, "PATCH", f"/users/{demoted.user_id}", {"json": {"role": "user"}}),
        (logged_out, "POST", "/auth/logout", {}),
    ]
    for who, method, path, options in changes:
        assert (await who.request(method, path, **options)).status_code in {200, 204}
    tokens = AccessTokens(derive_key(SECRET, "access-token"), "duly", "duly", 60)
    owner = cast.owner.values
    expired = tokens.issue(
        user_id=owner["user_id"], session_id=owner["session_id"], token_id="t",
        issued_at=now().fromtimestamp(time.time() - 61, tz=now().tzinfo),
    )  # fmt: skip
    people = {"deactivated": deactivated, "deleted": deleted, "demoted": demoted, "logged out": logged_out}
    return {"garbage": bearer("a.b.c"), "expired": bearer(expired), **{k: p.headers for k, p in people.items()}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cast(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cast]:
    """The application, and everybody in it."""
    values: dict[str, Any] = {
        "database_url": shared_database_url, "data_dir": tmp_path_factory.mktemp("matrix"), "log_level": "error",
        "secret_key": SECRET, "better_auth_secret": OUTSIDE_SECRET, "rate_limit_enabled": False,
    }  # fmt: skip
    async with running(Settings(_env_file=None, **values)) as api:
        admin = await api.register()
        await Stored(shared_database_url).rows("UPDATE users SET role = 'admin' WHERE id = ?", admin.user_id)
        found = Cast(api, await new_owner(api), await api.register(), admin)
        found.dead = await dead_tokens(found)
        yield found


def fill(value: Any, values: dict[str, str]) -> Any:
    """The same with each `{name}` replaced."""
    if isinstance(value, dict):
        return {name: fill(inner, values) for name, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, values) for inner in value]
    if not isinstance(value, str):
        return value
    for name, text in values.items():
        value = value.replace(f"{{{name}}}", text)
    return value


@dataclass(frozen=True)
class Asking:
    """One operation, at its address or at the one without the version, and what the policy says of it."""

    cast: Cast
    operation: Operation
    path: str
    line: dict[str, Any]

    async def ask(
        self, headers: dict[str, str], owner: Owner, admin: Person | None = None, *, method: str = ""
    ) -> httpx.Response:
        """Send what the line says about this owner, or, where it speaks of one, this administrator."""
        admin = admin or self.cast.admin
        values = {**owner.values, "admin_email": admin.email, "admin_refresh_token": admin.refresh_token}
        values["new"] = f"new-{next(_numbers)}"
        ids = {**values, **fill(self.line.get("ids", {}), values)}
        options: dict[str, Any] = {"json": fill(self.line["body"], values)} if "body" in self.line else {}
        if "file" in self.line:
            options = {"files": {"file": ("file", fill(self.line["file"], values).encode())}}
        sent = {**fill(self.line.get("headers", {}), values), **headers}
        path = fill(self.path, ids)
        assert "{" not in path, f"{self.path}: give its ids in {POLICY_FILE.name}"
        return await self.cast.api.client.request(method or self.operation.method, path, headers=sent, **options)

    def expected(self, kind: str) -> frozenset[int]:
        """The statuses that the policy allows for this kind of caller."""
        wanted = CLASSES[self.line["who"]][kind]
        if kind == "outside":
            wanted = self.line.get("outside", wanted)
        if wanted != "ok":
            return frozenset({wanted})
        return frozenset({self.line["answer"]}) if "answer" in self.line else self.operation.succeeds

    def concerns(self, kind: str) -> bool:
        """Whether to ask as this kind; an address without the version is the same handler, and is asked less."""
        is_alias = self.path != self.operation.path
        return kind in CLASSES[self.line["who"]] and not (is_alias and kind in {"admin", "outside"})

    def does_it(self, kind: str) -> bool:
        return bool(CLASSES[self.line["who"]][kind] == "ok") and not (kind == "outside" and "outside" in self.line)

    def wrong(self, kind: str, answer: httpx.Response, name: str = "") -> list[str]:
        """What is wrong with an answer, if anything is."""
        who = f"{self.operation.method} {self.path} as {name or kind}"
        if answer.status_code not in self.expected(kind):
            return [f"{who}: {answer.status_code}, not {sorted(self.expected(kind))}: {answer.text[:200]}"]
        challenge = answer.headers.get("www-authenticate", "")
        if answer.status_code == 401 and (("invalid_token" in challenge) != (kind != "nobody") or not challenge):
            return [f"{who}: the challenge of the 401 is {challenge!r}"]
        return []


async def ask_those_who_may_not(asking: Asking) -> list[str]:
    """Everybody whom the policy refuses, with the ids of one owner, whose things stay as they are."""
    cast, owner = asking.cast, asking.cast.owner
    callers = [("nobody", "nobody", dict[str, str]()), *(("dead", name, sent) for name, sent in cast.dead.items())]
    people = {"owner": owner.person, "stranger": cast.stranger, "admin": cast.admin}
    callers += [(kind, kind, person.headers) for kind, person in people.items()]
    callers.append(("outside", "outside", outside_user()))
    faults: list[str] = []
    if asking.line["who"] == "public":
        return faults
    before = await what_is_theirs(owner)
    for kind, name, sent in callers:
        if asking.concerns(kind) and not asking.does_it(kind):
            faults += asking.wrong(kind, await asking.ask(sent, owner), name)
            if asking.operation.method == "GET":
                faults += asking.wrong(kind, await asking.ask(sent, owner, method="HEAD"), f"{name}, by HEAD")
    if await what_is_theirs(owner) != before:
        faults.append(f"{asking.operation.method} {asking.path}: somebody who was refused changed something")
    return faults


async def ask_those_who_may(asking: Asking) -> list[str]:
    """Everybody whom the policy lets in; with people of their own where that uses something up."""
    cast, faults = asking.cast, list[str]()
    # Of the dead two will do here: one whose token says nothing, and one whose token says who it was.
    callers = [("nobody", "nobody"), ("dead", "garbage"), ("dead", "deactivated")]
    callers += [(kind, kind) for kind in ("owner", "admin", "outside")]
    for kind, name in callers:
        if not asking.concerns(kind) or not asking.does_it(kind):
            continue
        owner, admin = cast.owner, cast.admin
        if asking.line.get("spends"):
            owner = await new_owner(cast.api)
            admin = await cast.another_admin() if "admin" in f"{kind}{asking.line.get('body')}" else admin
        sent = {"owner": owner.person.headers, "admin": admin.headers, "nobody": {}, **cast.dead}.get(name)
        method = asking.line.get("by", "")
        answer = await asking.ask(outside_user() if sent is None else sent, owner, admin, method=method)
        faults += asking.wrong(kind, answer, name)
    return faults


async def what_is_theirs(owner: Owner) -> list[Any]:
    """What of an owner others could have changed."""
    person, found = owner.person, []
    for path in ("/users/profile", "/auth/sessions", "/tasks", "/tasks/trash"):
        answer = await person.get(path)
        assert answer.status_code == 200, f"the owner lost their session: {answer.text}"
        found.append(answer.json())
    for session in found[1]["items"]:
        session.pop("last_used_at", None)
    return found


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """An application that is not started; its document is the same."""
    return create_app(Settings(_env_file=None, data_dir=tmp_path_factory.mktemp("document"), log_level="error"))


@pytest.mark.covers("D075")
def test_every_operation_has_a_line_and_every_line_an_operation(document: FastAPI) -> None:
    found = {operation.id: operation for operation in operations(document)}
    faults = [
        f"{id_} ({operation.method} {operation.path}) has no line: say in {POLICY_FILE.name} who may do it"
        for id_, operation in found.items()
        if id_ not in LINES
    ]
    faults += [f"{id_} is no operation: take its line out of {POLICY_FILE.name}" for id_ in LINES.keys() - found.keys()]
    for id_, line in LINES.items():
        if id_ not in found:
            continue
        if line["who"] not in CLASSES or line.keys() - KEYS:
            faults.append(f"{id_}: {line} has a word that {POLICY_FILE.name} does not explain")
        elif "{" in found[id_].path and "stranger" not in CLASSES[line["who"]]:
            faults.append(f"{id_}: its address has an id; choose a class that says what a stranger gets")
        elif found[id_].needs_body and not {"body", "file"} & line.keys():
            faults.append(f"{id_}: give a valid body, so that a wrong permission cannot hide behind a 422")
    assert not faults, "\n".join(faults)


def test_no_address_is_outside_the_document_but_the_pages_that_all_may_read(document: FastAPI) -> None:
    known = {operation.path for operation in operations(document)}
    known |= {alias_of(path) for path in known}
    found, pages = set(addresses(document.router.routes)), {*POLICY["pages"]["public"], *POLICY["sockets"]["signed_in"]}
    strange, gone = sorted(found - known - pages), sorted(pages - found)
    assert not strange, f"put {strange} into the document, or, if anybody may read it, into {POLICY_FILE.name}"
    assert not gone, f"take {gone}, which are gone, out of {POLICY_FILE.name}"


def addresses(routes: Any, prefix: str = "") -> Iterator[str]:
    """Every path that the application answers, those of routers that were put into it too."""
    for route in routes:
        if isinstance(route, (Route, WebSocketRoute)):
            yield prefix + route.path
        else:
            yield from addresses(route.original_router.routes, prefix + route.include_context.prefix)


@shared
@pytest.mark.parametrize("name", LINES)
@pytest.mark.covers("A033", "A035", "A037", "A053", "A088", "A089", "B041", "B042", "D021", "D075", "D084")
async def test_everybody_gets_what_the_policy_says(cast: Cast, name: str) -> None:
    by_id = {operation.id: operation for operation in operations(cast.api.app)}
    if name not in by_id:
        pytest.fail(f"{name} is no operation: take its line out of {POLICY_FILE.name}")
    operation, line = by_id[name], LINES[name]
    faults = []
    for path in paths_of(operation, line):
        asking = Asking(cast, operation, path, line)
        faults += await ask_those_who_may_not(asking)
        faults += await ask_those_who_may(asking)
    assert not faults, "\n".join(faults)


def alias_of(path: str) -> str:
    """The other address of what the document shows at this one; itself where there is none."""
    if path.startswith("/api/{user_id}/"):
        return path.replace("/api/", "/api/v1/", 1)
    return path.replace("/api/v1/", "/api/", 1)


def paths_of(operation: Operation, line: dict[str, Any]) -> list[str]:
    alias = alias_of(operation.path)
    has_alias = alias != operation.path and line.get("alias", True)
    return [operation.path, alias] if has_alias else [operation.path]


@shared
@pytest.mark.covers("A035", "B042")
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("right", [{"role": "admin"}, {"is_active": False}, {"name": "Root", "role": "admin"}])
async def test_nobody_gives_themselves_or_others_a_right(cast: Cast, method: str, right: dict[str, Any]) -> None:
    owner, before = cast.owner, await what_is_theirs(cast.owner)
    asked = [(owner.person, owner.person.user_id, 403), (cast.stranger, owner.person.user_id, 404)]
    asked += [(owner.person, cast.admin.user_id, 404), (cast.admin, cast.admin.user_id, 403)]
    for who, user_id, status in asked:
        change = {**right, "role": "user"} if who is cast.admin and "role" in right else right
        answer = await who.request(method, f"/users/{user_id}", json=change)
        assert answer.status_code in {status, 409 if who is cast.admin else status}, answer.text
    assert await what_is_theirs(owner) == before
    assert (await owner.person.get("/users")).status_code == 403
    assert (await cast.admin.get("/users")).status_code == 200


@shared
@pytest.mark.covers("A035", "B042")
async def test_a_right_given_counts_at_once_and_in_the_token_that_was_there(cast: Cast) -> None:
    person = await cast.api.register()
    assert (await person.get("/audit-log")).status_code == 403
    assert (await cast.admin.patch(f"/users/{person.user_id}", json={"role": "admin"})).status_code == 200
    assert (await person.get("/audit-log")).status_code == 200


@shared
@pytest.mark.covers("A035")
async def test_an_outside_user_who_was_deactivated_is_refused_within_a_second(cast: Cast) -> None:
    headers = outside_user()
    answer = await cast.api.client.get("/api/v1/users/profile", headers=headers)
    assert answer.status_code == 200, answer.text
    path = f"/users/{answer.json()['id']}"
    assert (await cast.admin.patch(path, json={"is_active": False})).status_code == 200
    ended = time.monotonic()
    asked = ended
    while (answer := await cast.api.client.get("/api/v1/tasks", headers=headers)).status_code == 200:
        assert asked < ended + 1, "who asked a second later was let in"
        asked = time.monotonic()
    assert (answer.status_code, answer.json()["code"]) == (401, "ACCOUNT_INACTIVE")
    assert (await cast.admin.patch(path, json={"is_active": True})).status_code == 200
