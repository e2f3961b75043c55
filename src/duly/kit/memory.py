"""Memory that the C library keeps after those who needed it are gone."""

import asyncio
import ctypes
import sys
from typing import Final

TRIM_SECONDS: Final = 10.0
"""Where nothing is to be had it takes 10 µs, and 6 ms for 60 MiB."""


async def give_memory_back() -> None:
    """Give whole free pages back to the system; does nothing where the C library is not glibc (malloc_trim(3)).

    glibc keeps what is freed below something that is still in use: after a thousand large requests, all of it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        await asyncio.to_thread(trim, 0)
