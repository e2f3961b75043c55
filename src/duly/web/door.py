"""The outermost layer: what every request and every response has in common, whatever lies behind."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from time import monotonic
from typing import Any

from starlette.requests import ClientDisconnect

from duly.errors import DulyError, Kind, Malformed, TimedOut, TooLarge, Unavailable
from duly.kit.ids import new_request_id
from duly.kit.logs import request_id_var
from duly.web.access_log import AccessLog
from duly.web.addresses import ClientAddresses
from duly.web.bodies import SMALL, CountedBody, Larder, Patient, body_limit
from duly.web.headers import RawPair, add_security
from duly.web.replies import WHOLE
from duly.web.turns import Turns
from duly.web.upgrades import Upgrade

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Render = Callable[[DulyError, str, str], tuple[int, list[RawPair], bytes]]

# RFC 9562 §5.4. Anything else from a caller is replaced: an id goes into logs and headers.
_uuid4 = re.compile(rb"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}").fullmatch
# The whole value counts: a name followed by `:@other.example` would otherwise pass, and lead elsewhere in a URL.
_host = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{0,5})?").fullmatch
_LOOKED_AT = frozenset({b"x-request-id", b"content-length", b"transfer-encoding"})
_BEGINS = frozenset({"http.response.start", WHOLE})
_CLOSE = (b"connection", b"close")
_NO_ANSWER = 499  # logged, never sent: the client left before its answer
_MAX_KNOWN_HOSTS = 64

log = logging.getLogger(__name__)


class RequestIDMiddleware:
    """The part of the door that gives each request its id; no layer of its own, for each costs every request."""

    __slots__ = ()

    def identify(self, scope: Scope, asked: bytes | None) -> str:
        """The caller's id if it is a UUIDv4, else a new one; also put into the scope's state as `request_id`."""
        request_id = new_request_id() if asked is None or not _uuid4(asked) else asked.decode("ascii")
        # A new mapping: some servers hand the same state to every request.
        scope["state"] = {**scope.get("state", {}), "request_id": request_id}
        return request_id


class Door(RequestIDMiddleware):
    """Plain ASGI application around `app`.

    `count` is told of each request that is over: its status and the seconds that it took. `render` turns an error, the
    request id and the path into status, headers and body; `origin_headers` gives what cross-origin rules add to such
    an answer; `upload_limit` how large the body of an upload may be, 0 for everything else. A request that has not
    begun its answer within `request_timeout_seconds` is answered 504; setting `no_timeout` in the scope's state exempts
    it, and so does the start of the response, whose pace is the client's.
    """

    __slots__ = (
        "_addresses", "_app", "_asks_host", "_hosts", "_known_hosts", "_larder", "_log", "_loop", "_max_body",
        "_meter", "_open", "_suffixes", "_timeout", "_timer", "_turns", "_upload_limit", "origin_headers", "render",
    )  # fmt: skip

    def __init__(
        self,
        app: App,
        *,
        render: Render,
        max_body_bytes: int,
        request_timeout_seconds: float,
        allowed_hosts: Sequence[str],
        addresses: ClientAddresses,
        access_log: AccessLog,
        count: Callable[[Scope, int, float], None] = lambda *_: None,
        upload_limit: Callable[[Scope], int] = lambda _: 0,
        origin_headers: Callable[[Scope], list[RawPair]] = lambda _: [],
    ) -> None:
        self._app = app
        self.render = render
        self._max_body = max_body_bytes
        self._larder = Larder()
        self._upload_limit = upload_limit
        self.origin_headers = origin_headers
        self._timeout = request_timeout_seconds
        self._addresses = addresses
        self._log = access_log
        self._meter = count
        hosts = [host.strip().lower().rstrip(".") for host in allowed_hosts]
        self._asks_host = bool(hosts) and "*" not in hosts
        self._hosts = frozenset(hosts)
        self._suffixes = tuple(host[1:] for host in hosts if host.startswith("*."))
        self._known_hosts: set[bytes] = set()
        self._open: dict[Crossing, None] = {}
        self._turns = Turns()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        """Requests that are inside, streams included."""
        return len(self._open)

    def inside(self) -> list[Scope]:
        """The requests that are inside."""
        return [crossing.scope for crossing in self._open]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through; other kinds of connection only get an id and an address."""
        if scope["type"] != "http":
            await self._pass_on(scope, receive, send)
            return
        since = monotonic()
        if self._turns.is_over(since, asyncio.get_running_loop()):
            await self._turns.wait(asyncio.get_running_loop())
        found = {name: value for name, value in scope["headers"] if name in _LOOKED_AT}
        asked, length = found.get(b"x-request-id"), found.get(b"content-length")
        coding = found.get(b"transfer-encoding")
        request_id = self.identify(scope, asked)
        token = request_id_var.set(request_id)
        if self._addresses.active:
            self._addresses.apply(scope)
        path = scope["path"]
        target = self._log.incoming(request_id, scope["method"], path)
        if path[-1:] == "/" and len(path) > 1:
            _strip_slash(scope)
        crossing = Crossing(self, scope, send, request_id, target, since=since)
        self._open[crossing] = None
        if self._timer is None or self._loop is not crossing.loop:
            self._arm(crossing.loop, self._timeout)
        try:
            if self._asks_host or length is not None or coding is not None or scope["http_version"][:1] != "1":
                receive = self._admit(crossing, receive, length, coding)
            await self._app(scope, receive, crossing.send)
            if crossing.timed_out:
                await self._recover(crossing, None)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # this is where every error ends
            await self._recover(crossing, error)
        finally:
            self._leave(crossing)
        request_id_var.reset(token)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        asked = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        token = request_id_var.set(self.identify(scope, asked))
        if self._addresses.active:
            self._addresses.apply(scope)
        _strip_slash(scope)
        upgrade = Upgrade(self._log, scope, send, self._meter)
        try:
            if self._asks_host:
                self._check_host(scope)
        except Malformed:
            await upgrade.refuse()
        else:
            await upgrade.carry(self._app, receive)
        request_id_var.reset(token)

    def _check_host(self, scope: Scope) -> None:
        sent = [value for name, value in scope["headers"] if name == b"host"]
        host = sent[0] if len(sent) == 1 else b""
        if host in self._known_hosts:
            return
        name = _host_name(host.decode("latin-1"))
        if name not in self._hosts and not (name and name.endswith(self._suffixes)):
            raise Malformed("This server does not answer for the host that the request names.", code="BAD_HOST")
        if len(self._known_hosts) < _MAX_KNOWN_HOSTS:
            self._known_hosts.add(host)

    def _admit(self, crossing: "Crossing", receive: Receive, length: bytes | None, coding: bytes | None) -> Receive:
        """Refuse a strange host and too large a body; the result counts the body if nobody announced its length."""
        if self._asks_host:
            self._check_host(crossing.scope)
        if coding is None and length is not None:
            if not length.isdigit():
                raise Malformed("The Content-Length of the request is not a number.")
            announced = int(length[:20])
            if announced <= self._max_body and announced <= SMALL:
                return receive  # the server hands on no more than was announced
            # Refused when somebody reads it: who is not signed in is told that first.
            return self._count(crossing, receive, announced)
        if coding is None and crossing.scope["http_version"][:1] == "1":
            return receive  # RFC 9112 §6.3: no body
        return self._count(crossing, receive, 0)

    def _count(self, crossing: "Crossing", receive: Receive, announced: int) -> Receive:
        upload = self._upload_limit(crossing.scope)
        if upload > self._max_body:
            # A large file on a slow line takes its time: what is waited for is the next piece, not the whole.
            crossing.scope["state"]["no_timeout"] = True
            receive = Patient(receive, self._timeout).receive
        limit = upload if upload > self._max_body else body_limit(crossing.scope["path"], self._max_body)
        larder = None if upload else self._larder
        return CountedBody(crossing, receive, limit, announced if announced > limit else 0, larder).receive

    def _leave(self, crossing: "Crossing") -> None:
        del self._open[crossing]
        if crossing.held:
            self._larder.give_back(crossing)
        scope, status, seconds = crossing.scope, crossing.status or _NO_ANSWER, monotonic() - crossing.since
        self._meter(scope, status, seconds)
        client = scope.get("client")
        self._log.completed(crossing.request_id, crossing.target, status, seconds, client[0] if client else "")

    async def _recover(self, crossing: "Crossing", error: BaseException | None) -> None:
        """Answer what the application raised, or raise it again where no answer is possible any more."""
        if crossing.timed_out and crossing.task.uncancel() <= crossing.cancelling and not crossing.status:
            error = TimedOut(f"The request took longer than {self._timeout:g} seconds and was given up.")
        if error is None or isinstance(error, ClientDisconnect):
            return
        if not isinstance(error, Exception):
            raise error
        if crossing.overflow is not None and crossing.done:
            return  # the client heard the cause; what the application made of it is no fault of its own
        if crossing.status:
            when = "after" if crossing.done else "in the middle of"
            log.error("%s %s the answer to %s", type(error).__name__, when, crossing.target, exc_info=error)
            if not crossing.done:
                raise error
            return
        if not isinstance(error, DulyError) or error.kind is Kind.INTERNAL:
            log.error("Unhandled %s in %s", type(error).__name__, crossing.target, exc_info=error)
            error = DulyError(
                f"An internal error stopped this request. Please quote the request id {crossing.request_id} "
                "when you report it."
            )
        elif error.__cause__ is not None and error.kind.value >= 500:
            log.warning("%s: %s: %s", error.code, type(error.__cause__).__name__, error.__cause__)
        await crossing.answer(error)

    def _arm(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        self._loop = loop
        self._timer = loop.call_later(delay, self._sweep)

    def _sweep(self) -> None:
        """One timer serves every request: those inside are in order of arrival, so it waits for the oldest."""
        self._timer = None
        now = monotonic()
        for crossing in self._open:
            if crossing.status or crossing.timed_out or crossing.scope["state"].get("no_timeout"):
                continue
            left = crossing.since + self._timeout - now
            if left > 0:
                self._arm(crossing.loop, left)
                return
            crossing.timed_out = True
            crossing.task.cancel()


class Crossing:
    """One request on its way through: what the door must know when the answer comes back."""

    __slots__ = (
        "_door", "_send", "cancelling", "done", "held", "loop", "overflow", "request_id", "scope", "since", "status",
        "target", "task", "timed_out",
    )  # fmt: skip

    def __init__(self, door: Door, scope: Scope, send: Send, request_id: str, target: str, *, since: float) -> None:
        self._door = door
        self._send = send
        self.scope = scope
        self.request_id = request_id
        self.target = target
        self.since = since
        self.loop = asyncio.get_running_loop()
        self.task: asyncio.Task[Any] = asyncio.current_task(self.loop)  # type: ignore[assignment]  # a server runs us in one
        self.cancelling = self.task.cancelling()
        self.status = 0  # until the response starts
        self.done = False
        self.timed_out = False
        self.overflow: TooLarge | Unavailable | None = None
        self.held = 0  # bytes of its body, as the larder counts them

    def send(self, message: Message) -> Awaitable[None]:
        """Dress the start of the response on its way out. No coroutine of its own: each one costs every request."""
        kind = message["type"]
        if self.overflow is not None:
            return self._answer_overflow()
        if kind in _BEGINS:
            self.status = message["status"]
            self.done = kind == WHOLE
            return self._send({**message, "headers": self._dress(message.get("headers", ()))})
        if kind == "http.response.body" and not message.get("more_body", False):
            self.done = True
        return self._send(message)

    def _dress(self, headers: Sequence[RawPair]) -> list[RawPair]:
        dressed = add_security(headers, self.scope["scheme"])
        dressed.append((b"x-request-id", self.request_id.encode("ascii")))
        return dressed

    async def answer(self, error: DulyError) -> None:
        """Send the rendered error as the whole response."""
        status, headers, body = self._door.render(error, self.request_id, self.scope["path"])
        self.status = status
        dressed = self._dress([*headers, *self._door.origin_headers(self.scope)])
        if isinstance(error, TimedOut) and self.scope["http_version"][:1] == "1" and _CLOSE not in dressed:
            # The rest of its body may still be on its way, and perhaps never comes.
            dressed.append(_CLOSE)
        await self._send({"type": "http.response.start", "status": status, "headers": dressed})
        self.done = True
        await self._send({"type": "http.response.body", "body": body})

    async def _answer_overflow(self) -> None:
        # Whatever the application made of the broken body (FastAPI makes it a 400), the client hears the cause once.
        if not self.status and self.overflow is not None:
            await self.answer(self.overflow)


def _strip_slash(scope: Scope) -> None:
    """`/users/` answers like `/users`, without a redirect that would cost a round trip and may lose the body."""
    path = scope["path"].rstrip("/")
    if path and path != scope.get("root_path", "").rstrip("/"):
        scope["path"] = path
        raw = scope.get("raw_path")
        if raw:
            scope["raw_path"] = raw.rstrip(b"/")


def _host_name(sent: str) -> str:
    """The name in a Host header in lower case, without port; empty when anything else is in it (RFC 9110 §7.2)."""
    match = _host(sent.strip().lower())
    return match[1].rstrip(".") if match else ""
