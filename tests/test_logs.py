"""Log lines: their form, what they hide, and that they reach the stream whole, in order and in time."""

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from duly.kit.logs import (
    ColoredFormatter,
    LineHandler,
    LineWriter,
    RequestIDFilter,
    configure_logging,
    redact,
    redact_field,
    request_id_var,
)
from duly.web.access_log import access_log, refusal_level, show_target

REQUEST_ID = "2bcc1c11-3e5f-4a7b-8c9d-0123456789ab"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"

Configure = Callable[..., tuple[io.StringIO, LineHandler]]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def configure() -> Iterator[Configure]:
    root = logging.getLogger()
    root_level = root.level

    def start(
        level: str = "info", form: str = "console", stream: io.StringIO | None = None
    ) -> tuple[io.StringIO, LineHandler]:
        root.handlers.clear()  # pytest's own would format each record first
        chosen = stream or io.StringIO()
        return chosen, configure_logging(level=level, format=form, stream=chosen)

    yield start
    root.handlers.clear()
    root.setLevel(root_level)


@pytest.fixture
def in_request() -> Iterator[None]:
    token = request_id_var.set(REQUEST_ID)
    yield
    request_id_var.reset(token)


@pytest.mark.covers("D054", "D061", "D113")
@pytest.mark.usefixtures("in_request")
def test_console_line_has_time_level_short_id_and_message(configure: Configure) -> None:
    stream, _ = configure()
    logging.getLogger("duly.tasks").info("Task %s was created", 7)
    line = re.fullmatch(r"(\S+ \S+) - INFO - \[2bcc1c11\] Task 7 was created\n", stream.getvalue())
    assert line is not None
    written = datetime.fromisoformat(line[1]).astimezone()
    assert abs(written - datetime.now(UTC)) < timedelta(seconds=5)


def test_a_line_outside_a_request_has_a_dash(configure: Configure) -> None:
    stream, _ = configure()
    logging.getLogger("duly").info("Starting")
    assert stream.getvalue().endswith(" - INFO - [-] Starting\n")


@pytest.mark.covers("D043", "D059")
def test_colour_only_on_a_terminal(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, _ = configure()
    logging.getLogger("duly").warning("here")
    terminal, handler = configure(stream=Terminal())
    logging.getLogger("duly").warning("here")
    assert "\x1b" not in plain.getvalue()
    assert " - \x1b[33mWARNING\x1b[0m - [-] here" in terminal.getvalue()
    assert isinstance(handler.formatter, ColoredFormatter)
    assert any(isinstance(entry, RequestIDFilter) for entry in handler.filters)
    monkeypatch.setenv("NO_COLOR", "1")
    obedient, _ = configure(stream=Terminal())
    logging.getLogger("duly").warning("here")
    assert "\x1b" not in obedient.getvalue()


@pytest.mark.covers("A100", "A115", "D113")
@pytest.mark.usefixtures("in_request")
def test_json_line_has_the_agreed_keys(configure: Configure) -> None:
    stream, _ = configure(form="json")
    fields = {"event": "user.registered", "count": 2, "level": "forged", "when": datetime(2025, 1, 1, tzinfo=UTC)}
    logging.getLogger("duly.audit").warning('said "%s"\nand more', "ü", extra={"fields": fields})
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entry["time"])
    assert abs(datetime.fromisoformat(entry["time"]) - datetime.now(UTC)) < timedelta(seconds=5)
    assert entry["message"] == 'said "ü"\nand more'
    assert (entry["level"], entry["logger"], entry["request_id"]) == ("WARNING", "duly.audit", REQUEST_ID)
    assert (entry["event"], entry["count"], entry["when"]) == ("user.registered", 2, "2025-01-01T00:00:00+00:00")


@pytest.mark.covers("A100")
@pytest.mark.parametrize("value", ["\ud800", 2**70, object(), {1: b"raw"}, float("nan")])
def test_json_line_survives_what_json_cannot_say(configure: Configure, value: object) -> None:
    stream, _ = configure(form="json")
    logging.getLogger("duly").info("odd %s", value, extra={"fields": {"value": value}})
    entry = json.loads(stream.getvalue())
    assert entry["message"].startswith("odd ")
    assert "value" in entry


@pytest.mark.parametrize("form", ["console", "json"])
def test_traceback_is_kept_masked_and_cannot_forge_a_line(configure: Configure, form: str) -> None:
    stream, _ = configure(form=form)
    try:
        raise ValueError(f"token={JWT}\n2025-10-09 12:11:12 - INFO - [2bcc1c11] forged")
    except ValueError:
        logging.getLogger("duly").exception("failed")
    text = stream.getvalue()
    assert "Traceback" in text
    assert "ValueError" in text
    assert "test_logs.py" in text
    assert JWT not in text
    assert "dozjgNryP4" not in text
    assert not any(line.startswith("2025-10-09") for line in text.splitlines())
    if form == "json":
        assert "Traceback" in json.loads(text)["exception"]


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\x1b[31mb", "a\u2028b", "a\u202eb", "a\x00b", "a\ud800b"])
def test_console_message_stays_on_one_line(configure: Configure, text: str) -> None:
    stream, _ = configure()
    logging.getLogger("duly").info("%s", text)
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    assert line.endswith("b")


def test_a_record_whose_arguments_do_not_fit_is_logged_without_them(configure: Configure) -> None:
    stream, _ = configure()
    logging.getLogger("duly").info("%d and %d", "hunter2")  # noqa: PLE1206
    assert "its arguments do not fit" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


SECRETS = [
    (f"Authorization: Bearer {JWT}", "Authorization"),
    ("authorization='Basic dXNlcjpodW50ZXIy'", "authorization"),
    ("got Bearer 3q2-7wAAhunter2AAzZ_x", "got Bearer"),
    (f"unexpected text {JWT} in body", "in body"),
    ("connect to postgresql+asyncpg://duly:hunter2@db.example/duly", "@db.example/duly"),
    ("connect to postgresql://duly:hun/ter2@hunter2@db.example/duly", "@db.example/duly"),
    ("redis://:hunter2@127.0.0.1:6379/0", "@127.0.0.1:6379/0"),
    ("POST ?password=hunter2&next=1", "&next=1"),
    ('{"new_password": "hunter2 \\" hunter2", "name": "x"}', '"name": "x"'),
    ("{'refresh_token': 'hunter2', 'n': 1}", "'n': 1"),
    ("SECRET_KEY=hunter2 PORT=1", "PORT=1"),
    ("api_key: hunter2", "api_key"),
    ("[SQL: SELECT 1]\n[parameters: ('hunter2', 1)]\n(Background)", "SELECT 1"),
    ("Value error [type=x, input_value='hunter2', input_type=str]", "input_type=str"),
    ("DETAIL:  Key (email)=(hunter2@example.com) already exists.", "already exists"),
]


@pytest.mark.covers("C112", "C113", "C114")
@pytest.mark.parametrize(("text", "kept"), SECRETS)
def test_secrets_are_masked_in_messages(configure: Configure, text: str, kept: str) -> None:
    stream, _ = configure(form="json")
    logging.getLogger("duly").info("%s", text)
    message = json.loads(stream.getvalue())["message"]
    assert "hunter2" not in message
    assert "dXNlcjpodW50ZXIy" not in message
    assert "eyJ" not in message
    assert "***" in message
    assert kept in message


@pytest.mark.parametrize(
    "text",
    [
        "Bearer token is missing",
        "Uvicorn running on http://127.0.0.1:8000 (Press CTRL+C to quit)",
        "fetched http://127.0.0.1:8000/api/auth/jwks for a@b.example",
        "password_min_length=8 and tokens=5",
        "event password.changed",
        "Invalid token: signature differs",
    ],
)
def test_prose_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_masking_stays_fast_on_hostile_text() -> None:
    started = time.perf_counter()
    for text in (
        "://:" * 20_000,
        "password" * 10_000,
        "eyJ" * 30_000,
        "Key (" * 20_000,
        "a_" * 50_000,
        "bearer " * 15_000,
    ):
        redact(text)
    assert time.perf_counter() - started < 3


def test_secret_fields_are_masked_by_name_and_by_look() -> None:
    fields = {
        "password": "a", "access_token": "b", "Authorization": "c", "nested": {"client_secret": ["d", "e"]},
        "note": f"see {JWT}", "token_count": 3, "raw": b"f", "name": "Ann",
    }  # fmt: skip
    masked = redact_field("", fields)
    assert masked == {
        "password": "***", "access_token": "***", "Authorization": "***", "nested": {"client_secret": ["***", "***"]},
        "note": "see ***", "token_count": 3, "raw": "***", "name": "Ann",
    }  # fmt: skip


@pytest.mark.covers("A115", "B008", "C116", "C117")
def test_level_decides_what_is_written(configure: Configure) -> None:
    seen = {}
    for level in ("debug", "info", "warning"):
        stream, handler = configure(level=level)
        for record_level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger("duly").log(record_level, "line")
        log = access_log(handler)
        log.completed(REQUEST_ID, log.incoming(REQUEST_ID, "GET", "/x"), 200, 0.001, "127.0.0.1")
        handler.flush()
        seen[level] = stream.getvalue().count("\n")
    assert seen == {"debug": 5, "info": 4, "warning": 1}


@pytest.mark.covers("C112")
def test_debug_level_does_not_open_libraries_that_log_bodies(configure: Configure) -> None:
    stream, _ = configure(level="debug")
    for name in (
        "python_multipart.multipart",
        "sqlalchemy.engine.Engine",
        "aiosqlite",
        "uvicorn.error",
        "httpcore.http11",
    ):
        logging.getLogger(name).debug("what was sent")
    assert stream.getvalue() == ""


def test_configuring_again_replaces_the_first(configure: Configure) -> None:
    first, _ = configure()
    second, _ = configure(form="json")
    logging.getLogger("duly").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


async def test_lines_wait_for_at_most_a_tenth_of_a_second() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream)
    writer.append("one\n")
    writer.append("two\n")
    assert stream.getvalue() == ""
    await asyncio.sleep(0.25)
    assert stream.getvalue() == "one\ntwo\n"


async def test_a_full_buffer_is_written_at_once() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream)
    for _ in range(64):
        writer.append("x" * 1023 + "\n")
    assert len(stream.getvalue()) == 64 * 1024


async def test_a_warning_brings_out_everything_before_it_in_order(configure: Configure) -> None:
    stream, handler = configure()
    log = access_log(handler)
    log.incoming(REQUEST_ID, "GET", "/first")
    logging.getLogger("duly").info("second")
    assert stream.getvalue() == ""
    logging.getLogger("duly").warning("third")
    words = [line.split()[-1] for line in stream.getvalue().splitlines()]
    assert words == ["/first", "second", "third"]


def test_a_second_event_loop_gets_its_lines_too() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream)

    async def leave(line: str, seconds: float) -> None:
        writer.append(line)
        await asyncio.sleep(seconds)

    asyncio.run(leave("first\n", 0))  # ends before its timer
    asyncio.run(leave("second\n", 0.25))
    assert stream.getvalue() == "first\nsecond\n"


def test_no_line_is_lost_between_threads() -> None:
    stream = io.StringIO()
    writer = LineWriter(stream)
    threads = [
        threading.Thread(target=lambda mark=mark: [writer.append(f"{mark} {n}\n") for n in range(2000)])
        for mark in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 8000
    assert len(set(lines)) == 8000


def test_a_closed_stream_and_a_narrow_encoding_raise_nothing() -> None:
    closed = io.StringIO()
    closed.close()
    LineWriter(closed).append("lost\n")
    raw = io.BytesIO()
    narrow = io.TextIOWrapper(raw, encoding="ascii")
    LineWriter(narrow).append("Grüße\n")
    assert raw.getvalue() == b"Gr\\xfc\\xdfe\n"


def run_python(script: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_reader_that_leaves_kills_nothing() -> None:
    script = (
        "import logging, sys, time\nfrom duly.kit.logs import configure_logging\n"
        "configure_logging(level='info', format='console')\n"
        "for n in range(300): logging.info('line %d', n); time.sleep(0.002)\n"
        "print('still here', file=sys.stderr)\n"
    )
    with run_python(script) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"line 0" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"still here\n"
        assert process.wait(20) == 0


def test_exit_writes_what_is_left_and_a_fork_writes_it_once() -> None:
    script = (
        "import asyncio, os\nfrom duly.kit.logs import configure_logging, LineHandler\n"
        "async def main():\n"
        "    writer = configure_logging(level='info', format='console').writer\n"
        "    writer.append('before\\n')\n"
        "    child = os.fork()\n"
        "    writer.append('child\\n' if child == 0 else 'parent\\n')\n"
        "    if child: os.waitpid(child, 0)\n"
        "asyncio.run(main())\n"
    )
    process = run_python(script)
    output, errors = process.communicate(timeout=20)
    assert sorted(output.split()) == [b"before", b"child", b"parent"], errors


def test_workers_that_share_a_pipe_do_not_tear_lines() -> None:
    script = (
        "import asyncio, sys\nfrom duly.kit.logs import configure_logging\n"
        "async def main():\n"
        "    writer = configure_logging(level='info', format='console').writer\n"
        "    for n in range(6000): writer.append(sys.argv[1] * 90 + '\\n')\n"
        "asyncio.run(main())\n"
    )
    reader, target = os.pipe()
    workers = [subprocess.Popen([sys.executable, "-c", script, mark], stdout=target) for mark in "abc"]
    os.close(target)
    time.sleep(1)  # the pipe fills up, and all of them wait in the middle of what they have to write
    with os.fdopen(reader) as stream:
        lines = stream.read().splitlines()
    assert [worker.wait(20) for worker in workers] == [0, 0, 0]
    assert len(lines) == 18_000
    assert {len(line) for line in lines} == {90}
    assert all(len(set(line)) == 1 for line in lines)


@pytest.mark.covers("C110")
@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/api/v1/tasks/1", "GET /api/v1/tasks/1"),
        ("/a\nb\x1b[2J\u202ec", "GET /a\\nb\\x1b[2J\\u202ec"),
        ("/" + "x" * 500, "GET /" + "x" * 199 + "…"),
        (f"/reset/{JWT}", "GET /reset/***"),
        ("/x/password=hunter2", "GET /x/password=***"),
        ("/Grüße", "GET /Grüße"),
    ],
)
def test_paths_are_shown_safely(path: str, shown: str) -> None:
    assert show_target("GET", path) == shown


@pytest.mark.covers("A100", "A101")
@pytest.mark.parametrize("path", ["/plain", '/quote"back\\slash', "/new\nline", "/Grüße", "/a b"])
def test_json_access_lines_parse_and_carry_their_fields(configure: Configure, path: str) -> None:
    stream, handler = configure(form="json")
    log = access_log(handler)
    target = log.incoming(REQUEST_ID, "POST", path)
    log.completed(REQUEST_ID, target, 404, 0.0123, "192.0.2.7")
    handler.flush()
    incoming, refusal, completed = [json.loads(line) for line in stream.getvalue().splitlines()]
    shown = path.replace("\n", "\\n")
    assert incoming["message"] == f"Incoming request: POST {shown}"
    assert refusal["message"] == f"404 Not Found: {shown}"
    assert completed["message"] == f"Request completed: POST {shown} - Status: 404"
    assert {entry["request_id"] for entry in (incoming, refusal, completed)} == {REQUEST_ID}
    assert (completed["method"], completed["path"], completed["status"]) == ("POST", shown, 404)
    assert (completed["duration_ms"], completed["client"]) == (12.3, "192.0.2.7")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", completed["time"])


def test_refusals_are_as_loud_as_they_matter(configure: Configure) -> None:
    assert [refusal_level(status) for status in (404, 422, 401, 429, 500, 503)] == [20, 20, 30, 30, 40, 40]
    stream, handler = configure(level="warning")
    log = access_log(handler)
    for status in (200, 404, 401, 503):
        log.completed(REQUEST_ID, log.incoming(REQUEST_ID, "GET", "/x"), status, 0.001, "")
    texts = [line.partition(" - ")[2] for line in stream.getvalue().splitlines()]
    assert texts == [
        "WARNING - [2bcc1c11] 401 Unauthorized: /x",
        "ERROR - [2bcc1c11] 503 Service Unavailable: /x",
    ]
