"""A script in Node that a test talks with, line by line."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.clients.tools import node

PATIENCE = 60.0


class Script:
    """Says `["event", value]` on a line of its own; hears lines of text."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def next(self) -> tuple[str, Any]:
        """The next that it says. Fails with its errors when it ended, or says nothing for a minute."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            line = await self._process.stdout.readline()
            if not line:
                raise AssertionError(f"the script ended: {(await self._process.stderr.read()).decode()}")
        event, value = json.loads(line)
        return event, value

    async def said(self, event: str) -> Any:
        """The value of what it says next, which has to be this event."""
        found, value = await self.next()
        assert found == event, (found, value)
        return value

    async def until(self, event: str) -> Any:
        """The value of the next such event; what it says before is passed over."""
        while True:
            found, value = await self.next()
            if found == event:
                return value

    def tell(self, line: str = "go on") -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())


@contextlib.asynccontextmanager
async def talk_to(path: Path, **given: Any) -> AsyncIterator[Script]:
    """The script, running while this is open."""
    process = await asyncio.create_subprocess_exec(
        node(), str(path), json.dumps(given), limit=1 << 20, cwd=path.parent,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Script(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
