"""Has each upload looked at by ClamAV's daemon before anything of it is kept (clamd(8): INSTREAM, VERSION)."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urlsplit

from duly.errors import TooLarge, Unavailable
from duly.files.store import PIECE_BYTES
from duly.settings import Settings

PORT = 3310
# Of the time that a request has: a scanner that hangs is told of before the request is given up.
SHARE = 0.8
_END = b"\0"
_TOO_LARGE = "INSTREAM size limit exceeded"
# What `AlertExceedsMax` finds is no virus: a file of which a part was not looked at.
_NOT_WHOLE = "Heuristics.Limits.Exceeded"
_found = re.compile(r"stream: (.+) FOUND").fullmatch
_not_printed = re.compile(r"[^ -~]")

log = logging.getLogger(__name__)
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class ClamdAddress:
    """Where clamd listens: a host and a port, or the path of a socket."""

    host: str = ""
    port: int = PORT
    path: str = ""


def parse_clamd_address(text: str) -> ClamdAddress:
    """Raises ValueError with one line."""
    parts = urlsplit(text)
    bare = not (parts.username or parts.query or parts.fragment)
    if parts.scheme == "unix" and bare and not parts.netloc and len(parts.path) > 1:
        return ClamdAddress(path=parts.path)
    if parts.scheme == "tcp" and bare and parts.hostname and parts.path in {"", "/"}:
        return ClamdAddress(parts.hostname, parts.port or PORT)
    raise ValueError("give tcp://host:3310 or unix:///run/clamav/clamd.ctl")


class Clamd:
    """One connection for each question, and `seconds` for the whole of it."""

    def __init__(self, address: ClamdAddress, seconds: float) -> None:
        self.address = address
        self._seconds = seconds

    async def scan(self, file: BinaryIO) -> str | None:
        """The name of what was found in all of `file`, None when it is clean.

        Raises `TooLarge` (`FILE_TOO_LARGE_TO_SCAN`) for what clamd does not take or does not look through, and
        `Unavailable` (`SCANNER_UNAVAILABLE`) for everything that is no clear answer. `file` is at its beginning
        afterwards.
        """
        try:
            async with asyncio.timeout(self._seconds), _closing(await self._connect()) as connection:
                answer = await _send(connection, file)
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise _unavailable() from error
        finally:
            file.seek(0)
        return _read(answer)

    async def version(self) -> str:
        """What it says of itself and its signatures, such as `ClamAV 1.4.6/27800/Sat …`. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(self._seconds), _closing(await self._connect()) as (reader, writer):
                writer.write(b"zVERSION" + _END)
                answer = _text(await reader.readuntil(_END))
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise _unavailable() from error
        if not answer.startswith("ClamAV"):
            raise _unavailable()
        return answer

    async def _connect(self) -> Connection:
        if self.address.path:
            return await asyncio.open_unix_connection(self.address.path)
        return await asyncio.open_connection(self.address.host, self.address.port)


def open_scanner(settings: Settings, *, seconds: float | None = None) -> Clamd | None:
    """The scanner that the settings name; nothing is asked yet. Raises ValueError with one line."""
    if settings.clamd_url is None:
        return None
    return Clamd(parse_clamd_address(settings.clamd_url), seconds or settings.request_timeout_seconds * SHARE)


@contextlib.asynccontextmanager
async def _closing(connection: Connection) -> AsyncIterator[Connection]:
    try:
        yield connection
    finally:
        # Not `close`, which would wait for what nobody reads any more.
        connection[1].transport.abort()


async def _send(connection: Connection, file: BinaryIO) -> bytes:
    """The answer, which may come before the end: clamd that has enough says so and hangs up."""
    reader, writer = connection
    answer = asyncio.ensure_future(reader.readuntil(_END))
    try:
        with contextlib.suppress(ConnectionError):  # what it said before is still to be read
            file.seek(0)
            writer.write(b"zINSTREAM" + _END)
            while not answer.done():
                piece = await asyncio.to_thread(file.read, PIECE_BYTES)
                writer.write(len(piece).to_bytes(4, "big") + piece)
                await writer.drain()
                if not piece:
                    break
        return await answer
    finally:
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)


def _read(answer: bytes) -> str | None:
    said = _text(answer)
    if said == "stream: OK":
        return None
    found = _found(said)
    if said.startswith(_TOO_LARGE) or (found and found[1].startswith(_NOT_WHOLE)):
        raise TooLarge("The file is larger than the virus scanner looks through. Send a smaller one.",
                       code="FILE_TOO_LARGE_TO_SCAN")  # fmt: skip
    if found:
        return found[1]
    log.error("The virus scanner says: %s", said)
    raise _unavailable()


def _text(answer: bytes) -> str:
    return _not_printed.sub("?", answer.removesuffix(_END).decode("latin-1").strip())[:200]


def _unavailable() -> Unavailable:
    return Unavailable(
        "The virus scanner does not answer right now, so nothing was stored. Send the file again.",
        code="SCANNER_UNAVAILABLE",
    )
