"""Work in the background that is ended between its steps, not in the middle of one."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

GRACE_SECONDS = 3.0


async def run_whole(step: Coroutine[Any, Any, Result], *, grace: float = GRACE_SECONDS) -> Result:
    """The step's result. When the caller is cancelled meanwhile, the step has `grace` seconds to end first."""
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task}, timeout=grace)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen: nobody is left to be told
        raise
