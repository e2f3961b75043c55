"""How a test's own server stops listening."""

import asyncio

# The loop makes the transport of a connection that it took, tells its protocol, and begins what answers: a turn each.
_TURNS_OF_A_CONNECTION = 3


async def stop_listening(server: asyncio.Server) -> None:
    """Close a server; each connection that it took before has a transport and its handler has begun.

    `Server.close` alone, in the turn of the loop in which a connection was taken, leaves its socket to the garbage
    collector (CPython 3.11 to 3.13: the new transport cannot attach to a server without sockets), which fails
    whichever test runs then.
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    for _ in range(_TURNS_OF_A_CONNECTION):
        await asyncio.sleep(0)
    server.close()
