"""Duly as it ships, on SQLite and on PostgreSQL, reached through its public API alone."""

import json
import random
import secrets
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from bench import environment
from bench.client import Client
from bench.failure import BenchError
from bench.progress import Progress
from bench.servers import Postgres, Server
from bench.workload import PAIR_COUNT, Call, Pair, create_body, task_fields

API = "/api/v1"
SEED_CONNECTIONS = 16
ACCESS_TOKEN_MINUTES = 240
CALLS = {
    "R1": Call("GET", f"{API}/tasks/{{id}}"),
    "R2": Call("GET", f"{API}/tasks?limit=20"),
    "W1": Call("POST", f"{API}/tasks", create_body()),
}
# What people do with a task list, for ten requests: they read it, open a task, and write now and then.
MIX = ("R2", "R1", "R2", "W1", "R2", "R1", "R2", "R1", "R2", "W1")
VERSIONS = """
import platform
from importlib.metadata import PackageNotFoundError, version
try:
    duly = version("duly")
except PackageNotFoundError:
    duly = "(not installed)"
print("Duly", duly, "on Python", platform.python_version())
"""


@dataclass(frozen=True)
class Account:
    """A registered user of a measured Duly."""

    email: str
    password: str
    user_id: str
    token: str


class Duly(Server):
    """`python -m duly serve` with the settings of a production start, rate limits off."""

    calls = CALLS
    accounts: list[Account]
    wrapper: Sequence[str] = ()
    """The words of a command that runs it in its turn, such as a tool that counts instructions."""

    @cached_property
    def secret(self) -> str:
        """The key of this server, for each of its starts."""
        return secrets.token_urlsafe(48)

    def settings(self) -> dict[str, str]:
        """The environment Duly is started with; `--duly-env` has the last word."""
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        return {
            "ENVIRONMENT": "production",
            "DATA_DIR": str(data),
            "SECRET_KEY": self.secret,
            "PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "RATE_LIMIT_REGISTER": "1000000/hour",
            "RATE_LIMIT_LOGIN": "1000000/hour",  # everybody comes from one address here; users are counted as they ship
            "ACCESS_TOKEN_MINUTES": str(ACCESS_TOKEN_MINUTES),
            "WEB_CONCURRENCY": str(self.workers),
        }

    def turns(self, workload: str) -> Sequence[Call]:
        if workload == "mixed":
            return [self.calls[name] for name in MIX]
        if workload == "login":
            body = {"email": self.accounts[-1].email, "password": self.accounts[-1].password}
            return [Call("POST", f"{API}/auth/login", json.dumps(body))]
        return super().turns(workload)

    def start(self) -> None:
        """Start it on the data that is there, and wait until it is ready."""
        python = environment.require_file(environment.DULY_PYTHON, "install Duly first (see the README)")
        command = [*self.wrapper, str(python), "-m", "duly", "serve", "--port", str(self.port)]
        self.spawn(command, "/health/ready", self.settings() | dict(self.bench.duly_settings))

    def prepare(self) -> list[Pair]:
        self.start()
        self.accounts = self.register_users()
        return self.create_tasks()

    def describe(self) -> str:
        version = environment.run_tool([str(environment.DULY_PYTHON), "-c", VERSIONS]).strip()
        return f"{version}, commit {environment.read_commit()}"

    def register_users(self) -> list[Account]:
        """Sign the users up, one after the other: hashing their passwords already fills the machine."""
        progress = Progress(f"{self.label}: users", self.bench.scale.users)
        accounts = []
        with Client(self.port) as client:
            for number in range(self.bench.scale.users):
                email, password = f"user{number}@example.com", secrets.token_urlsafe(18)
                body = {"email": email, "password": password}
                answer = client.expect("POST", f"{API}/auth/register", body=body)
                accounts.append(Account(email, password, answer["user"]["id"], answer["access_token"]))
                progress.advance()
        return accounts

    def create_tasks(self) -> list[Pair]:
        """POST every task, so that the harness knows no table of Duly's; returns a random sample of pairs."""
        total = self.bench.scale.users * self.bench.scale.tasks
        progress = Progress(f"{self.label}: tasks", total)
        # Users take turns, as they do when they write at the same time: no user's rows lie side by side.
        jobs = iter(range(total))
        lock = threading.Lock()
        pairs: list[Pair] = []

        def work() -> None:
            with Client(self.port) as client:
                while True:
                    with lock:
                        number = next(jobs, None)
                    if number is None:
                        return
                    account = self.accounts[number % len(self.accounts)]
                    body = json.dumps(task_fields(number))
                    answer = client.expect("POST", f"{API}/tasks", token=account.token, body=body)
                    pairs.append(Pair(account.token, answer["id"], account.user_id))
                    progress.advance()

        with ThreadPoolExecutor(SEED_CONNECTIONS) as pool:
            workers = [pool.submit(work) for _ in range(SEED_CONNECTIONS)]
            for worker in workers:
                worker.result()
        if len(pairs) != total:
            raise BenchError(f"{len(pairs)} of {total} tasks were created")
        return random.sample(pairs, min(PAIR_COUNT, total))


class DulySqlite(Duly):
    """One worker: a SQLite file has one writer."""


class DulyPostgres(Duly, Postgres):
    """Two workers on a database of its own."""

    default_workers = 2

    def settings(self) -> dict[str, str]:
        return super().settings() | {"DATABASE_URL": self.database_url}

    def start(self) -> None:
        if not self.has_database:
            self.create_database()
        super().start()

    def prepare(self) -> list[Pair]:
        pairs = super().prepare()
        self.postgres_version = self.settle_database()
        return pairs

    def describe(self) -> str:
        return f"{super().describe()}, PostgreSQL {self.postgres_version}"
