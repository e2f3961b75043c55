"""A wire to a server that carries a request there and loses its answer, or breaks every connection."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit


class Wire:
    """Forwards a loopback port to a server; `url` is the address of its near end."""

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        self._server = (str(parts.hostname), int(parts.port or 0))
        self._ends: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._losing = b""
        self._is_whole = True
        self._heads: list[bytes] = []
        self.url = ""

    def asked(self, request_line: str) -> int:
        """How many requests began so."""
        return sum(head.startswith(request_line.encode()) for head in self._heads)

    def lose_answer(self, request_line: str) -> None:
        """The next request that begins so reaches the server; its connection breaks when the answer comes."""
        self._losing = request_line.encode()

    def cut(self) -> None:
        """Break every connection; new ones work."""
        for end in self._ends:
            end.transport.abort()

    def close(self) -> None:
        """Break every connection and refuse new ones, until `mend`."""
        self._is_whole = False
        self.cut()

    def silence(self) -> None:
        """Keep every connection and let nothing through, until `mend`."""
        self._flows.clear()

    def mend(self) -> None:
        """Work again; what was held back goes through."""
        self._is_whole = True
        self._flows.set()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator["Wire"]:
        """Listen on a free port while this is open."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._carrying:
                task.cancel()
            await asyncio.gather(*self._carrying, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        self._ends |= ends
        try:
            if not self._is_whole:
                return
            answers, onward = await asyncio.open_connection(*self._server)
            ends.add(onward)
            self._ends.add(onward)
            is_lost = asyncio.Event()
            flows = (self._pour(reader, onward, is_lost), self._pour(answers, writer, is_lost, is_answer=True))
            pouring = [asyncio.create_task(flow) for flow in flows]
            try:
                await asyncio.wait(pouring, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in pouring:
                    task.cancel()
                await asyncio.gather(*pouring, return_exceptions=True)
        except OSError:
            pass  # nobody is there; the near end sees a broken connection
        finally:
            self._ends -= ends
            for end in ends:
                end.transport.abort()

    async def _pour(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        is_lost: asyncio.Event,
        *,
        is_answer: bool = False,
    ) -> None:
        while piece := await source.read(65536):
            await self._flows.wait()
            if is_answer and is_lost.is_set():
                return
            if not is_answer:
                self._heads.append(piece[:200])
                if self._losing and piece.startswith(self._losing):
                    self._losing = b""
                    is_lost.set()
            target.write(piece)
            await target.drain()
