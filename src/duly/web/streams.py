"""A caller's live stream: what it delivers, and each way in which it ends."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request

from duly.db.unit import Database
from duly.errors import DulyError, TooMany, Unauthenticated, Unavailable
from duly.identity.principals import Principal
from duly.kit.logs import logged_as
from duly.kit.paging import Cursors
from duly.live.hub import Follower, Hub
from duly.operations.health import HealthChecks
from duly.tasks import feed
from duly.tasks.feed import ChangePage, TaskChange
from duly.web.guard import OUTSIDE_SECONDS, Guard

log = logging.getLogger(__name__)

PAGE = 100
WATCH_SECONDS = 0.25
OUTSIDE_WATCH_SECONDS = 0.4
# A client that has not taken one event in this time is let go; it may come back and go on where it was.
SLOW_SECONDS = 10.0
# A stream that was told to end and cannot, because its client does not read, is cut.
GRACE_SECONDS = 0.3
GREETING_SECONDS = 10.0
MOST_GREETINGS = 100
ABORT = "duly.abort"
"""The ASGI extension of our server (`cli/connections.py`): cuts the connection, whatever is still to be sent."""
Abort = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a stream ends. `close` is the code of a WebSocket; `reconnect` whether coming back can help."""

    code: str
    close: int
    reconnect: bool


SESSION_ENDED = Ending("SESSION_ENDED", 4401, reconnect=False)
TOKEN_EXPIRED = Ending("TOKEN_EXPIRED", 4401, reconnect=True)
SERVER_RESTARTS = Ending("SERVER_RESTARTS", 1012, reconnect=True)
TOO_SLOW = Ending("TOO_SLOW", 1013, reconnect=True)
CLIENT_LEFT = Ending("CLIENT_LEFT", 1000, reconnect=True)


class Stream:
    """What one client follows, from a position on. `ending` is set once, and nothing is delivered after it."""

    def __init__(self, streams: "Streams", request: Request, principal: Principal, follower: Follower) -> None:
        self.principal = principal
        self.follower = follower
        self.request = request
        self.ending: Ending | None = None
        self.ended_at = 0.0
        self.handed_at: float | None = None
        self.proven_at = self._last_at = time.monotonic()
        self.beat_seconds: float | None = None
        self._is_beat_due = False
        self._streams = streams
        self._was_cut = False
        self._abort: Abort | None = request.scope.get("extensions", {}).get(ABORT)

    @property
    def request_id(self) -> str:
        """Of the request that opened it, for the lines that the watch logs of it."""
        return str(self.request.scope.get("state", {}).get("request_id", ""))

    @property
    def cursor(self) -> str:
        """Resumes after what was delivered."""
        return self._streams.cursor_of(self)

    async def batches(self, most: int) -> AsyncGenerator[Sequence[TaskChange], None]:
        """Each change once, in order, up to `most` at a time, until the stream ends. One page is held at most.

        An empty one comes when the stream asked for a beat and had nothing to deliver for so long.
        """
        while self.ending is None:
            self.follower.begin()
            page = await self._streams.read(self)
            if page is None or not page.changes:
                if page is not None:
                    self.follower.caught_up()
                await self.follower.woken.wait()
                while self._is_beat_due and self.ending is None:
                    self._is_beat_due = False
                    self.follower.sleep_on()
                    self._hand_over()
                    yield ()
                    self.handed_at = None
                    await self.follower.woken.wait()
                continue
            for start in range(0, len(page.changes), most):
                if self.ending is not None:
                    return
                batch = page.changes[start : start + most]
                self._hand_over()
                yield batch
                self.handed_at = None
                self.follower.position = batch[-1].position
            if not page.has_more:
                self.follower.caught_up()

    def _hand_over(self) -> None:
        self.handed_at = self._last_at = time.monotonic()

    def beat(self, moment: float) -> None:
        """Let an empty batch come where nothing came for `beat_seconds`: nobody takes the connection for dead then."""
        if self.beat_seconds is not None and moment - self._last_at > self.beat_seconds:
            self._last_at = moment
            self._is_beat_due = True
            self.follower.woken.set()

    def end(self, ending: Ending) -> None:
        """Deliver nothing more; the first reason stays."""
        if self.ending is None:
            self.ending = ending
            self.ended_at = time.monotonic()
            self.follower.woken.set()

    def cut(self) -> None:
        """End the connection under a client that does not read; another server than ours has to find it by itself."""
        if self._abort is not None and self.ending is not None and not self._was_cut:
            self._was_cut = True
            self._abort(self.ending.close, self.ending.code)


class Streams:
    """Every stream of this process, and the watch over them."""

    def __init__(
        self,
        *,
        database: Database,
        cursors: Cursors,
        guard: Guard,
        health: HealthChecks,
        hub: Hub,
        origins: Collection[str],
    ) -> None:
        self._database = database
        self._cursors = cursors
        self._guard = guard
        self._health = health
        self._hub = hub
        self._origins = frozenset(origins)
        self._open: set[Stream] = set()
        self._greetings: Counter[str] = Counter()
        self._proving: set[asyncio.Task[None]] = set()
        database.listeners.append(hub.announced)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def hub(self) -> Hub:
        """Who follows what."""
        return self._hub

    def admits(self, origin: str, host: str | None) -> bool:
        """Whether a page of this origin may open a WebSocket to `host`, which no cross-origin rule of a browser stops.

        Those that may call may open one, and pages of this very server.
        """
        if "*" in self._origins or origin in self._origins:
            return True
        parts = urlsplit(origin)
        port = {"http": ":80", "https": ":443"}.get(parts.scheme)
        return port is not None and host is not None and parts.netloc in {host.lower(), host.lower().removesuffix(port)}

    @contextlib.contextmanager
    def greeting(self, network: str) -> Iterator[None]:
        """Somebody who has not said yet who they are. Raises `TooMany` for a network with too many of these."""
        if self._greetings[network] >= MOST_GREETINGS:
            raise TooMany("Too many connections wait for their token. Send it, or close some.", retry_after=10)
        self._greetings[network] += 1
        try:
            yield
        finally:
            self._greetings[network] -= 1
            if not self._greetings[network]:
                del self._greetings[network]

    @contextlib.asynccontextmanager
    async def open(self, request: Request, principal: Principal, since: str | None) -> AsyncIterator[Stream]:
        """A stream of what comes after `since`, or after now.

        `request` signs the caller in. Raises `TooMany`, `Malformed` (`BAD_CURSOR`) or `Unavailable` before anything
        is delivered.
        """
        if self._health.draining:
            raise Unavailable("This server is about to stop. Connect again.", code="SERVER_RESTARTS", retry_after=1)
        follower = self._hub.join(principal.user_id)
        try:
            # Read after joining: what comes from now on wakes.
            found = await feed.find_positions(self._database, [principal.user_id])
            newest = found.get(principal.user_id, feed.START)
            position = newest if since is None else feed.read_cursor(self._cursors, principal, since)
            if position > newest:
                # From a database that was restored from a backup: waiting would miss what comes until then.
                raise feed.bad_cursor()
            follower.position = position
            stream = Stream(self, request, principal, follower)
            self._open.add(stream)
            try:
                yield stream
            finally:
                self._open.discard(stream)
        finally:
            self._hub.leave(follower)

    def cursor_of(self, stream: Stream) -> str:
        """Resumes after the stream's position."""
        return feed.make_cursor(self._cursors, stream.principal, stream.follower.position)

    async def read(self, stream: Stream) -> ChangePage | None:
        """What the stream has not got; None when the database does not serve, or when the caller may see no more.

        Streams of one user that stand at the same place share one read, if it begins after what woke them.
        """
        topic, position = stream.follower.topic, stream.follower.position
        key = (position, topic.version)
        reading = topic.reads.get(key)
        if reading is None:
            reading = topic.reads[key] = asyncio.create_task(self._page(topic.user_id, position), name="read-changes")
            reading.add_done_callback(lambda _: topic.reads.pop(key))
        page: ChangePage | None = await asyncio.shield(reading)
        if page is None or not page.changes:
            return page
        try:
            # Whether the caller was let in when this was read, not before: so nothing is seen after an ending.
            await self._guard.recheck(stream.principal, since=time.monotonic())
        except Unauthenticated as fault:
            stream.end(_ending_for(fault))
            return None
        except DulyError:
            return None
        return page

    async def _page(self, user_id: str, position: int) -> ChangePage | None:
        try:
            return await feed.read_changes(self._database, self._cursors, user_id, after=position, limit=PAGE)
        except DulyError:
            return None  # the hub's look at the positions wakes again when the database is back

    async def run(self) -> None:
        """Wake and watch until cancelled; then tell every stream to end."""
        try:
            while True:
                try:
                    await self._run_parts()
                except Exception:
                    # Without a watch no stream would end: it has to go on whatever happened.
                    log.exception("The watch over the live streams failed and begins again")
                    await asyncio.sleep(WATCH_SECONDS)
        finally:
            for stream in list(self._open):
                stream.end(SERVER_RESTARTS)

    async def _run_parts(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hub.run(), name="wake-streams")
            group.create_task(self._watch(), name="watch-streams")
            group.create_task(self._ask_outside(), name="watch-outside-users")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            moment = time.monotonic()
            for stream in list(self._open):
                self._look(stream, moment)

    def _look(self, stream: Stream, moment: float) -> None:
        if stream.ending is not None:
            if moment - stream.ended_at > GRACE_SECONDS:
                stream.cut()
        elif self._health.draining:
            stream.end(SERVER_RESTARTS)
        elif (fault := self._guard.fault_of(stream.principal)) is not None:
            stream.end(_ending_for(fault))
        elif stream.handed_at is not None and moment - stream.handed_at > SLOW_SECONDS:
            with logged_as(stream.request_id):
                log.info("A live stream is dropped: its client took nothing for %g seconds", SLOW_SECONDS)
            stream.end(TOO_SLOW)
            stream.cut()
        elif stream.principal.session_id is None and moment - stream.proven_at > OUTSIDE_SECONDS:
            stream.proven_at = moment
            with logged_as(stream.request_id):
                task = asyncio.create_task(self._prove(stream))
            self._proving.add(task)
            task.add_done_callback(self._proving.discard)
        else:
            stream.beat(moment)

    async def _prove(self, stream: Stream) -> None:
        """An outside issuer ends a token by withdrawing its key: verify it as a new request would."""
        try:
            await self._guard.authenticate(stream.request.scope)
        except Unauthenticated as fault:
            stream.end(_ending_for(fault))
        except DulyError:
            pass  # not known now; asked again

    async def _ask_outside(self) -> None:
        """Duly has no sessions of outside users to end, so whether they are still let in is asked for all at once."""
        while True:
            await asyncio.sleep(OUTSIDE_WATCH_SECONDS)
            users = {stream.principal.user_id for stream in self._open if stream.principal.session_id is None}
            if users:
                with contextlib.suppress(DulyError):
                    await self._guard.refresh_outside(users)


def _ending_for(fault: Unauthenticated) -> Ending:
    return TOKEN_EXPIRED if fault.code == "TOKEN_EXPIRED" else SESSION_ENDED
