"""A door on a real server in a thread, for tests that look through sockets and at the log."""

import io
import json
import logging
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from duly.errors import DulyError
from duly.kit.logs import configure_logging, flush_logs
from duly.web.access_log import access_log
from duly.web.addresses import ClientAddresses
from duly.web.door import Door

LIMIT = 2000


def render(error: DulyError, request_id: str, path: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    body = json.dumps({"code": error.code, "message": error.message, "request_id": request_id, "path": path}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return error.kind.value, headers, body


@dataclass
class Running:
    """A server on a free port of its own, the door it runs, and what it has logged."""

    door: Door
    port: int
    stream: io.StringIO

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, **options)

    def raw(self, request: bytes) -> bytes:
        """Everything the server answers, after sending `request` as it is and nothing more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(request)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
                if b"\r\n\r\n" in answer and b"connection: close" not in answer.lower():
                    break
        return answer

    def lines(self, holding: str, count: int = 1) -> list[str]:
        """The log lines that hold `holding`, waited for, because they are written after the answer."""
        deadline = time.monotonic() + 3
        while True:
            flush_logs()
            found = [line for line in self.stream.getvalue().splitlines() if holding in line]
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.02)


class Servers:
    """Starts servers and stops them all; log lines of the newest go to its `stream`."""

    def __init__(self) -> None:
        self._running: list[tuple[uvicorn.Server, threading.Thread]] = []
        self._level = logging.getLogger().level

    def __call__(
        self, app: Any, *, form: str = "console", log_level: str = "info", root_path: str = "", **options: Any
    ) -> Running:
        logging.getLogger().handlers.clear()  # pytest's own would format each record first
        stream = io.StringIO()
        handler = configure_logging(level=log_level, format=form, stream=stream)
        settings: dict[str, Any] = {
            "render": render, "max_body_bytes": LIMIT, "request_timeout_seconds": 10.0, "allowed_hosts": (),
            "addresses": ClientAddresses(()), "access_log": access_log(handler),
        }  # fmt: skip
        door = Door(app, **(settings | options))
        server = uvicorn.Server(
            uvicorn.Config(door, port=0, log_config=None, access_log=False, proxy_headers=False, root_path=root_path)
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        self._running.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        return Running(door, server.servers[0].sockets[0].getsockname()[1], stream)

    def stop(self) -> None:
        for server, thread in self._running:
            server.should_exit = True
            thread.join(10)
        logging.getLogger().handlers.clear()
        logging.getLogger().setLevel(self._level)
