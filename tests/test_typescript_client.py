"""`@duly/client` against real servers: its types, its sessions, its retries, its errors and its feed."""

import asyncio
import base64
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

import duly
from tests.better_auth.running import better_auth_server
from tests.clients.talking import Script, talk_to
from tests.clients.tools import (
    CLIENT,
    FOLDER,
    compile_strictly,
    export_document,
    install,
    make_workspace,
    run_script,
    run_tool,
)
from tests.clients.wires import Wire
from tests.fixtures.application import PASSWORD, Person
from tests.fixtures.server import Server, StartServer
from tests.live_clients import SECRET, register, serve, short_lived

HARNESS = "harness.ts"
SCRIPTS = ("story", "refreshing", "retrying", "following", "outside")
API = "/api/v1"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package built as it ships, and the scripts of calls compiled against it."""
    folder = tmp_path_factory.mktemp("client")
    package, own = folder / "package", install(CLIENT)
    package.mkdir()
    run_tool(own, "tsc", "--outDir", str(package / "dist"), cwd=CLIENT)
    (package / "package.json").write_text((CLIENT / "package.json").read_text())
    (package / "node_modules").symlink_to(own)
    tools = install(FOLDER)
    links = {"@duly/client": package, "@types": tools / "@types", "undici-types": tools / "undici-types"}
    workspace = make_workspace(folder / "scripts", links, [HARNESS, *(f"{name}.ts" for name in SCRIPTS)])
    # Most applications do without this rule, and the types have to be as exact there.
    run_tool(tools, "tsc", "--noEmit", "--exactOptionalPropertyTypes", "false", cwd=workspace)
    return compile_strictly(workspace, tools)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests share; its key is known."""
    running = serve(tmp_path_factory.mktemp("server"), secret_key=SECRET)
    yield running
    running.kill()


@pytest.fixture
async def wire(server: Server) -> AsyncIterator[Wire]:
    """The way to the server that a script takes."""
    async with Wire(server.base_url).serve() as opened:
        yield opened


@pytest.fixture
async def ann(server: Server) -> AsyncIterator[Person]:
    """Somebody new, who has a way of their own to the server."""
    async with somebody(server) as person:
        yield person


@asynccontextmanager
async def somebody(server: Server) -> AsyncIterator[Person]:
    """Somebody new at this server."""
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False, timeout=30) as client:
        yield await register(client)


async def log_in(ann: Person) -> dict[str, str]:
    """Another session of hers, as a script takes it."""
    answer = await ann.client.post(f"{API}/auth/login", json={"email": ann.email, "password": PASSWORD})
    body = answer.json()
    return {"accessToken": body["access_token"], "refreshToken": body["refresh_token"]}


def worn_out(ann: Person, *, expired: bool) -> dict[str, str]:
    """Her session with an access token that is of no use; the script is told so, or has to find out."""
    return {
        "accessToken": "an.old.token",
        "refreshToken": ann.refresh_token,
        "expired": "yes" if expired else "no",
    }


def test_the_types_in_the_package_are_those_of_the_document(tmp_path: Path) -> None:
    document = export_document(tmp_path / "openapi.json")
    made = tmp_path / "schema.ts"
    run_tool(
        install(CLIENT), "openapi-typescript", str(document), "--default-non-nullable=false", "--output", str(made),
        cwd=tmp_path,
    )  # fmt: skip
    kept = CLIENT / "src" / "schema.ts"
    assert made.read_text() == kept.read_text(), "run `npm run generate` in clients/typescript"


def test_the_package_has_the_version_of_duly() -> None:
    for name in ("package.json", "package-lock.json"):
        assert json.loads((CLIENT / name).read_text())["version"] == duly.__version__


def test_every_post_that_keeps_its_answer_is_repeated_and_no_other(built: Path, tmp_path: Path) -> None:
    document = json.loads(export_document(tmp_path / "openapi.json").read_text())
    posts = {path: methods["post"] for path, methods in document["paths"].items() if "post" in methods}
    keeps = [
        path for path, post in posts.items()
        if any(parameter["name"] == "Idempotency-Key" for parameter in post.get("parameters", ()))
    ]  # fmt: skip
    module = built.parent / "node_modules" / "@duly" / "client" / "dist" / "retry.js"
    (tmp_path / "ask.mjs").write_text(
        f"import {{ isRepeatable }} from {json.dumps(str(module))};\n"
        "for (const path of JSON.parse(process.argv[2]).paths.split(' '))\n"
        "  if (isRepeatable(new Request('http://x' + path, { method: 'POST' }))) console.log(path);\n"
    )
    repeated = run_script(tmp_path / "ask.mjs", {"paths": " ".join(posts)})
    # A refresh token that was just replaced brings the same successor again, which is as good as a kept answer.
    assert repeated == [path for path in posts if path in {*keeps, "/api/v1/auth/refresh"}]


@pytest.mark.covers("A125", "A055", "D095", "C130", "E115", "A122")
def test_a_typed_session_goes_from_registering_to_signing_out(built: Path, server: Server) -> None:
    said = [json.loads(line) for line in run_script(built / "story.js", {"baseUrl": server.base_url})]
    assert said == [
        ["registered", "Ann"],
        ["signed out", False],
        ["wrong password", [401, "INVALID_CREDENTIALS", 1]],
        ["signed in", "typed@example.com"],
        ["created", ["One", None, 1, '"1"']],
        ["listed", [1, "One"]],
        ["edited", ["Two", 2]],
        ["stale", [412, "STALE_VERSION", True, "Two", '"2"']],
        ["completed", True],
        ["imported", 1],
        ["exported", 4],
        ["not modified", 304],
        ["invalid", [422, "VALIDATION_ERROR", "title", 36]],
        ["deleted", 204],
        ["missing", [404, "NOT_FOUND", True]],
        ["owner", [403, "USER_MISMATCH", 36]],
        ["accounts", [403, "AuthorizationError", 36]],
        ["aborted", "enough"],
        ["nobody", "NOT_AUTHENTICATED"],
    ]


@pytest.mark.covers("A031", "A050")
@pytest.mark.parametrize("expired", [True, False])
async def test_twenty_calls_at_once_share_one_refresh(built: Path, wire: Wire, ann: Person, expired: bool) -> None:
    given = worn_out(ann, expired=expired)
    async with talk_to(built / "refreshing.js", baseUrl=wire.url, **given) as script:
        assert await script.said("came of it") == ["200"]
        assert await script.said("held") not in {None, ann.refresh_token}
        assert await script.said("refreshes") == 1
        script.tell()
        assert await script.said("came of it") == ["200"]
        await script.said("held")
        assert await script.said("refreshes") == wire.asked(f"POST {API}/auth/refresh") == 1


@pytest.mark.covers("A031")
async def test_a_refresh_whose_answer_is_lost_signs_nobody_out(built: Path, wire: Wire, ann: Person) -> None:
    wire.lose_answer(f"POST {API}/auth/refresh")
    async with talk_to(built / "refreshing.js", baseUrl=wire.url, **worn_out(ann, expired=True)) as script:
        assert await script.said("came of it") == ["200"]
        assert await script.said("held") != ann.refresh_token
        assert await script.said("refreshes") == wire.asked(f"POST {API}/auth/refresh") == 2


async def test_a_network_that_is_away_during_a_refresh_signs_nobody_out(built: Path, wire: Wire, ann: Person) -> None:
    wire.close()
    # Node can wait for ever for a connection that was broken at its beginning.
    given = worn_out(ann, expired=True)
    async with talk_to(built / "refreshing.js", baseUrl=wire.url, patience="5000", **given) as script:
        assert await script.said("came of it") == ["DulyError 0 NETWORK_FAILURE 4"]
        assert await script.said("held") == ann.refresh_token
        assert await script.said("refreshes") == 4
        wire.mend()
        script.tell()
        assert await script.said("came of it") == ["200"]


@pytest.mark.covers("A049", "A050")
async def test_a_session_that_was_ended_elsewhere_is_signed_out_once(built: Path, wire: Wire, ann: Person) -> None:
    given = await log_in(ann)
    async with talk_to(built / "refreshing.js", baseUrl=wire.url, expired="no", **given) as script:
        assert await script.said("came of it") == ["200"]
        assert await script.until("refreshes") == 0
        assert (await ann.post("/auth/logout", json={"all_sessions": True})).status_code == 204
        script.tell()
        code = await script.said("onSignedOut")
        outcomes = set(await script.said("came of it"))
        assert outcomes <= {f"DulyError 401 {code} 1", "DulyError 401 NOT_AUTHENTICATED 1"}
        assert await script.said("held") is None
        assert await script.said("refreshes") == wire.asked(f"POST {API}/auth/refresh") == 1


async def test_a_create_whose_answer_is_lost_makes_one_task(built: Path, wire: Wire, ann: Person) -> None:
    async with talk_to(built / "retrying.js", baseUrl=wire.url, accessToken=ann.access_token) as script:
        wire.lose_answer(f"POST {API}/tasks")
        script.tell("create")
        task_id, replayed = await script.said("created")
        assert replayed == "true"
        assert [task["id"] for task in (await ann.get("/tasks")).json()["items"]] == [task_id]
        assert wire.asked(f"POST {API}/tasks") == 2


async def test_what_could_be_done_twice_is_sent_once(built: Path, wire: Wire, ann: Person) -> None:
    task_id = (await ann.add_task("before"))["id"]
    path = f"{API}/tasks/{task_id}"
    async with talk_to(built / "retrying.js", baseUrl=wire.url, accessToken=ann.access_token) as script:
        wire.lose_answer(f"PATCH {path}/complete")
        script.tell(f"toggle {task_id}")
        assert await script.said("toggled") == "DulyError 0 NETWORK_FAILURE 1"
        assert (await ann.get(f"/tasks/{task_id}")).json()["completed"] is True
        wire.lose_answer(f"PATCH {path}")
        script.tell(f'edit {task_id} "2"')
        assert await script.said("stale") == [2, "Edited"], "its own edit is what it finds"
        wire.lose_answer(f"DELETE {path}")
        script.tell(f"delete {task_id}")
        assert await script.said("deleted") == "DulyError 404 NOT_FOUND 2"
        wire.lose_answer(f"POST {path}/restore")
        script.tell(f"restore {task_id}")
        assert await script.said("restored") == "DulyError 0 NETWORK_FAILURE 1"
        wire.lose_answer(f"GET {API}/tasks")
        script.tell("list")
        assert await script.said("listed") == "200"


@pytest.mark.parametrize("limit", ["1/3 seconds", "1/hour"])
async def test_a_pause_that_the_server_asks_for_is_kept(built: Path, start_server: StartServer, limit: str) -> None:
    server = start_server(rate_limit_enabled="true", rate_limit_user=limit)
    async with (
        somebody(server) as ben,
        Wire(server.base_url).serve() as wire,
        talk_to(built / "retrying.js", baseUrl=wire.url, accessToken=ben.access_token) as script,
    ):
        script.tell("list")
        assert await script.said("listed") == "200"
        if limit == "1/hour":
            script.tell("list")
            assert await script.said("listed") == "DulyError 429 RATE_LIMITED 1"
            return
        for calls in range(2, 20):
            script.tell("list")
            assert await script.said("listed") == "200"
            if wire.asked(f"GET {API}/tasks") > calls:
                return
        pytest.fail("it was never told to wait")


async def test_tokens_of_better_auth_are_kept_and_replaced_when_refused(built: Path, start_server: StartServer) -> None:
    for issuer in better_auth_server():
        server = start_server(better_auth_url=issuer.origin)
        someone = await asyncio.to_thread(issuer.sign_up_fully, "someone@example.com")
        given = {"issuer": issuer.origin, "sessionToken": someone.session_token, "tokens": forged(900)}
        async with talk_to(built / "outside.js", baseUrl=server.base_url, **given) as script:
            script.tell("call")
            # The forged one is refused, and 20 calls ask once each time.
            assert [await script.said("asked") for _ in range(2)] == [False, True]
            assert await script.said("came of it") == ["200"]
            script.tell("call")
            assert await script.said("came of it") == ["200"]


def forged(seconds: int) -> str:
    """A token that nobody signed."""
    parts = ({"alg": "EdDSA"}, {"sub": "somebody", "exp": int(time.time()) + seconds})
    spelt = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*spelt, "c2lnbmF0dXJl"])


@pytest.mark.covers("A139")
async def test_a_stream_goes_on_when_its_token_expires(built: Path, server: Server, ann: Person) -> None:
    tokens = f"{short_lived(ann, seconds=10)} {ann.access_token}"
    async with talk_to(built / "outside.js", baseUrl=server.base_url, tokens=tokens) as script:
        script.tell("follow")
        assert await script.said("asked") is False
        assert await script.until("asked") is True
        await script.until("ready")
        await ann.add_task("after")
        assert await script.until("change") == "task.created"


class Writer:
    """Writes tasks without an end, over whatever happens to the server, and knows what was written."""

    def __init__(self, person: Person) -> None:
        self.titles: list[str] = []
        self._person = person

    async def write(self) -> None:
        """One task after the other, each made once."""
        for number in itertools.count(1):
            self.titles.append(f"task {number}")
            await self._until_written(self.titles[-1])
            await asyncio.sleep(0.02)

    async def _until_written(self, title: str) -> None:
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await self._person.post("/tasks", json={"title": title}, headers={"Idempotency-Key": title})
                if answer.status_code == 201:
                    return
            await asyncio.sleep(0.05)


class Seen:
    """What a script tells of its feed: the titles in order, and why its connections broke."""

    def __init__(self, script: Script) -> None:
        self.titles: list[str] = []
        self.cuts: list[str] = []
        self._script = script

    async def more(self, least: int = 5) -> None:
        """Read until there are so many more titles."""
        wanted = len(self.titles) + least
        while len(self.titles) < wanted:
            await self._read()

    async def cut(self) -> None:
        """Read until a connection broke once more."""
        before = len(self.cuts)
        while len(self.cuts) == before:
            await self._read()

    async def _read(self) -> None:
        event, value = await self._script.next()
        if event == "change":
            self.titles.append(value[1])
        elif event == "cut":
            self.cuts.append(value)
        else:
            assert event == "ready", (event, value)


async def test_a_stream_that_is_cut_and_cut_again_has_no_gap_and_no_double(
    built: Path, start_server: StartServer
) -> None:
    server = start_server(secret_key=SECRET)
    port = int(server.base_url.rpartition(":")[2])
    async with (
        somebody(server) as ben,
        Wire(server.base_url).serve() as wire,
        talk_to(built / "following.js", baseUrl=wire.url, silence="5000", **session_of(ben)) as script,
    ):
        await script.said("ready")
        writer, seen = Writer(ben), Seen(script)
        writing = asyncio.create_task(writer.write())
        for _ in range(3):
            await seen.more()
            wire.cut()
        await seen.more()
        wire.silence()
        await seen.cut()
        wire.mend()
        await seen.more()
        assert await asyncio.to_thread(server.stop) == 0
        server = await asyncio.to_thread(start_server, port, secret_key=SECRET)
        await seen.more()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(start_server, port, secret_key=SECRET)
        await seen.more()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await ben.add_task("last")
        while seen.titles[-1] != "last":
            await seen.more(1)
        script.tell("leave")
        await script.until("left")
    assert {"NETWORK_FAILURE", "SERVER_RESTARTS"} <= set(seen.cuts)
    # The one at which the writer was stopped may be there or not.
    assert seen.titles in ([*writer.titles, "last"], [*writer.titles[:-1], "last"]), "a gap, a double, or another order"


def session_of(person: Person) -> dict[str, str]:
    """The session that came with registering, as a script takes it."""
    return {"accessToken": person.access_token, "refreshToken": person.refresh_token}


async def test_a_silent_connection_is_resumed(built: Path, wire: Wire, ann: Person) -> None:
    async with talk_to(built / "following.js", baseUrl=wire.url, silence="1000", **session_of(ann)) as script:
        await script.said("ready")
        wire.silence()
        assert await script.said("cut") == "NETWORK_FAILURE"
        await ann.add_task("meanwhile")
        wire.mend()
        assert (await script.until("change"))[1] == "meanwhile"


@pytest.mark.covers("A139")
async def test_a_stream_of_a_session_that_ends_does_not_come_back(built: Path, wire: Wire, ann: Person) -> None:
    async with talk_to(built / "following.js", baseUrl=wire.url, **await log_in(ann)) as script:
        await script.said("ready")
        await ann.post("/auth/logout", json={"all_sessions": True})
        await script.said("onSignedOut")
        assert await script.said("refused") == [401, "SESSION_ENDED"]
        assert wire.asked(f"GET {API}/events") == 1


async def test_a_cursor_that_the_server_does_not_know_is_the_callers_to_settle(
    built: Path, server: Server, ann: Person
) -> None:
    given = session_of(ann)
    async with talk_to(built / "following.js", baseUrl=server.base_url, since="nonsense", **given) as script:
        assert await script.said("refused") == [400, "BAD_CURSOR"]
