"""`duly top`: what a running server does, from its /metrics."""

import ssl
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import httpx
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from duly.cli.certificates import own_trust, own_url
from duly.cli.faults import stop
from duly.cli.readings import Operation, Reading, Span
from duly.settings import load_settings

FETCH_SECONDS = 5.0
DEFAULT_INTERVAL = 2.0
_BACKUP = "duly_backup_last_success_timestamp_seconds"


def top(
    url: Annotated[str | None, typer.Option(help="The server's address; default this machine and PORT.")] = None,
    token: Annotated[str | None, typer.Option(help="METRICS_TOKEN of the server; default the setting.")] = None,
    interval: Annotated[float | None, typer.Option(min=0.1, max=3600, help="Seconds between readings.")] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Print one report as text: since the start, or of one --interval.")
    ] = False,
) -> None:
    """Show a running server live: requests, latencies, database, mails, streams, memory. Ctrl-C ends it."""
    trust = None
    if url is None or token is None:
        settings = load_settings()
        url = url or own_url(settings)
        trust = own_trust(settings, url)
        token = token or (settings.metrics_token.get_secret_value() if settings.metrics_token else "")
    source = _Source(url.rstrip("/"), token, trust)
    try:
        if once or not sys.stdout.isatty():
            _print_once(source, interval)
        else:
            _show_live(source, interval or DEFAULT_INTERVAL)
    except KeyboardInterrupt:
        pass


class _Source:
    """One server's /metrics. What goes wrong is said in `fault`, in one line."""

    def __init__(self, url: str, token: str, trust: ssl.SSLContext | None = None) -> None:
        self.url = url
        self._trust = trust or True
        self.fault = ""
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def read(self) -> Reading | None:
        try:
            answer = httpx.get(f"{self.url}/metrics", headers=self._headers, timeout=FETCH_SECONDS, trust_env=False,
                               verify=self._trust)  # fmt: skip
            if answer.status_code in {401, 403}:
                self.fault = f"{self.url} asks for its METRICS_TOKEN; give --token, or set it"
            elif answer.status_code != 200:
                self.fault = f"{self.url}/metrics answered {answer.status_code}; give the address of a Duly server"
            else:
                reading = Reading.parse(answer.text)
                if reading.has("duly_build_info"):
                    self.fault = ""
                    return reading
                self.fault = f"{self.url} is no Duly server; give the address of one with --url"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OverflowError) as error:
            self.fault = f"{self.url} cannot be read ({type(error).__name__}); start the server, or give its --url"
        return None

    def first(self) -> Reading:
        reading = self.read()
        if reading is None:
            stop(self.fault)
        return reading


def _print_once(source: _Source, interval: float | None) -> None:
    before, now = None, source.first()
    if interval is not None:
        time.sleep(interval)
        before, now = now, source.first()
    span = Span(before, now)
    for line in (*_lines(source.url, span), "", *_plain_table(span)):
        print(line)


def _show_live(source: _Source, interval: float) -> None:
    console = Console()
    span = Span(None, source.first())
    with Live(_screen(console, source, span), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            reading = source.read()
            if reading is not None:
                span = Span(span.now, reading)
            live.update(_screen(console, source, span), refresh=True)


def _screen(console: Console, source: _Source, span: Span) -> Group:
    lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in _lines(source.url, span)]
    lines[0].stylize("bold")
    if source.fault:
        # It may only be restarting: what was seen last stays.
        lines.insert(0, Text(source.fault, style="bold red", no_wrap=True, overflow="ellipsis"))
    table = Table(box=None, padding=(0, 1), expand=True, header_style="bold")
    table.add_column("operation", ratio=1, no_wrap=True, overflow="ellipsis")
    for name in _COLUMNS[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    rows = span.operations()
    for row in rows[: max(1, console.height - len(lines) - 3)]:
        table.add_row(*_cells(row, span), style="red" if row.errors else None)
    return Group(*lines, Text(), table)


_COLUMNS = ("operation", "count", "per s", "5xx %", "p50 ms", "p95 ms", "p99 ms")


def _cells(row: Operation, span: Span) -> list[str]:
    rate = row.count / span.seconds
    return [f"{row.method} {row.route}", f"{row.count:.0f}", f"{rate:.1f}", f"{100 * row.errors / row.count:.1f}",
            *(_milliseconds(value) for value in row.quantiles)]  # fmt: skip


def _plain_table(span: Span) -> Iterator[str]:
    table = [list(_COLUMNS), *(_cells(row, span) for row in span.operations())]
    widths = [max(len(cells[place]) for cells in table) for place in range(len(_COLUMNS))]
    for cells in table:
        first, *others = (cell.ljust(width) if place == 0 else cell.rjust(width)
                          for place, (cell, width) in enumerate(zip(cells, widths, strict=True)))  # fmt: skip
        yield "  ".join([first, *others])


def _lines(url: str, span: Span) -> list[str]:
    """The figures above the table, each kind on a line of its own."""
    now = span.now
    since = f"the last {span.seconds:.1f} s" if span.before else f"since the start, {_age(span.seconds)} ago"
    version = now.label("duly_build_info", "version")
    requests = span.rise("duly_http_requests_total")
    hits, misses = (span.rise(f"duly_cache_{name}_total") for name in ("hits", "misses"))
    parts = [
        f"Duly {version} at {url}, {now.workers} {'worker' if now.workers == 1 else 'workers'}; {since}",
        f"requests   {requests / span.seconds:.1f}/s, errors {_share(span.errors(), requests)}, "
        f"in flight {now.total('duly_http_requests_in_flight'):.0f}",
        f"database   {_database(span)}",
        f"passwords  {now.total('duly_password_hashing_running'):.0f} hashing, "
        f"{now.total('duly_password_hashing_waiting'):.0f} waiting of {now.total('duly_password_hashing_limit'):.0f}",
        f"mails      {_mails(now)}",
        f"streams    {_streams(now)}",
        f"limits     {span.rate('duly_rate_limited_total'):.1f}/s turned away, counted "
        f"{'in Redis' if now.total('duly_rate_limits_shared') else 'in each process'}",
        f"cache      {_share(hits, hits + misses)} of {hits + misses:.0f} found",
        f"process    memory {now.total('process_resident_memory_bytes') / 2**20:.0f} MiB, "
        f"CPU {100 * span.rate('process_cpu_seconds_total'):.0f} %",
    ]
    if now.has(_BACKUP):
        last = now.total(_BACKUP)
        parts.append(f"backup     {'none yet' if not last else f'{_age(now.at - last)} ago'}")
    return parts


def _database(span: Span) -> str:
    now = span.now
    if not now.total("duly_up_database"):
        return "DOES NOT ANSWER"
    used = now.total("duly_database_pool_connections", state="in_use")
    return (
        f"{used:.0f} of {now.total('duly_database_pool_limit'):.0f} connections in use, "
        f"{now.total('duly_database_waiting'):.0f} waiting, {span.rise('duly_slow_statements_total'):.0f} slow "
        f"statements, {span.rise('duly_database_unavailable_total'):.0f} times unavailable"
    )


def _mails(now: Reading) -> str:
    if not now.has("duly_outbox_messages"):
        return "not known"
    return (
        f"{now.total('duly_outbox_messages', state='waiting'):.0f} waiting, "
        f"{now.total('duly_outbox_messages', state='dead'):.0f} dead, oldest "
        f"{_age(now.total('duly_outbox_oldest_seconds'))}; {now.total('duly_audit_unsealed'):.0f} entries unsealed"
    )


def _streams(now: Reading) -> str:
    if not now.has("duly_live_streams"):
        return "switched off"
    lag = max(now.samples["duly_feed_lag_seconds"].values())
    signals = now.samples.get("duly_signals_connected", {}).values()
    tail = "" if not signals else f", signals {'connected' if all(signals) else 'BROKEN'}"
    return f"{now.total('duly_live_streams'):.0f} open, {lag:.1f} s behind{tail}"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"


def _age(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
