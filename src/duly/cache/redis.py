"""What the processes of one installation share in Redis of what they counted."""

import asyncio
import contextlib
import hmac
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from duly.cache.entries import LONGEST_SECONDS, Entry
from duly.kit.breaker import Breaker
from duly.kit.redis_pools import open_pool
from duly.kit.secrets import keyed_hash

log = logging.getLogger(__name__)

PREFIX = "duly:cache:"
# What it saves is hardly more: whoever waited longer could have counted meanwhile.
REDIS_SECONDS = 0.01
LARGEST_VALUE = 4096
MOST_WRITES = 64
FAULTS = (RedisError, OSError)

# An entry begins with its position, so that Redis itself can keep the newer one, whoever comes last.
_KEEP_NEWER = """
local held = redis.pcall('GET', KEYS[1])
local position = type(held) == 'string' and tonumber(string.match(held, '^(%d+):'))
if position and position > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""


class RedisCache:
    """Entries by user and name. Redis may be shared, read by others, full of garbage, hung or gone.

    Names are keyed hashes, so that nobody learns from them and no two installations meet. A value carries a keyed hash
    over its name and content: one that another program wrote, or that belongs to another user, is not read.
    """

    def __init__(self, url: str, key: bytes, *, seconds: float = REDIS_SECONDS) -> None:
        """`seconds` is what an answer may take. Raises ValueError for an address that Redis cannot have."""
        self._key = key
        self._redis = Redis(connection_pool=open_pool(url))
        # Two, because a Redis that may only be read answers every question and refuses every entry.
        self._reads = _breaker(seconds, "is not asked for what was counted", "is asked for what was counted again")
        self._writes = _breaker(seconds, "keeps nothing of what was counted", "keeps what was counted again")
        self._writing: set[asyncio.Task[None]] = set()
        self.kept = 0
        """How many entries Redis took from this process."""

    async def find(self, user_id: str, what: str, position: int) -> Entry | None:
        """The entry that holds at this position; None also when Redis does not answer."""
        if not self._reads.admits:
            return None
        name = self._name(user_id, what)
        try:
            raw = await self._reads.ask(lambda: self._fetch(name))
        except FAULTS:
            return None
        if not raw:
            return None
        entry = self._read(name, raw)
        if entry is None:
            # It might say that it is newer than anything, and keep every entry out until it expires.
            self._write(lambda: self._delete(name))
        return entry if entry is not None and entry.holds(position) else None

    def keep(self, user_id: str, what: str, entry: Entry) -> None:
        """Store it in the background, unless there is a newer one."""
        name = self._name(user_id, what)
        content = orjson.dumps([entry.position, entry.until, entry.value])
        raw = b"%d:%b:%b" % (entry.position, self._mac(name, content), content)
        if len(raw) <= LARGEST_VALUE:
            self._write(lambda: self._store(name, entry.position, raw))

    async def is_up(self) -> bool:
        """Whether it takes an entry right now; it gets as long as connecting may take."""
        try:
            await self._redis.set(f"{PREFIX}probe", b"-", ex=1)
        except FAULTS:
            return False
        return True

    async def settle(self) -> None:
        """Wait until everything is stored, or given up."""
        while self._writing:
            await asyncio.gather(*self._writing)

    async def close(self) -> None:
        """Break off what is under way and close the connections."""
        for task in self._writing:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._reads.close()
        await self._writes.close()
        await self._redis.aclose()
        await self._redis.connection_pool.aclose()

    def _name(self, user_id: str, what: str) -> str:
        return PREFIX + keyed_hash(self._key, f"{user_id}\0{what}")

    def _mac(self, name: str, content: bytes) -> bytes:
        return keyed_hash(self._key, f"{name}\0{content.decode()}").encode()

    async def _fetch(self, name: str) -> bytes | None:
        try:
            # Not GET: what others put there may be of any size.
            found: Any = await self._redis.getrange(name, 0, LARGEST_VALUE)
        except ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                return b"-"
            raise
        return bytes(found)

    async def _delete(self, name: str) -> None:
        await self._redis.delete(name)

    def _read(self, name: str, raw: bytes) -> Entry | None:
        _, _, rest = raw.partition(b":")
        mac, _, content = rest.partition(b":")
        try:
            if not hmac.compare_digest(mac, self._mac(name, content)):
                return None
        except UnicodeDecodeError:
            return None
        return Entry(*orjson.loads(content))

    async def _store(self, name: str, position: int, raw: bytes) -> None:
        # redis-py's types say that it might not be a coroutine.
        answer: Any = self._redis.eval(_KEEP_NEWER, 1, name, str(position), raw, str(LONGEST_SECONDS))
        self.kept += await answer

    def _write(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        if self._writes.admits and len(self._writing) < MOST_WRITES:
            task = asyncio.create_task(self._try(work))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _try(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        with contextlib.suppress(*FAULTS):  # the breaker has said so
            await self._writes.ask(work)


def _breaker(seconds: float, falls: str, returns: str) -> Breaker:
    return Breaker(seconds=seconds, faults=FAULTS, log=log, falls=f"Redis {falls} (%s)", returns=f"Redis {returns}")


async def forget_everything(url: str) -> int:
    """Delete what any process of any installation keeps in this Redis; how many entries. It is counted anew.

    Raises OSError when Redis does not answer.
    """
    redis = Redis(connection_pool=open_pool(url))
    deleted = 0
    try:
        async for name in redis.scan_iter(match=f"{PREFIX}*", count=1000):
            deleted += await redis.delete(name)
    except RedisError as error:
        raise OSError(str(error)) from error
    finally:
        await redis.aclose()
        await redis.connection_pool.aclose()
    return deleted
