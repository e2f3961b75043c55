"""A client's way in where Duly itself ends TLS: it is counted and timed from its first byte on."""

import asyncio
import functools
import logging
import socket
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from duly.cli.connections import HEAD_SECONDS, READ_SECONDS, Connection
from duly.kit.certificates import CertificateFiles, RenewedContext
from duly.web.crowd import crowd

log = logging.getLogger("duly.tls")

# What a connection without TLS keeps for a client that does not read; the one with TLS would keep eight times that.
UNSENT_BYTES = 64 * 1024


class Handshake(asyncio.Protocol):
    """A client that is not known yet: it has its place in the crowd, and becomes a `Connection` once TLS stands.

    A TLS server of asyncio tells of a connection only after its handshake, and waits a minute for that: so long, nobody
    would count those who say nothing. So the server listens without, and each socket is taken out of its transport
    before anything is read, and given to one with TLS.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        files: CertificateFiles,
    ) -> None:
        self._files = files
        self._loop = _loop or asyncio.get_running_loop()
        self._handshakes = cast("set[Handshake]", server_state.connections)
        self._make = functools.partial(_Admitted, self, config, server_state, app_state, self._loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Before TLS stands nothing can be said to who has no place."""
        self.transport = transport
        if crowd.enter(self):
            crowd.owe(self)
            try:
                inner = transport.get_extra_info("socket")
                client = socket.fromfd(inner.fileno(), inner.family, inner.type)
            except OSError:  # there are no more files; as without a place
                crowd.leave(self)
            else:
                client.setblocking(False)
                self._handshakes.add(self)
                self.transport = cast("asyncio.Transport", _Pending(self._loop.create_task(self._shake_hands(client))))
        transport.abort()

    def leave(self) -> None:
        """The place is free, for the connection that this becomes or for somebody else."""
        crowd.leave(self)
        self._handshakes.discard(self)

    def shutdown(self) -> None:
        """The server ends, and nothing was asked yet."""
        self.transport.abort()

    async def _shake_hands(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make, client, ssl=context_of(self._files).current(), ssl_handshake_timeout=HEAD_SECONDS,
                ssl_shutdown_timeout=READ_SECONDS,
            )  # fmt: skip
        except OSError as error:
            # What strangers send is not worth a line each; a certificate that is refused is noticed by its owner.
            log.debug("A client did not get through TLS: %s", error)
            client.close()
        except asyncio.CancelledError:
            client.close()
            raise
        finally:
            self.leave()


class _Admitted(Connection):
    """Takes over the place."""

    def __init__(self, handshake: Handshake, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._handshake = handshake

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._handshake.leave()
        transport.set_write_buffer_limits(high=UNSENT_BYTES)
        super().connection_made(transport)


class _Pending:
    """What the crowd asks of a transport, of one that is not there yet."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task
        self.is_closing = task.done
        self.close = self.abort = task.cancel

    def get_write_buffer_size(self) -> int:
        return 0


@functools.cache
def context_of(files: CertificateFiles) -> RenewedContext:
    """One for a process. Raises `CertificateFault`."""
    return RenewedContext(files)
