"""The two lines of each request and the one that names a refusal, past `logging` because every request pays."""

import logging
import re
from http import HTTPStatus
from time import time
from typing import Protocol

import orjson

from duly.kit.logs import LineHandler, console_stamp, escape, redact, utc_stamp

LOGGER = "duly.access"
MAX_PATH = 200
# Method and path of this form need no escaping in either form of a line, and hold no query, no address and no pair.
_plain = re.compile(r"[A-Za-z0-9/_.~\- ]{0,200}").fullmatch
# Somebody was turned away: an operator who logs warnings only still wants to see it.
_TURNED_AWAY = frozenset({401, 403, 423, 429})
_PHRASES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class AccessLog(Protocol):
    """What the door calls. Lines leave out the query string, which may hold secrets."""

    def incoming(self, request_id: str, method: str, path: str) -> str:
        """Write the line before anything is done; the answer is the target as `completed` wants it back."""

    def completed(self, request_id: str, target: str, status: int, seconds: float, client: str) -> None:
        """Write the line after the answer, preceded by one such as `404 Not Found: /path` when it is a refusal."""


def show_target(method: str, path: str) -> str:
    """`GET /path` on one line: no control characters, at most 200 characters of path, nothing that looks secret."""
    target = f"{method} {path}"
    if _plain(target) and "eyJ" not in target:
        return target
    # Masked before it is cut: half a token would no longer look like one.
    shown = escape(redact(path))
    return f"{escape(method)[:20]} {shown if len(shown) <= MAX_PATH else shown[:MAX_PATH] + '…'}"


def refusal_level(status: int) -> int:
    """ERROR for our own failures, WARNING for those turned away, INFO for mistakes such as 404 and 422."""
    if status >= 500:
        return logging.ERROR
    return logging.WARNING if status in _TURNED_AWAY else logging.INFO


class ConsoleAccessLog:
    """`2025-10-09 12:11:12 - INFO - [2bcc1c11] Incoming request: GET /path`."""

    __slots__ = ("_handler", "_informs", "_second", "_stamp", "_write")

    def __init__(self, handler: LineHandler) -> None:
        self._handler = handler
        self._write = handler.writer.append
        self._informs = logging.getLogger(LOGGER).isEnabledFor(logging.INFO)
        self._second = 0
        self._stamp = ""

    def incoming(self, request_id: str, method: str, path: str) -> str:
        """See `AccessLog`."""
        target = show_target(method, path)
        if self._informs:
            second = int(time())
            if second != self._second:
                self._tick(second)
            self._write(f"{self._stamp}{request_id[:8]}] Incoming request: {target}\n")
        return target

    def completed(self, request_id: str, target: str, status: int, seconds: float, client: str) -> None:
        """See `AccessLog`."""
        if status >= 400:
            self._refused(request_id, target, status)
        if self._informs:
            second = int(time())
            if second != self._second:
                self._tick(second)
            self._write(
                f"{self._stamp}{request_id[:8]}] Request completed: {target}"
                f" - Status: {status} - {seconds * 1000:.2f} ms\n"
            )

    def _tick(self, second: int) -> None:
        self._second = second
        self._stamp = f"{console_stamp(second)} - {self._handler.level_names['INFO']} - ["

    def _refused(self, request_id: str, target: str, status: int) -> None:
        level = refusal_level(status)
        if not logging.getLogger(LOGGER).isEnabledFor(level):
            return
        name = self._handler.level_names[logging.getLevelName(level)]
        path = target.partition(" ")[2]
        self._write(f"{console_stamp(int(time()))} - {name} - [{request_id[:8]}] {_phrase(status)}: {path}\n")
        if level >= logging.WARNING:
            self._handler.flush()


class JsonAccessLog:
    """One object per line, with the keys of `JsonFormatter` and `method`, `path`, `status`, `duration_ms`, `client`."""

    __slots__ = ("_handler", "_informs", "_second", "_stamp", "_write")

    def __init__(self, handler: LineHandler) -> None:
        self._handler = handler
        self._write = handler.writer.append
        self._informs = logging.getLogger(LOGGER).isEnabledFor(logging.INFO)
        self._second = 0
        self._stamp = ""

    def incoming(self, request_id: str, method: str, path: str) -> str:
        """See `AccessLog`; the target comes back as the inside of a JSON string."""
        target = show_target(method, path)
        if not _plain(target):
            target = orjson.dumps(target).decode()[1:-1]
        if self._informs:
            self._write(f'{self._head("INFO")}"message":"Incoming request: {target}","request_id":"{request_id}"}}\n')
        return target

    def completed(self, request_id: str, target: str, status: int, seconds: float, client: str) -> None:
        """See `AccessLog`."""
        if status >= 400:
            self._refused(request_id, target, status)
        if self._informs:
            method, _, path = target.partition(" ")
            self._write(
                f'{self._head("INFO")}"message":"Request completed: {target} - Status: {status}"'
                f',"request_id":"{request_id}","method":"{method}","path":"{path}","status":{status}'
                f',"duration_ms":{seconds * 1000:.3f},"client":"{client}"}}\n'
            )

    def _head(self, level: str) -> str:
        now = time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = f'{{"time":"{utc_stamp(second)}.'
        return f'{self._stamp}{int((now - second) * 1e6):06d}Z","level":"{level}","logger":"{LOGGER}",'

    def _refused(self, request_id: str, target: str, status: int) -> None:
        level = refusal_level(status)
        if not logging.getLogger(LOGGER).isEnabledFor(level):
            return
        path = target.partition(" ")[2]
        self._write(
            f'{self._head(logging.getLevelName(level))}"message":"{_phrase(status)}: {path}"'
            f',"request_id":"{request_id}","status":{status}}}\n'
        )
        if level >= logging.WARNING:
            self._handler.flush()


def _phrase(status: int) -> str:
    return _PHRASES.get(status, str(status))


def access_log(handler: LineHandler) -> AccessLog:
    """The access log in the form of `handler`, and into the same writer. The level is read once, here."""
    return JsonAccessLog(handler) if handler.form == "json" else ConsoleAccessLog(handler)
