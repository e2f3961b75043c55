"""The change feed as it grows: /events as Server-Sent Events, /ws as a WebSocket."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response, WebSocket
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import Field, ValidationError
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect, WebSocketState

from duly.contracts.v1.changes import spell_change
from duly.contracts.v1.declarations import problems
from duly.contracts.v1.models import Cursor, Input
from duly.errors import DulyError, Forbidden, Invalid, Kind, Malformed, Unauthenticated
from duly.kit.addresses import network_of
from duly.kit.strict_json import parse_json
from duly.tasks.feed import TaskChange
from duly.web.dependencies import Caller, Tools
from duly.web.guard import MAX_TOKEN_LENGTH
from duly.web.raw_headers import find_header
from duly.web.route import ContractRoute
from duly.web.services import Services
from duly.web.streams import CLIENT_LEFT, GREETING_SECONDS, Ending, Stream, Streams

PROTOCOL = "duly.v1"
# A crowd whose server restarts must not come back in one moment.
RETRY_MILLISECONDS = (1000, 4000)
BEAT_SECONDS = 15.0
# What one piece for a client holds at most: it is let go when it does not take one in `streams.SLOW_SECONDS`.
MOST_EVENTS = 20
# Nobody on the way keeps events, or holds them back to compress or to collect them (the last is nginx's name for that).
_UNHELD = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
_EVENT = {
    "type": "object",
    "properties": {
        **{field: {"type": "string"} for field in ("data", "event", "id")},
        "retry": {"type": "integer", "minimum": 0},
    },
    "description": "One event of the stream.",
}
_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
_CLOSES = {Kind.UNAUTHENTICATED: 4401, Kind.FORBIDDEN: 4403, Kind.TOO_MANY: 4429, Kind.MALFORMED: 4400,
           Kind.INVALID: 4400, Kind.UNAVAILABLE: 1013}  # fmt: skip


class EventStream(StreamingResponse):
    """Events as bytes, written here: FastAPI's `EventSourceResponse` has two tasks and two queues for each stream."""

    media_type = "text/event-stream"


class StreamRoute(ContractRoute):
    """An answer without an end, for which HEAD does not wait."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note a HEAD before it is answered as GET."""
        scope["state"]["is_head"] = scope["method"] == "HEAD"
        await super().handle(scope, receive, send)


router = APIRouter(tags=["v1: live"], route_class=StreamRoute)


class StreamQuery(Input):
    """Where to begin; a `Last-Event-ID` header wins."""

    since: Cursor = None


class Greeting(Input):
    """The first message of a WebSocket that did not bring its token in the handshake."""

    type: Literal["auth"]
    token: Annotated[str, Field(min_length=1, max_length=MAX_TOKEN_LENGTH)]
    since: Cursor = None


async def open_stream(
    request: Request, query: Annotated[StreamQuery, Query()], caller: Caller, tools: Tools
) -> AsyncIterator[Stream]:
    """The caller's stream, for as long as the answer lasts."""
    since = find_header(request.scope, b"last-event-id") or query.since
    async with _streams(tools).open(request, caller, since) as stream:
        yield stream


def _streams(services: Services) -> Streams:
    assert services.streams is not None  # noqa: S101 - these routes exist only with them
    return services.streams


@router.get(
    "/events",
    operation_id="follow_changes",
    summary="Follow the change feed (Server-Sent Events)",
    response_class=EventStream,
    responses={200: {"content": {EventStream.media_type: {"schema": _EVENT}}}, **problems(401)},
)
async def follow_changes(request: Request, stream: Annotated[Stream, Depends(open_stream)]) -> Response:
    """Every change of the caller's tasks as it happens, in order and without a gap.

    The first event is `ready`; its id is where the stream begins: after `Last-Event-ID`, or `since`, or now. To start
    without a gap, wait for it and then read the lists. Each change is one event, named after its type (`task.created`,
    `task.updated`, `task.completed`, `task.reopened`, `task.deleted`, `task.restored`), with its cursor as id and the
    item of `GET /changes` as data. A comment every 15 seconds keeps the connection. The last event is `end`, with
    `{"code", "reconnect"}`: `SESSION_ENDED`, `TOKEN_EXPIRED`, `SERVER_RESTARTS` or `TOO_SLOW`. `EventSource` of a
    browser cannot send a token: use `fetch`, or the WebSocket at `/ws`. At most 10 streams of a user at once.
    """
    events = () if request.state.is_head else _events(stream)
    return EventStream(events, headers=_UNHELD)


async def _events(stream: Stream) -> AsyncIterator[bytes]:
    cursor = stream.cursor
    retry = random.randint(*RETRY_MILLISECONDS)  # noqa: S311 - nothing secret
    yield format_sse_event(event="ready", id=cursor, data_str=f'{{"cursor":"{cursor}"}}', retry=retry)
    stream.beat_seconds = BEAT_SECONDS
    async with contextlib.aclosing(stream.batches(MOST_EVENTS)) as batches:
        async for batch in batches:
            yield b"".join(map(_spell_event, batch)) or KEEPALIVE_COMMENT
    if stream.ending is not None:
        yield format_sse_event(event="end", data_str=_spell_ending(stream.ending))


@lru_cache(maxsize=64)
def _spell_event(change: TaskChange) -> bytes:
    """Of the few changes that are on their way: all streams of a user are sent the same."""
    document = spell_change(change)
    # The format knows two ends of a line, but some clients split where Unicode does; in JSON each can be written so.
    data = document if document.isascii() else document.translate(_LINE_ENDS)
    return format_sse_event(event=change.type, id=change.cursor, data_str=data)


def _spell_ending(ending: Ending) -> str:
    return orjson.dumps({"code": ending.code, "reconnect": ending.reconnect}).decode()


@router.websocket("/ws")
async def follow_changes_by_websocket(websocket: WebSocket) -> None:
    """The same feed as messages.

    The token comes in the first message, `{"type": "auth", "token", "since"?}`, within ten seconds, or in the handshake
    as subprotocols: `duly.v1`, `bearer.TOKEN` and, to resume, `since.CURSOR`. The answer is `{"type": "ready",
    "cursor"}`, then `{"type": "change", "event", "cursor", "task_id", "at", "task"}` for each change; `event` is its
    type. The client sends nothing more. Close codes: 4400 a message or cursor that cannot be read, 4401 not signed in,
    revoked or expired, 4403 a strange Origin, 4429 too many, 1012 the server restarts, 1013 too slow or try later.
    """
    services: Services = websocket.app.state.services
    offered = websocket.scope["subprotocols"]
    # Nothing is looked at before the handshake is answered, because a browser shows no reason for a refused one.
    await websocket.accept(PROTOCOL if PROTOCOL in offered else None)
    try:
        _check_address(websocket, _streams(services))
        ending = await _follow(websocket, services, offered)
    except WebSocketDisconnect:
        return
    except DulyError as error:
        ending = Ending(error.code, 1012 if error.code == "SERVER_RESTARTS" else _CLOSES.get(error.kind, 1011), False)
    if ending is not CLIENT_LEFT and websocket.application_state is WebSocketState.CONNECTED:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await websocket.close(ending.close, ending.code)


def _check_address(websocket: WebSocket, streams: Streams) -> None:
    origin = find_header(websocket.scope, b"origin")
    if origin is not None and not streams.admits(origin, find_header(websocket.scope, b"host")):
        raise Forbidden("This origin may not connect. Tell the operator: CORS_ORIGINS.", code="ORIGIN_REFUSED")
    if websocket.scope["query_string"]:
        raise Malformed("This address takes no query. Send the token as the first message.", code="QUERY_REFUSED")


async def _follow(websocket: WebSocket, services: Services, offered: list[str]) -> Ending:
    network = network_of(websocket.client.host if websocket.client else None)
    with _streams(services).greeting(network):
        async with _counted(websocket, services):
            greeting = _offered_greeting(offered) or await _first_message(websocket)
            request = _signed(websocket, greeting.token)
            principal = await services.guard.authenticate(request.scope)
    if services.limits.enabled:
        await services.limits.count_user(request, principal)
    async with _streams(services).open(request, principal, greeting.since) as stream:
        return await _deliver(websocket, stream)


@contextlib.asynccontextmanager
async def _counted(websocket: WebSocket, services: Services) -> AsyncIterator[None]:
    """Who does not get in counts like an anonymous request. Raises `TooMany` instead for one too many of them."""
    try:
        yield
    except (Unauthenticated, Forbidden, Malformed, Invalid):
        if services.limits.enabled:
            await services.limits.count_address(_signed(websocket, ""), "anonymous")
        raise


def _offered_greeting(offered: list[str]) -> Greeting | None:
    found = {kind: text for kind, _, text in (name.partition(".") for name in offered) if kind != "duly"}
    if "bearer" not in found:
        return None
    if PROTOCOL not in offered:
        raise Malformed(f"Offer the subprotocol {PROTOCOL} beside the token.")
    return _greeting({"type": "auth", "token": found["bearer"], "since": found.get("since")})


async def _first_message(websocket: WebSocket) -> Greeting:
    try:
        async with asyncio.timeout(GREETING_SECONDS):
            message = await websocket.receive()
    except TimeoutError:
        raise Unauthenticated("No token came.", code="NOT_AUTHENTICATED", challenge=False) from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    return _greeting(parse_json((message.get("text") or "").encode(errors="surrogatepass")))


def _greeting(value: object) -> Greeting:
    try:
        return Greeting.model_validate(value)
    except ValidationError:
        raise Invalid("The first message is not {type: auth, token, since?}.") from None


def _signed(websocket: WebSocket, token: str) -> Request:
    """The handshake as the signed request that the guard and the limits know."""
    headers = [pair for pair in websocket.scope["headers"] if pair[0] != b"authorization"]
    # A token holds ASCII alone; whatever else is in here is none, and is refused as such.
    headers.append((b"authorization", b"Bearer " + token.encode("ascii", errors="replace")))
    return Request({**websocket.scope, "type": "http", "method": "GET", "headers": headers})


async def _deliver(websocket: WebSocket, stream: Stream) -> Ending:
    await websocket.send_text(f'{{"type":"ready","cursor":"{stream.cursor}"}}')
    hearing = asyncio.create_task(_hear(websocket, stream.end))
    try:
        async with contextlib.aclosing(stream.batches(1)) as batches:
            async for (change,) in batches:
                await websocket.send_text('{"type":"change",' + spell_change(change, "event")[1:])
    finally:
        hearing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await hearing
    return stream.ending or CLIENT_LEFT


async def _hear(websocket: WebSocket, end: Callable[[Ending], None]) -> None:
    """Nothing is expected of the client but that it leaves."""
    message: Any = await websocket.receive()
    is_over = message["type"] == "websocket.disconnect"
    end(CLIENT_LEFT if is_over else Ending("UNEXPECTED_MESSAGE", 4400, reconnect=False))
