"""Password hashes, made and checked in threads of their own so that the event loop never waits for one."""

import asyncio
import os
import re
import secrets
import sys
import threading
import unicodedata
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, TypeVar

from pwdlib.hashers.argon2 import Argon2Hasher
from pwdlib.hashers.bcrypt import BcryptHasher

from duly.errors import Unavailable

Scheme = Literal["argon2id", "bcrypt"]
T = TypeVar("T")

ARGON2_PASSES = 2
ARGON2_KIB = 19 * 1024
ARGON2_LANES = 1
BCRYPT_BYTES = 72

_BCRYPT_FORM = re.compile(r"\$2([abxy])\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_ARGON2_FORM = re.compile(
    r"\$argon2(id|i|d)\$v=(16|19)\$m=([1-9][0-9]{0,8}),t=([1-9][0-9]{0,8}),p=([1-9][0-9]{0,8})"
    r"\$[+/A-Za-z0-9]{11,86}\$([+/A-Za-z0-9]{16,171})"
)
_DIGEST_CHARACTERS = 43
_LONG_LABEL = b"duly/long-password/v1\0"

# A row that asks for more is damage, not a password: it would hold a thread for minutes or take the memory.
_MOST_PASSES = 16
_MOST_KIB = 512 * 1024
_MOST_LANES = 16
_MOST_BCRYPT_ROUNDS = 16

# Measured on two cores with the loop half busy and 8 verifications in flight (argon2id; p99 of the loop's lag in ms,
# 0.8 without any): 1 thread 7.8, 2 threads 11, 4 threads 23, 8 threads 55; and at nice 10: 3.9, 4.0, 6.5, 14. More
# threads than spare cores only add lag. By the kernel's weights a thread at nice 10 keeps a tenth of a contended core
# and at nice 5 a quarter, so that logins slow down and do not starve.
_NICE = 5


def spare_cores() -> int:
    """The cores that this process may use less one for the event loop, and never none."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores - 1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`replacement` is a fresh hash to store when `ok` and the stored one is of another scheme or weaker; else None."""

    ok: bool
    replacement: str | None


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many run and wait, and how many may do so together: one more is refused."""

    running: int
    waiting: int
    limit: int


class PasswordHasher:
    """Hashes with one scheme, verifies both: argon2id (t=2, m=19 MiB, p=1, OWASP's least) and bcrypt.

    A password is normalised to NFC (SP 800-63B-4 §3.1.1.2), so that two keyboards spell it alike, and hashed as UTF-8.
    bcrypt reads 72 bytes: a longer password is replaced by base64(SHA-256(label + password)), 44 characters. The label
    keeps an unsalted SHA-256 that leaked elsewhere from being tried as the password itself.

    `threads` work at once (default: all cores but one), `queue` more wait; whoever comes beyond that is refused.
    """

    def __init__(
        self, scheme: Scheme = "argon2id", bcrypt_rounds: int = 12, threads: int | None = None, queue: int = 64
    ) -> None:
        self._scheme: Scheme = scheme
        self._rounds = bcrypt_rounds
        self._argon2 = Argon2Hasher(ARGON2_PASSES, ARGON2_KIB, ARGON2_LANES)
        self._bcrypt = BcryptHasher(bcrypt_rounds)
        workers = threads or spare_cores()
        self._threads = workers
        self._limit = workers + queue
        self._inside = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="password", initializer=_yield_to_loop)
        self._dummy = self._make(secrets.token_bytes(24))

    async def hash(self, password: str) -> str:
        """A fresh hash by the configured scheme.

        Raises ValueError for a lone surrogate, and `Unavailable` with code BUSY when too many wait.
        """
        secret = _encode(password)
        return await self.run(lambda: self._make(secret))

    async def verify(self, password: str, stored: str | None) -> Verdict:
        """Check a password; None, for an unknown account, costs the time of a known one and is never ok.

        What is no hash at all is not ok either, and costs the same. Raises `Unavailable` with code BUSY.
        """
        try:
            secret = _encode(password)
        except ValueError:
            secret, stored = b"", None
        return await self.run(lambda: self._check(secret, stored))

    def close(self) -> None:
        """Take no more work; what has been accepted is finished."""
        self._pool.shutdown(wait=False)

    async def run(self, work: Callable[[], T]) -> T:
        """Other slow work on a password, in the same threads. Raises `Unavailable` with code BUSY."""
        # The slot is freed by the thread's future, not by the waiting request: a client that hangs up leaves its work
        # running, and it must count until it ends.
        with self._lock:
            if self._inside >= self._limit:
                raise _busy()
            self._inside += 1
        try:
            future = self._pool.submit(work)
        except RuntimeError:
            self._leave()
            raise _busy() from None
        future.add_done_callback(lambda _: self._leave())
        return await asyncio.wrap_future(future)

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1

    @property
    def crowd(self) -> Crowd:
        """How busy it is right now."""
        running = min(self._inside, self._threads)
        return Crowd(running, self._inside - running, self._limit)

    def _make(self, secret: bytes) -> str:
        if self._scheme == "argon2id":
            return self._argon2.hash(secret)
        return self._bcrypt.hash(_shorten(secret))

    def _check(self, secret: bytes, stored: str | None) -> Verdict:
        known = stored is not None and (_is_argon2(stored) or _is_bcrypt(stored))
        actual = stored if known and stored is not None else self._dummy
        ok = self._matches(secret, actual) and known
        return Verdict(ok, self._make(secret) if ok and self._is_outdated(actual) else None)

    def _matches(self, secret: bytes, stored: str) -> bool:
        if stored.startswith("$argon2"):
            return self._argon2.verify(secret, stored)
        try:
            return self._bcrypt.verify(_shorten(secret), stored)
        except ValueError:
            return False

    def _is_outdated(self, stored: str) -> bool:
        if form := _BCRYPT_FORM.fullmatch(stored):
            return self._scheme != "bcrypt" or form[1] != "b" or int(form[2]) < self._rounds
        return self._scheme != "argon2id" or _is_weak_argon2(stored)


def _yield_to_loop() -> None:
    # Only Linux gives each thread a priority of its own.
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICE))


def _busy() -> Unavailable:
    return Unavailable("Too many sign-ins at once; try again in a second.", code="BUSY", retry_after=1)


def _encode(password: str) -> bytes:
    try:
        return unicodedata.normalize("NFC", password).encode()
    except UnicodeEncodeError:
        # Python's own error carries the password.
        raise ValueError("the password is not valid Unicode") from None


def _shorten(secret: bytes) -> bytes:
    return secret if len(secret) <= BCRYPT_BYTES else b64encode(sha256(_LONG_LABEL + secret).digest())


def _is_bcrypt(stored: str) -> bool:
    form = _BCRYPT_FORM.fullmatch(stored)
    return form is not None and 4 <= int(form[2]) <= _MOST_BCRYPT_ROUNDS


def _is_argon2(stored: str) -> bool:
    form = _ARGON2_FORM.fullmatch(stored)
    return (
        form is not None and int(form[3]) <= _MOST_KIB and int(form[4]) <= _MOST_PASSES and int(form[5]) <= _MOST_LANES
    )


def _is_weak_argon2(stored: str) -> bool:
    form = _ARGON2_FORM.fullmatch(stored)
    return (
        form is None
        or (form[1], form[2]) != ("id", "19")
        or int(form[3]) < ARGON2_KIB
        or int(form[4]) < ARGON2_PASSES
        or len(form[6]) < _DIGEST_CHARACTERS
    )
