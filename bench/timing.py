"""Whether an answer's time tells if an address is known: `python -m bench.timing`, a table of AUC by mail server state.

AUC is the chance that a known address took longer than an unknown one (Mann-Whitney, ties half): 0.5 tells nothing.
The server is `duly serve` on loopback with a database of its own; known and unknown come in random order, one
request at a time, over one connection. No name is tried more than four times, so that no lock is measured.
"""

import argparse
import contextlib
import http.client
import json
import math
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.client import Client
from bench.environment import DULY_PYTHON, ROOT
from bench.failure import BenchError
from bench.mail_sink import STATES
from bench.processes import ServerProcess, find_free_port
from bench.progress import Progress

API = "/api/v1/auth"
PASSWORD = "tangerine-orbit-92"
WRONG = "another-garden-55"
# Each state asks for mails to every known name at most twice of a kind: three in an hour are the limit.
USES = 2
LEAST, MOST = 0.44, 0.56


@dataclass(frozen=True)
class Call:
    """One kind of request; `status` answers known and unknown alike. One that `teaches` makes an unknown name known."""

    path: str
    status: int
    fields: dict[str, str]
    teaches: bool = False


CALLS = {
    "login": Call("login", 401, {"password": WRONG}),
    "forgot-password": Call("forgot-password", 202, {}),
    "register": Call("register", 202, {"password": PASSWORD}, teaches=True),
    "resend-verification": Call("resend-verification", 202, {}),
}


@dataclass(frozen=True)
class Row:
    """The two samples of one kind of request in one state, in seconds."""

    call: str
    state: str
    known: Sequence[float]
    unknown: Sequence[float]

    @property
    def auc(self) -> float:
        """Mann-Whitney's U over the number of pairs."""
        wins = sum((a > b) + (a == b) / 2 for a in self.known for b in self.unknown)
        return wins / (len(self.known) * len(self.unknown))


class Site:
    """A Duly on a database that outlives its processes, with known names; each state has its own."""

    def __init__(self, folder: Path, names: int, database_url: str | None) -> None:
        self._folder = folder
        self._database = {"DATABASE_URL": database_url} if database_url else {}
        self._secret = secrets.token_urlsafe(48)
        self.known = {state: [_address("known") for _ in range(names)] for state in STATES}

    @contextlib.contextmanager
    def running(self, registration: str, mail_port: int) -> Iterator[int]:
        """`duly serve`, ready on the port that is given."""
        port = find_free_port()
        settings = {
            "DATA_DIR": str(self._folder), "SECRET_KEY": self._secret, "REGISTRATION": registration,
            "RATE_LIMIT_ENABLED": "false", "LOG_LEVEL": "error", "PUBLIC_URL": "https://duly.example",
            "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(mail_port), "SMTP_SECURITY": "none",
            "SMTP_FROM": "Duly <tasks@example.com>", **self._database,
        }  # fmt: skip
        command = [str(DULY_PYTHON), "-m", "duly", "serve", "--port", str(port)]
        process = ServerProcess(command, port=port, log=self._folder / "server.log", cwd=self._folder, env=settings)
        try:
            process.wait_ready("/health/ready")
            yield port
        finally:
            process.stop()

    def register(self) -> None:
        """Every known name, each with an account that is not verified."""
        progress = Progress("known names", sum(map(len, self.known.values())))
        with mail_server("ok") as mail_port, self.running("open", mail_port) as port, Client(port) as client:
            for address in (name for names in self.known.values() for name in names):
                client.expect("POST", f"{API}/register", body={"email": address, "password": PASSWORD})
                progress.advance()


def _address(kind: str) -> str:
    # Equally long and equally random, whether known or not.
    return f"{secrets.token_hex(8)}@{kind[:1]}.example.com"


@contextlib.contextmanager
def mail_server(state: str) -> Iterator[int]:
    """A mail server in a process of its own, so that it does not slow down the clock of the client."""
    port = find_free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "mail.log"
        command = [sys.executable, "-m", "bench.mail_sink", str(port), state]
        process = ServerProcess(command, port=port, log=log, cwd=ROOT, env={})
        try:
            time.sleep(0.5)
            process.require_alive()
            yield port
        finally:
            process.stop()


def measure(port: int, name: str, known: Sequence[str], count: int) -> tuple[list[float], list[float]]:
    """Seconds of each request, for known and for unknown addresses in random order."""
    call = CALLS[name]
    strangers = [_address("unknown") for _ in range(count if call.teaches else len(known))]
    jobs = [(kind, names[i % len(names)]) for kind, names in enumerate((known, strangers)) for i in range(count)]
    random.shuffle(jobs)
    samples: tuple[list[float], list[float]] = ([], [])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.connect()
    for number, (kind, address) in enumerate([(-1, _address("unknown")) for _ in range(20)] + jobs):
        body = json.dumps({"email": address, **call.fields})
        begun = time.perf_counter()
        connection.request("POST", f"{API}/{call.path}", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        seconds = time.perf_counter() - begun
        if answer.status != call.status:
            raise BenchError(f"{call.path} answered {answer.status} at request {number}")
        if kind >= 0:
            samples[kind].append(seconds)
    connection.close()
    return samples


def run(site: Site, states: Sequence[str], calls: Sequence[str], count: int) -> Iterator[Row]:
    """Each state in turn, with a server of its own start."""
    for state in states:
        with mail_server(state) as mail_port, site.running("verified", mail_port) as port:
            for call in calls:
                print(f"{call}, mail server {state} …", file=sys.stderr)
                yield Row(call, state, *measure(port, call, site.known[state], count))


def report(rows: Sequence[Row]) -> str:
    """A markdown table."""
    lines = [
        "| request | mail server | n | known, median ms | unknown, median ms | AUC | |",
        "|---|---|---|---|---|---|---|",
    ]
    median: Callable[[Sequence[float]], str] = lambda sample: f"{statistics.median(sample) * 1000:.2f}"  # noqa: E731
    for row in rows:
        verdict = "" if LEAST <= row.auc <= MOST else "**told apart**"
        lines.append(f"| {row.call} | {row.state} | {len(row.known)} + {len(row.unknown)} | {median(row.known)} "
                     f"| {median(row.unknown)} | {row.auc:.3f} | {verdict} |")  # fmt: skip
    return "\n".join(lines)


def main() -> int:
    """Exit code 1 when a row is outside of the bounds."""
    parser = argparse.ArgumentParser(prog="python -m bench.timing", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=400, help="requests of each kind, known and unknown")
    parser.add_argument("--database-url", help="an empty database; default a SQLite file of its own")
    parser.add_argument("--only", help="requests, by commas")
    parser.add_argument("--states", help="states of the mail server, by commas")
    given = parser.parse_args()
    calls = given.only.split(",") if given.only else list(CALLS)
    states = given.states.split(",") if given.states else list(STATES)
    with tempfile.TemporaryDirectory(prefix="duly-timing-") as folder:
        site = Site(Path(folder), math.ceil(given.count / USES), given.database_url)
        site.register()
        rows = list(run(site, states, calls, given.count))
    print(report(rows))
    return 0 if all(LEAST <= row.auc <= MOST for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
