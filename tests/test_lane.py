"""The lane for hot routes answers byte for byte what the declared routes answer, whatever is asked.

Two applications on one database: one as it ships, and one whose lane stands aside, which it does as soon as FastAPI's
`dependency_overrides` holds anything; what it holds here belongs to no route. `LANE_REQUESTS` sets how many are drawn.
"""

import asyncio
import json
import os
import random
import re
import uuid
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.fixtures.application import Api, Person, StartApp
from tests.raw_asgi import Answer, Asked, Headers, ask

REQUESTS = int(os.environ.get("LANE_REQUESTS", "700"))
SEED = int(os.environ.get("LANE_SEED", "1"))
REQUEST_ID = (b"x-request-id", b"9b2f6f5e-3a0c-4f5e-8d38-5f0c4f6f4f10")
MINTED = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT[\d:.]{15}Z")
JSON = b"application/json"


def without_minted(answer: Answer) -> Answer:
    """The answer with ids and times blanked, which differ between two tasks that were created alike."""
    headers = [(name, MINTED.sub(b"?", value)) for name, value in answer.headers]
    return replace(answer, headers=headers, body=MINTED.sub(b"?", answer.body))


@dataclass
class Pair:
    """The application as it ships, the one without its lane, and who uses them."""

    shipped: Api
    declared: Api
    ann: Person
    ben: Person

    async def both(self, asked: Asked) -> tuple[Answer, Answer]:
        """The same request to both. Each task that it creates is another one."""
        return await self.directly(asked), await self.routed(asked)

    async def directly(self, asked: Asked) -> Answer:
        """As it ships; a request id of its own makes the answers equal to the last byte."""
        return await ask(self.shipped.app, replace(asked, headers=(*asked.headers, REQUEST_ID)))

    async def routed(self, asked: Asked) -> Answer:
        """By the declared route."""
        return await ask(self.declared.app, replace(asked, headers=(*asked.headers, REQUEST_ID)))


@pytest.fixture
async def pair(start_app: StartApp) -> Pair:
    settings = {"cors_origins": ("https://app.example.com",)}
    shipped, declared = await start_app(**settings), await start_app(**settings)
    declared.app.dependency_overrides[object] = object
    return Pair(shipped, declared, await shipped.register(), await shipped.register())


def bearer(person: Person) -> Headers:
    return ((b"authorization", b"Bearer " + person.access_token.encode()),)


class Drawer:
    """Draws requests to the hot addresses: mostly in order, with one or the other thing wrong or unusual."""

    def __init__(self, seed: int, good: Headers, other: Headers, ended: Headers, ids: list[str]) -> None:
        self._random = random.Random(seed)  # noqa: S311 - the same requests in every run
        token = good[0][1]
        self._callers: list[Headers] = [
            good, other, ended, (), good + good, good + other, ((b"authorization", token.lower()),),
            ((b"authorization", token + b"x"),), ((b"authorization", token.replace(b" ", b"  ")),),
            ((b"authorization", b"Bearer"),), ((b"authorization", b"\xff"),),
        ]  # fmt: skip
        self._ids = ids

    def request(self) -> Asked:
        """The next one."""
        draw = self._random.choice((self._read, self._list, self._create))
        asked = draw()
        path = self._mostly(asked.path, [asked.path + "/", asked.path.replace("/v1", ""), asked.path + "//"])
        # None that would change a task which the other application then reads.
        method = self._mostly(asked.method, ["HEAD", "GET", "POST", "OPTIONS", "TRACE", "get"])
        headers = self._mostly(self._callers[0], self._callers) + asked.headers + self._more()
        return replace(asked, path=path, method=method, headers=headers)

    def _read(self) -> Asked:
        held = self._mostly((), [((b"if-none-match", value),) for value in (
            b'"1"', b'W/"1"', b"*", b'"2"', b'"2", "1"', b'"2" , W/"1"', b"1", b"", b"\xff", b'"1', b',,"1"',
        )] + [((b"if-none-match", b'"9"'), (b"if-none-match", b'"1"'))])  # fmt: skip
        return Asked("GET", f"/api/v1/tasks/{self._mostly(self._ids[0], self._ids)}", self._mostly(b"", QUERIES), held)

    def _list(self) -> Asked:
        return Asked("GET", "/api/v1/tasks", self._random.choice(QUERIES))

    def _create(self) -> Asked:
        kinds = self._mostly(((b"content-type", JSON),), CONTENT_TYPES)
        key = self._random.choice([(), (), ((b"idempotency-key", self._random.choice(KEYS)),)])
        body = self._mostly(BODIES[0], BODIES)
        whole, half = (body,), (body[: len(body) // 2], body[len(body) // 2 :])
        pieces = self._mostly(whole, [half, (body, b""), (b"", body), (b"", b"", *half)])
        return Asked("POST", "/api/v1/tasks", self._mostly(b"", QUERIES), kinds + key, pieces)

    def _more(self) -> Headers:
        return self._mostly((), MORE_HEADERS)

    def _mostly(self, usual: Any, others: list[Any]) -> Any:
        return usual if self._random.random() < 0.75 else self._random.choice(others)


QUERIES = [
    b"", b"limit=3", b"limit=3&offset=1", b"limit=0", b"limit=101", b"limit=x", b"limit=1_0", b"limit=+5",
    b"limit=%205", b"limit=3&limit=2", b"sort=title&limit=5", b"sort=-priority", b"sort=bad", b"status=completed",
    b"status=", b"tag=a", b"tag=", b"tag=%00", b"tag=%ff", b"tag=\xff", b"tag=%C3%A9", b"tag=a+b",
    b"priority=high&status=pending", b"%70riority=low", b"overdue=true", b"overdue=1", b"overdue=yes",
    b"due_before=2030-01-01T00:00:00Z", b"due_before=2030-01-01T00:00:00%2B01:00",
    b"due_before=2030-01-01T00:00:00+01:00", b"due_before=2030-01-01", b"cursor=", b"cursor=AAAA",
    b"cursor=AAAA&offset=1", b"unknown=1", b"limit=3&unknown", b"&", b"=", b"limit", b"limit=3;offset=1", b"limit=3&",
    b"LIMIT=3", b"limit=99999999999999999999",
]  # fmt: skip
NO_IDS = ["trash", "nothing", "%00", "%FF", "%F0%9F%90%88", "a%20b", "x" * 65, "%0A", "a%2Fb", ".", "%2e%2e", "{id}"]
CONTENT_TYPES: list[Headers] = [
    (), ((b"content-type", b"text/plain"),), ((b"content-type", b"application/json; charset=utf-8"),),
    ((b"content-type", b"application/json;charset=latin-1"),), ((b"content-type", b"APPLICATION/JSON"),),
    ((b"content-type", b"application/merge-patch+json"),), ((b"content-type", b"\xff"),), ((b"content-type", b""),),
    ((b"content-type", b"text/plain"), (b"content-type", JSON)),
    ((b"content-type", JSON), (b"content-type", b"text/plain")),
    ((b"content-type", JSON), (b"content-encoding", b"gzip")),
    ((b"content-type", JSON), (b"content-encoding", b"identity")),
    ((b"content-type", JSON), (b"content-encoding", b"")),
]  # fmt: skip
KEYS = [b"key-123", b"key with blanks", b"", b"\xff-12345", b"k" * 255, b"k" * 256, b"\t-12345"]
BODIES = [
    b'{"title":"from the lane","tags":["a","a","b"],"priority":"high","due_date":"2030-01-01T00:00:00+01:00"}',
    b'{"title":" trimmed ","description":" two\\nlines ","completed":true}', b'{"title":"\\u00e9","tags":[]}', b"{}",
    b"", b" ", b"null", b"[]", b'"title"', b"{", b'{"title":1}', b'{"title":""}', b'{"title":"a","title":"b"}',
    b'{"title":"a\\u0000b"}', b'{"title":"\\ud800"}', b'{"title":"a","id":"x"}', b'{"title":"a","unknown":1}',
    b"\xff", b'{"title":"a","completed":"true"}', b'{"title":"a","completed":1}', b'{"title":"a","priority":"High"}',
    b"\xef\xbb\xbf{}", b'{"title":"a","due_date":"2030-02-30T00:00:00Z"}', b'{"title":"a","tags":["x","y",null]}',
    b'{"title":"a","tags":"a"}', b'{"title":NaN}', b'{"title":"a","description":null,"due_date":null}', b"[" * 200,
    b'{"title":"' + b"a" * 201 + b'"}', b'{"title":"large","description":"' + b"words " * 300 + b'"}',
    b'{"\\u0074itle":"escaped: name"}', b'{"title":"a"} {}',
]  # fmt: skip
MORE_HEADERS: list[Headers] = [
    ((b"origin", b"https://app.example.com"),), ((b"origin", b"https://evil.example"),),
    ((b"accept-encoding", b"gzip"),), ((b"accept-encoding", b"br, GZIP;q=0"),),
    ((b"accept-encoding", b"identity"), (b"accept-encoding", b"gzip")), ((b"accept", b"text/html"),),
    ((b"accept", b"application/xml;q=1, */*;q=0"),), ((b"if-match", b'"7"'),), ((b"cookie", b"a=b"),),
    ((b"x-forwarded-for", b"1.2.3.4"),), ((b"range", b"bytes=0-1"),), ((b"expect", b"100-continue"),),
    ((b"origin", b"https://app.example.com"), (b"accept-encoding", b"gzip")), ((b"transfer-encoding", b"chunked"),),
    ((b"origin", b"https://app.example.com"), (b"access-control-request-method", b"POST")),
    ((b"content-length", b"x"),), ((b"connection", b"close"),), ((b"content-length", b"99999999"),),
    ((b"if-modified-since", b"now"),),
]  # fmt: skip


async def furnish(pair: Pair) -> list[str]:
    """A few tasks; ids of one that can be read and of others, real and impossible."""
    first = await pair.ann.add_task("first", tags=["a"], due_date="2029-05-05T00:00:00Z")
    await pair.ann.add_task("second", priority="high", completed=True, tags=["é", "a b"])
    for number in range(5):
        await pair.ann.add_task(f"task {number}", description="x" * 400)
    trashed, foreign = await pair.ann.add_task("trashed"), await pair.ben.add_task("foreign")
    await pair.ann.delete(f"/tasks/{trashed['id']}")
    return [first["id"], first["id"].upper(), trashed["id"], foreign["id"], str(uuid.uuid4()), *NO_IDS]


def differences(asked: Asked, direct: Answer, routed: Answer) -> list[str]:
    """In what the two answers differ, in one line each."""
    found = []
    if direct.status != routed.status:
        found.append(f"status {direct.status} and {routed.status}")
    if direct.headers != routed.headers:
        found.append(f"headers {set(direct.headers) ^ set(routed.headers) or 'in another order'}")
    if direct.body != routed.body:
        found.append(f"body {direct.body[:200]!r} and {routed.body[:200]!r}")
    return [f"{difference}: {asked}" for difference in found]


async def ended_session(pair: Pair) -> Headers:
    """The token of a session that both applications know to be over; the other one hears of it from the database."""
    left = await pair.shipped.log_in(pair.ben.email)
    await left.post("/auth/logout")
    for _ in range(200):
        if (await pair.routed(Asked("GET", "/api/v1/auth/me", headers=bearer(left)))).status == 401:
            break
        await asyncio.sleep(0.02)
    return bearer(left)


def keyed(asked: Asked) -> bytes | None:
    return next((value for name, value in asked.headers if name == b"idempotency-key"), None)


def with_key(asked: Asked, key: bytes) -> Asked:
    headers = tuple((name, key if name == b"idempotency-key" else value) for name, value in asked.headers)
    return replace(asked, headers=headers)


@pytest.mark.covers("E097")
async def test_lane_and_declared_route_answer_the_same_whatever_is_asked(pair: Pair) -> None:
    ids = await furnish(pair)
    drawer = Drawer(SEED, bearer(pair.ann), bearer(pair.ben), await ended_session(pair), ids)
    await pair.both(Asked("GET", "/api/v1/tasks", headers=bearer(pair.ann)))
    directly: dict[tuple[str, int], int] = {}
    wrong: list[str] = []
    for number in range(REQUESTS):
        asked = drawer.request()
        key = keyed(asked)
        if key:
            # First as a new request to each, then as what the other one has answered already.
            fresh = [with_key(asked, key[:-6] + b"%05d%d" % (number, side)) for side in (0, 1)]
            direct, routed = await pair.directly(fresh[0]), await pair.routed(fresh[1])
            wrong += differences(asked, *await pair.both(fresh[number % 2]))
        else:
            direct, routed = await pair.both(asked)
        wrong += differences(asked, without_minted(direct), without_minted(routed))
        if direct.was_direct:
            group = (asked.path.rpartition("/tasks")[2][:1] + asked.method, direct.status)
            directly[group] = directly.get(group, 0) + 1
    assert not wrong, "\n".join(wrong)
    served = {group for group, count in directly.items() if count >= REQUESTS // 100}
    # The comparison is worth something only where the lane really answered.
    assert served >= {("/GET", 200), ("GET", 200), ("POST", 201)}, directly
    assert {("/GET", 304), ("/GET", 404)} <= directly.keys(), directly


async def test_hot_requests_take_the_lane_and_others_the_declared_route(pair: Pair) -> None:
    ids = await furnish(pair)
    me = bearer(pair.ann)
    body = Asked("POST", "/api/v1/tasks", headers=(*me, (b"content-type", JSON)), pieces=(b'{"title":"hot"}',))
    hot = [
        Asked("GET", f"/api/v1/tasks/{ids[0]}", headers=me), Asked("GET", "/api/tasks?"[:-1], b"limit=20", me), body,
        replace(body, headers=(*body.headers, (b"idempotency-key", b"one"))),
        replace(body, headers=(*body.headers, (b"origin", b"https://app.example.com"))),
        Asked("GET", f"/api/v1/tasks/{ids[0]}/", headers=(*me, (b"if-none-match", b'"1"'))),
    ]  # fmt: skip
    cold = [
        Asked("GET", f"/api/v1/tasks/{ids[0]}"), Asked("HEAD", f"/api/v1/tasks/{ids[0]}", headers=me),
        Asked("GET", "/api/v1/tasks/trash", headers=me), Asked("GET", "/api/v1/tasks", b"limit=0", me),
        replace(body, pieces=(b'{"title":', b'"in two"}')), replace(body, pieces=(b'{"title":""}',)),
        replace(body, headers=me),
    ]  # fmt: skip
    await pair.both(hot[0])
    assert [(await pair.directly(asked)).was_direct for asked in hot] == [True] * len(hot)
    assert [(await pair.routed(asked)).was_direct for asked in hot] == [False] * len(hot)
    assert [(await pair.directly(asked)).was_direct for asked in cold] == [False] * len(cold)


async def test_what_the_lane_created_is_what_the_declared_route_would_have_created(pair: Pair) -> None:
    me = (*bearer(pair.ann), (b"content-type", JSON))
    await pair.both(Asked("GET", "/api/v1/tasks", headers=me))
    for body in BODIES:
        asked = Asked("POST", "/api/v1/tasks", headers=me, pieces=(body,))
        direct, routed = await pair.both(asked)
        assert differences(asked, without_minted(direct), without_minted(routed)) == []
        if direct.status != 201:
            continue
        for answer in (direct, routed):
            created = json.loads(answer.body)
            address = dict(answer.headers)[b"location"].decode()
            read = [json.loads(each.body) for each in await pair.both(Asked("GET", address, headers=me))]
            assert read == [created, created]
    changes = (await pair.ann.get("/changes?limit=100")).json()["items"]
    listed = (await pair.ann.get("/tasks?limit=100")).json()
    assert sorted(change["task_id"] for change in changes) == sorted(task["id"] for task in listed["items"])
    assert listed["total"] == len(changes) > 8


async def test_an_ended_session_is_refused_by_the_lane_as_well(pair: Pair) -> None:
    task = await pair.ann.add_task()
    asked = Asked("GET", f"/api/v1/tasks/{task['id']}", headers=bearer(pair.ann))
    await pair.both(asked)
    assert (await pair.directly(asked)).was_direct
    await pair.ann.post("/auth/logout")
    refused = await pair.directly(asked)
    assert (refused.status, json.loads(refused.body)["code"]) == (401, "SESSION_ENDED")
