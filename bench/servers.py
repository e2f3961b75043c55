"""What every measured server offers the harness, and the two smallest: the floor and the SQL peers' shared part."""

import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import environment
from bench.failure import BenchError
from bench.processes import READY_SECONDS, ServerProcess, find_free_port
from bench.workload import PAIR_COUNT, Call, Pair, Scale, create_body, read_pairs

PEER_PACKAGES = ("uvicorn", "fastapi", "sqlalchemy", "asyncpg")
PLAIN_CALLS = {
    "R1": Call("GET", "/tasks/{id}"),
    "R2": Call("GET", "/tasks?limit=20"),
    "W1": Call("POST", "/tasks", create_body()),
}


@dataclass(frozen=True)
class Bench:
    """What a run gives each of its servers."""

    scratch: Path
    scale: Scale
    postgres: str
    duly_settings: Mapping[str, str]


class Server(ABC):
    """One server of a run, from start to stop; `label` names its row."""

    calls: Mapping[str, Call]
    checks_owner = True
    default_workers = 1
    ready_seconds = READY_SECONDS

    def __init__(self, label: str, workers: int, bench: Bench) -> None:
        self.label = label
        self.workers = workers
        self.bench = bench
        self.port = find_free_port()
        self.folder = bench.scratch / re.sub(r"\W+", "-", label)
        self.folder.mkdir()
        self.process: ServerProcess | None = None

    def turns(self, workload: str) -> Sequence[Call]:
        """What a workload asks for, one after the other."""
        return (self.calls[workload],)

    @abstractmethod
    def prepare(self) -> list[Pair]:
        """Start the server with its data in place, and return the pairs to cycle over."""

    @abstractmethod
    def describe(self) -> str:
        """Names and versions of what runs, for the report."""

    def spawn(self, command: list[str], ready: str, settings: Mapping[str, str] | None = None) -> None:
        """Start the program in the server's own folder and wait until GET `ready` answers 2xx."""
        self.process = ServerProcess(
            command, port=self.port, log=self.folder / "server.log", cwd=self.folder, env=settings or {}
        )
        self.process.wait_ready(ready, self.ready_seconds)

    def close(self) -> None:
        """End the program and remove what it leaves outside its folder."""
        if self.process is not None:
            self.process.stop()


class Floor(Server):
    """The raw ASGI function; it holds no data, so every pair is as good as another."""

    default_workers = 2
    checks_owner = False
    calls = PLAIN_CALLS

    def prepare(self) -> list[Pair]:
        options = ["--lifespan", "off", *uvicorn_options(self)]
        self.spawn([*uvicorn_command(), "bench.peers.floor:app", *options], "/")
        return [Pair(secrets.token_urlsafe(180), secrets.token_hex(16), secrets.token_hex(16))] * PAIR_COUNT

    def describe(self) -> str:
        return f"raw ASGI function, {peer_versions('uvicorn', 'uvloop', 'httptools')}"


class Postgres(Server):
    """A server with a PostgreSQL database of its own, dropped when the run ends."""

    postgres_version = ""
    has_database = False

    @property
    def database_url(self) -> str:
        name = f"duly_bench_{self.bench.scratch.name}_{self.port}".lower().replace("-", "_")
        return f"{self.bench.postgres.rstrip('/')}/{name}"

    def create_database(self) -> None:
        """Make the empty database."""
        # Noted first: an interruption may come when the database is there and this call has not returned.
        self.has_database = True
        try:
            self.run_tables("create")
        except BenchError:
            self.has_database = False
            raise

    def settle_database(self) -> str:
        """Vacuum and analyze, as autovacuum would within minutes; returns the server's version."""
        return self.run_tables("analyze").strip()

    def run_tables(self, action: str, **options: object) -> str:
        """Run bench/peers/tables.py on this server's database."""
        given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        command = [str(environment.require_peers()), "-m", "bench.peers.tables", action, self.database_url, *given]
        return environment.run_tool(command)

    def close(self) -> None:
        super().close()
        if self.has_database:
            self.run_tables("drop")


class SharedTables(Postgres):
    """The textbook and Fastify: the same tables, filled by the same statements, the same tokens."""

    default_workers = 2
    calls = PLAIN_CALLS

    def fill_database(self) -> tuple[list[Pair], dict[str, str]]:
        """Make and fill the database; returns the pairs and the program's settings."""
        secret = secrets.token_hex(32)
        scale = self.bench.scale
        self.create_database()
        lines = self.run_tables("seed", users=scale.users, tasks=scale.tasks, pairs=PAIR_COUNT, secret=secret)
        self.postgres_version = self.settle_database()
        return read_pairs(lines), {"DATABASE_URL": self.database_url, "JWT_SECRET": secret}


class Textbook(SharedTables):
    """bench/peers/textbook.py."""

    def prepare(self) -> list[Pair]:
        pairs, settings = self.fill_database()
        self.spawn([*uvicorn_command(), "bench.peers.textbook:app", *uvicorn_options(self)], "/health", settings)
        return pairs

    def describe(self) -> str:
        return f"FastAPI + SQLAlchemy ORM, {peer_versions(*PEER_PACKAGES)}, PostgreSQL {self.postgres_version}"


class Fastify(SharedTables):
    """bench/peers/fastify/server.js."""

    def prepare(self) -> list[Pair]:
        node = environment.require_fastify()
        pairs, settings = self.fill_database()
        more = {"PORT": str(self.port), "WORKERS": str(self.workers), "NODE_ENV": "production"}
        self.spawn([node, str(environment.FASTIFY / "server.js")], "/health", settings | more)
        return pairs

    def describe(self) -> str:
        listed = environment.read_json(environment.FASTIFY / "package.json")["dependencies"]
        packages = ", ".join(f"{name} {version}" for name, version in listed.items())
        node = environment.run_tool([environment.require_fastify(), "--version"]).strip()
        return f"Node {node}, {packages}, PostgreSQL {self.postgres_version}"


def uvicorn_command() -> list[str]:
    """The uvicorn of the peers' environment, finding `bench.peers` from any folder."""
    return [str(environment.require_peers()), "-m", "uvicorn", "--app-dir", str(environment.ROOT)]


def uvicorn_options(server: Server) -> list[str]:
    """Loopback, the server's port and workers, and no access log: the peers are shown at their best."""
    quiet = ["--no-access-log", "--log-level", "warning"]
    return ["--host", "127.0.0.1", "--port", str(server.port), "--workers", str(server.workers), *quiet]


def peer_versions(*packages: str) -> str:
    """`name version` of packages of the peers' environment."""
    program = "import sys; from importlib.metadata import version\nfor n in sys.argv[1:]: print(n, version(n))"
    return ", ".join(environment.run_tool([str(environment.require_peers()), "-c", program, *packages]).splitlines())
