"""Log lines: their two forms, what is masked in them, and the buffered writer that puts them on standard output."""

import asyncio
import contextlib
import contextvars
import json
import logging
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar, Literal, TextIO, cast

import orjson

Form = Literal["console", "json"]

FLUSH_SECONDS = 0.1
FLUSH_CHARACTERS = 64 * 1024
# POSIX writes at most this many bytes to a pipe in one piece: workers that share a pipe never tear each other's lines.
_PIPE_BYTES = 4096
_MASK = "***"

request_id_var: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""The id of the request that the running task answers; empty outside a request."""


@contextlib.contextmanager
def logged_as(request_id: str) -> Iterator[None]:
    """What is logged here, and by tasks that begin here, bears this id: for work that goes on behind its request."""
    token = request_id_var.set(request_id)
    try:
        yield
    finally:
        request_id_var.reset(token)


# Below these levels these libraries log what was sent: form fields, frames, SQL values.
_TALKATIVE = {
    "aiosqlite": logging.INFO,
    "httpcore": logging.INFO,
    "multipart": logging.INFO,
    "python_multipart": logging.INFO,
    "sqlalchemy": logging.WARNING,
    "uvicorn": logging.INFO,
}
_MASKS: tuple[tuple[re.Pattern[str], str], ...] = (
    # Text in the form of a JWT (RFC 7519): every header in JSON begins with these three characters. The look-ahead
    # keeps the search linear.
    (re.compile(r"eyJ(?:(?!eyJ)[\w-]){6,}(?:\.[\w-]*){1,4}"), _MASK),
    # RFC 6750 and RFC 7617; the look-ahead lets prose such as "Bearer token" pass.
    (re.compile(r"(?i)\b(bearer|basic)\s+(?=[^\s\"',;]*[\d_~+/=]|[^\s\"',;]{20})[^\s\"',;]+"), rf"\1 {_MASK}"),
    (re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?!\s*(?:bearer|basic)\s)[^\s\"',;]+"), rf"\1{_MASK}"),
    # scheme://user:password@host; a port followed by a path is no password. Bounded, to stay linear on hostile text.
    (
        re.compile(r"://[^\s:/@\"'<>]{0,99}:(?!\d{1,5}[/?#\s])[^\s@\"'<>]{0,512}@(?:[^\s@/\"'<>]{0,99}@)*"),
        f"://{_MASK}@",
    ),
    # password=…, "secret": "…", token=…; a bare `token:` is left alone because prose has it.
    (
        re.compile(
            r"(?i)((?:(?:password|passwd|pwd|passphrase|secret|secret[_-]?key|api[_-]?key|credentials?)[\"']?\s*[=:]"
            r"|token(?:[\"']\s*[=:]|\s*=))\s*)"
            r"(?:\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s,;&\"')}\]]+)"
        ),
        rf"\1{_MASK}",
    ),
    # Values that SQLAlchemy, pydantic and PostgreSQL put into the text of their errors.
    (re.compile(r"\[parameters: .*\]"), f"[parameters: {_MASK}]"),
    (re.compile(r"input_value=.+?(?=, input_type|\]|$)", re.MULTILINE), f"input_value={_MASK}"),
    (re.compile(r"(Key \([^)\n]{0,200}\)=)\(.*\)"), rf"\1({_MASK})"),
    (re.compile(r"(Failing row contains )\(.*\)"), rf"\1({_MASK})"),
)
_SECRET_FIELD = re.compile(r"(?i)password|passwd|pwd|token|secret|authorization|cookie|api[_-]?key")


def redact(text: str) -> str:
    """`text` with everything that looks like a secret, and every value quoted by a database error, masked."""
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text


def redact_field(name: str, value: Any) -> Any:
    """The value of one extra field: text under a secret name is masked whole, other text by its look."""
    if isinstance(value, str):
        return _MASK if _SECRET_FIELD.search(name) else redact(value)
    if isinstance(value, bytes | bytearray):
        return _MASK
    if isinstance(value, dict):
        return {key: redact_field(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_field(name, inner) for inner in value]
    return value


def escape(text: str) -> str:
    """`text` with control, bidirectional and unpaired surrogate characters spelt out: no input forges a line."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


@lru_cache(maxsize=4)
def console_stamp(second: int) -> str:
    """Local time, as people read a terminal; JSON lines are in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


@lru_cache(maxsize=4)
def utc_stamp(second: int) -> str:
    """RFC 3339 up to the whole second, without the offset."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class RequestIDFilter(logging.Filter):
    """Puts the running request's id on each record, as `request_id` and, cut to 8 characters, as `short_id`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        request_id = request_id_var.get()
        record.request_id = request_id or None
        record.short_id = request_id[:8] or "-"
        return True


class RedactionFilter(logging.Filter):
    """Masks secrets in the message, the extra fields and the traceback before any handler shows them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record: one whose arguments do not fit loses the arguments."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001  # whatever a caller's %-arguments raise
            message = f"{record.msg} (its arguments do not fit)"
        record.msg, record.args = redact(message), None
        fields = getattr(record, "fields", None)
        if fields:
            record.fields = {str(name): redact_field(str(name), value) for name, value in fields.items()}
        if record.exc_info and record.exc_info[0] is not None:
            # The text may be there already, unmasked, from a handler that came first.
            record.exc_text = redact(record.exc_text or logging.Formatter().formatException(record.exc_info))
        return True


class ColoredFormatter(logging.Formatter):
    """`2025-10-09 12:11:12 - INFO - [2bcc1c11] message`; only the level's name is coloured."""

    COLOURS: ClassVar = {"DEBUG": "36", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self.levels = {name: f"\x1b[{code}m{name}\x1b[0m" if colour else name for name, code in self.COLOURS.items()}

    def format(self, record: logging.LogRecord) -> str:
        """One line, then the traceback indented, so that no part of it can pass for a line of its own."""
        level = self.levels.get(record.levelname, record.levelname)
        stamp = console_stamp(int(record.created))
        short_id = getattr(record, "short_id", "-")
        line = f"{stamp} - {level} - [{short_id}] {escape(record.getMessage())}\n"
        if record.exc_text:
            line += "".join(f"    {escape(part)}\n" for part in record.exc_text.splitlines())
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `message`, `request_id`, the extra fields, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Never raises on what JSON cannot say: such values are written as text."""
        second = int(record.created)
        entry: dict[str, Any] = {
            "time": f"{utc_stamp(second)}.{int((record.created - second) * 1e6):06d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", None),
        }
        for name, value in (getattr(record, "fields", None) or {}).items():
            entry.setdefault(name, value)
        if record.exc_text:
            entry["exception"] = record.exc_text
        try:
            line = orjson.dumps(entry, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # an unpaired surrogate, or an integer beyond 64 bits
            line = json.dumps(entry, default=str)
        return f"{line}\n"


class LineWriter:
    """Gathers lines and writes them in one piece: after 100 ms at the latest, or at 64 KiB, or when asked to.

    A full or closed stream never raises: logging must not fail the request that is logged.
    """

    __slots__ = ("__weakref__", "_lines", "_lock", "_loop", "_size", "_stream", "_timer")

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._size = 0
        self._lock = threading.RLock()  # a signal handler may log in the middle of a flush
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        _writers.add(self)

    def append(self, line: str) -> None:
        """Add one whole line, with its line end. Outside an event loop it is written at once."""
        self._lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_CHARACTERS:
            self.flush()
        elif self._timer is None or self._loop.is_closed():  # type: ignore[union-attr]  # set together
            self._arm()

    def _arm(self) -> None:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
        else:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Write all that was appended, in order; safe from any thread."""
        with self._lock:
            lines = self._lines
            count = len(lines)
            if not count:
                return
            # The list stays the same object, so that a line appended meanwhile by another thread is never lost.
            text = "".join(lines[:count])
            del lines[:count]
            self._size = 0
            self._write(text)

    def _write(self, text: str) -> None:
        stream = self._stream
        try:
            for piece in _pieces(text):
                try:
                    stream.write(piece)
                except UnicodeEncodeError:
                    encoding = stream.encoding or "ascii"
                    stream.write(piece.encode(encoding, "backslashreplace").decode(encoding))
                stream.flush()
        except (OSError, ValueError, RuntimeError):
            pass  # the reader has gone, the stream was closed, or a signal handler came in the middle of this write

    def reset(self) -> None:
        """Forget what was gathered, in a child process: its parent writes it."""
        self._lock = threading.RLock()
        self._timer = None
        self._lines.clear()
        self._size = 0


def _pieces(text: str) -> list[str]:
    """Whole lines, as many per piece as a pipe takes unbroken; a longer line is a piece of its own."""
    limit = _PIPE_BYTES if text.isascii() else _PIPE_BYTES // 4
    pieces = []
    start = 0
    while len(text) - start > limit:
        end = text.rfind("\n", start, start + limit) + 1 or text.find("\n", start + limit) + 1 or len(text)
        pieces.append(text[start:end])
        start = end
    pieces.append(text[start:])
    return pieces


_writers: "weakref.WeakSet[LineWriter]" = weakref.WeakSet()


def flush_logs() -> None:
    """Write every gathered line now: for the end of a lifespan. The interpreter's exit does it by itself."""
    for writer in list(_writers):
        writer.flush()


def _reset_writers() -> None:
    for writer in list(_writers):
        writer.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_writers)


class LineHandler(logging.Handler):
    """Formats records into the same `LineWriter` that the access log writes to, so that all lines keep their order."""

    def __init__(self, stream: TextIO, *, form: Form) -> None:
        super().__init__()
        self.form = form
        self.writer = LineWriter(stream)
        colour = form == "console" and stream.isatty() and "NO_COLOR" not in os.environ
        formatter = ColoredFormatter(colour=colour)
        self.level_names = formatter.levels
        self.setFormatter(JsonFormatter() if form == "json" else formatter)
        self.addFilter(RequestIDFilter())
        self.addFilter(RedactionFilter())

    def emit(self, record: logging.LogRecord) -> None:
        """Warnings and worse are written at once, after everything that came before them."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001  # a log line must not fail the request
            line = f"A log record of {record.name}, line {record.lineno}, could not be formatted\n"
        self.writer.append(line)
        if record.levelno >= logging.WARNING:
            self.writer.flush()

    def flush(self) -> None:
        """Also called by `logging` when the interpreter exits."""
        self.writer.flush()


def configure_logging(*, level: str, format: str, stream: TextIO | None = None) -> LineHandler:  # noqa: A002
    """Send every record at `level` or above to `stream` (default: standard output) as `console` or `json` lines.

    Replaces what an earlier call, `logging.basicConfig` or uvicorn has set up. Pass the result to `access_log`.
    """
    root = logging.getLogger()
    for old in list(root.handlers):
        if type(old) in (LineHandler, logging.StreamHandler):
            old.flush()
            root.removeHandler(old)
    handler = LineHandler(stream or sys.stdout, form=cast("Form", format))
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = name != "uvicorn.access"  # the access log is our own
    for name, least in _TALKATIVE.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    return handler
