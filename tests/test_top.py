"""`duly top`: the report says what was done; a terminal shows it live; faults are one line."""

import asyncio
import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from duly import __version__
from duly.cli.readings import Reading, Span, quantile
from tests.commands import answer, refusal, run_duly
from tests.fixtures.server import StartServer, environment, free_port

TOKEN = "0Q4mJm5pYkXw1sVYbD7cHn2eGt8RzLuA"
once = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


@once
async def test_one_report_says_what_was_done(start_server: StartServer, database_url: str, tmp_path: Path) -> None:
    server = start_server(database_url=database_url, metrics_token=TOKEN)
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        for _ in range(7):
            await client.get("/api/v1/tasks")
        for number in range(3):
            await client.get(f"/odd/{number}")
    port = server.base_url.rpartition(":")[2]
    text = answer(await run_duly(tmp_path, "top", "--once", port=port, metrics_token=TOKEN))
    lines = text.splitlines()
    assert lines[0].startswith(f"Duly {__version__} at http://127.0.0.1:{port}, 1 worker; since the start")
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in lines[lines.index("") + 2 :]}
    assert rows["GET", "/api/v1/tasks"][0] == "7"
    assert rows["GET", "unmatched"][0] == "3"
    assert float(rows["GET", "/api/v1/tasks"][3]) > 0
    begins = [line.split()[0] for line in lines[1:9]]
    assert begins == ["requests", "database", "passwords", "mails", "streams", "limits", "cache", "process"]
    assert "\x1b" not in text
    # Piped, it is one report as well; the options win over the settings.
    piped = answer(await run_duly(tmp_path, "top", "--url", server.base_url, "--token", TOKEN, "--interval", "0.2"))
    assert "the last 0." in piped.splitlines()[0]
    refused = refusal(await run_duly(tmp_path, "top", "--url", server.base_url, "--token", "wrong"))
    assert "METRICS_TOKEN" in refused
    await asyncio.to_thread(watch, tmp_path, port)


def watch(folder: Path, port: str) -> None:
    """In a terminal: it shows itself more than once, and Ctrl-C ends it with 0."""
    ours, theirs = pty.openpty()
    environ = {**environment(folder, port=port, metrics_token=TOKEN), "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, "-m", "duly", "top", "--interval", "0.3"], cwd=folder, stdin=theirs, stdout=theirs,
        stderr=theirs, env=environ, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen, deadline = "", time.monotonic() + 60
    while seen.count("requests") < 3 and time.monotonic() < deadline:
        seen += os.read(ours, 65536).decode(errors="replace")
    process.send_signal(signal.SIGINT)
    # Unread, its last lines would hold the program; the end of a terminal is an error.
    with contextlib.suppress(OSError):
        while os.read(ours, 65536) and time.monotonic() < deadline:
            pass
    os.close(ours)
    code = process.wait(20)
    assert code == 0, seen
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)
    assert plain.count("operation") >= 2
    assert "the last 0." in plain


async def test_what_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    said = refusal(await run_duly(tmp_path, "top", "--url", f"http://127.0.0.1:{free_port()}"))
    assert "cannot be read" in said
    assert "--url" in said
    assert refusal(await run_duly(tmp_path, "top", "--url", "no address"))


def reading(at: float, text: str) -> Reading:
    return Reading(at, Reading.parse(text).samples)


def test_a_counter_that_began_anew_makes_no_negative_rate() -> None:
    name = "# TYPE duly_http_requests_total counter\nduly_http_requests_total"
    labels = '{method="GET",route="/a",status="200",worker="1"}'
    before, now = reading(100.0, f"{name}{labels} 50\n"), reading(102.0, f"{name}{labels} 8\n")
    span = Span(before, now)
    assert span.rise("duly_http_requests_total") == 8
    assert span.rate("duly_http_requests_total", route="/a") == 4
    assert [row.count for row in span.operations()] == [8]


def test_quantiles_are_estimated_within_the_bucket() -> None:
    buckets = {0.1: 50.0, 0.2: 100.0, float("inf"): 100.0}
    assert quantile(buckets, 0.5) == pytest.approx(0.1)
    assert quantile(buckets, 0.75) == pytest.approx(0.15)
    assert quantile({0.1: 0.0, float("inf"): 3.0}, 0.5) == 0.1
    assert quantile({}, 0.5) is None
    assert quantile({float("inf"): 0.0}, 0.5) is None
