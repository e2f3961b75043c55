"""The processes of deploy/compose.yaml, by its own commands and environment; a server from each environment's template.

No container runs here: hosts and ports become this machine's, mounted secrets become files, the rest stays.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import yaml
from dotenv import dotenv_values

from duly.db.url import parse_database_url
from tests.authority import Authority
from tests.clusters import Cluster, running_cluster
from tests.edges import open_edge
from tests.fixtures.application import PASSWORD
from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import ROOT, Server, StartServer, environment, free_port

DEPLOY = ROOT / "deploy"
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
SECRETS = "/run/secrets/"
TLS = "/run/tls/"
FILLED_IN = {
    "PUBLIC_URL": "https://tasks.test", "SERVER_NAME": "tasks.test", "ALLOWED_HOSTS": "tasks.test",
    "SMTP_HOST": "127.0.0.1", "SMTP_FROM": "Duly <duly@tasks.test>", "CORS_ORIGINS": "https://app.tasks.test",
}  # fmt: skip
HOST = {"Host": "tasks.test"}


def wait_for(what: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def make_secrets(folder: Path, database_url: str | None = None) -> Path:
    """The secrets as deploy/scripts/make-secrets makes them, or with this machine's database."""
    subprocess.run([DEPLOY / "scripts" / "make-secrets", folder], check=True, capture_output=True, timeout=60)
    if database_url is not None:
        rewrite(folder / "database_url", database_url)
    return folder


def rewrite(path: Path, text: str) -> None:
    path.chmod(0o600)
    path.write_text(text)


class Stack:
    """Starts services of the compose file as processes."""

    def __init__(self, folder: Path, secrets: Path, authority: Authority) -> None:
        self.folder = folder
        self.secrets = secrets
        self.authority = authority
        self.running: list[Server] = []
        self.cluster: Cluster
        self.redis_port: int

    def environment(self, name: str, port: int) -> dict[str, str]:
        """What the container would have, read from the file and its templates."""
        template = dotenv_values(DEPLOY / "env" / "production.env")
        given = {key: FILLED_IN.get(key, value or "") for key, value in template.items()}
        for key, value in SERVICES[name]["environment"].items():
            given[key] = re.sub(r"\$\{(\w+)[^}]*\}", lambda found: FILLED_IN[found[1]], value)
        places = {
            SECRETS: f"{self.secrets}/", "/data": str(self.folder), "/backups": str(self.folder / "backups"),
            TLS: f"{self.authority.folder}/duly/",
        }  # fmt: skip
        for key, value in given.items():
            for place, here in places.items():
                if value.startswith(place):
                    given[key] = value.replace(place, here, 1)
        given |= {"HOST": "127.0.0.1", "PORT": str(port), "TRUSTED_PROXIES": "127.0.0.1"}
        given["ALLOWED_HOSTS"] += ",localhost"  # as which Prometheus knows it here
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "COVERAGE_PROCESS_CONFIG") if key in os.environ}
        return {**kept, **given}

    def command(self, name: str) -> list[str]:
        """The image's entry point is `duly`."""
        return [sys.executable, "-m", "duly", *SERVICES[name]["command"]]

    def run(self, name: str, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """A service that ends, or another command in its place."""
        command = [sys.executable, "-m", "duly", *words] if words else self.command(name)
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(name, free_port()), capture_output=True, text=True,
            timeout=60, check=False, input=given,
        )  # fmt: skip

    def start(self, name: str) -> Server:
        """A service that stays."""
        port = free_port()
        output = self.folder / f"{name}.log"
        with output.open("wb") as log:
            process = subprocess.Popen(
                self.command(name), cwd=self.folder, env=self.environment(name, port), stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.running.append(Server(process, f"https://localhost:{port}", output))
        return self.running[-1]

    def health(self, name: str, server: Server) -> int:
        """The exit code of the service's own health check."""
        test = SERVICES[name]["healthcheck"]["test"]
        words = test[1:] if test[1] == "python" else ["python", "-m", *test[1:]]
        port = int(server.base_url.rpartition(":")[2])
        return subprocess.run(
            [sys.executable, *words[1:]], cwd=self.folder, env=self.environment(name, port), capture_output=True,
            timeout=30, check=False,
        ).returncode  # fmt: skip

    def stop(self) -> None:
        for server in self.running:
            server.kill()


@contextlib.contextmanager
def shipped_postgres() -> Iterator[tuple[Cluster, Authority]]:
    """The compose file's PostgreSQL with its certificates and roles; the test itself may sign in as the superuser."""
    folder = Path(tempfile.mkdtemp(prefix="duly-postgres-"))
    try:
        authority = Authority(folder / "tls")
        authority.make()
        options = dict(word[2:].split("=") for word in SERVICES["postgres"]["command"][1:])
        given = {name: value.replace(TLS, f"{folder}/tls/postgres/") for name, value in options.items()}
        hba = "host all postgres 127.0.0.1/32 trust\n" + (DEPLOY / "postgres" / "pg_hba.conf").read_text()
        (folder / "pg_hba.conf").write_text(hba)
        with running_cluster(folder, **given | {"hba_file": f"{folder}/pg_hba.conf", "shared_buffers": "32MB"}) as one:
            for statement in (DEPLOY / "postgres" / "role.sql").read_text().split(";")[:-1]:
                one.run(statement)
            yield one, authority
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def shipped_redis(folder: Path, authority: Authority) -> Iterator[int]:
    """The compose file's Redis, and its port."""
    if shutil.which("redis-server") is None:
        skip_or_fail("Redis is needed: apt-get install redis-server")
    port = free_port()
    text = (DEPLOY / "redis" / "redis.conf").read_text().replace(TLS, f"{authority.folder}/redis/")
    (folder / "redis.conf").write_text(text.replace("tls-port 6379", f"tls-port {port}"))
    process = subprocess.Popen(
        ["redis-server", folder / "redis.conf", "--bind", "127.0.0.1"], cwd=folder, stdout=subprocess.DEVNULL
    )
    check = SERVICES["redis"]["healthcheck"]["test"][1].replace("redis-cli", f"redis-cli -p {port}")
    check = check.replace(TLS, f"{authority.folder}/redis/")
    try:
        wait_for(lambda: subprocess.run(["sh", "-c", check], capture_output=True, check=False).returncode == 0)
        yield port
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The services over an empty PostgreSQL and Redis of their own, by the secrets that the script makes."""
    folder = tmp_path_factory.mktemp("stack")
    secrets = make_secrets(tmp_path_factory.mktemp("secrets"))
    with shipped_postgres() as (cluster, authority), shipped_redis(folder, authority) as redis_port:
        for name, places in {
            "database_url": ("@postgres:5432/", f"@localhost:{cluster.port}/"),
            "redis_url": ("//redis:6379/", f"//localhost:{redis_port}/"),
        }.items():
            text = (secrets / name).read_text().strip()
            assert places[0] in text
            rewrite(secrets / name, text.replace(*places).replace(TLS, f"{authority.folder}/duly/"))
        found = Stack(folder, secrets, authority)
        found.cluster, found.redis_port = cluster, redis_port
        try:
            migrated = found.run("migrate")
            assert migrated.returncode == 0, migrated.stderr
            yield found
        finally:
            found.stop()


@pytest.mark.covers("D004", "A032")
def test_the_services_of_the_compose_file_work_together(stack: Stack) -> None:
    one, two, worker = (stack.start(name) for name in ("duly-1", "duly-2", "worker"))
    wait_for(lambda: stack.health("duly-1", one) == stack.health("duly-2", two) == 0, 60)
    assert stack.health("worker", worker) == 0, worker.log()
    words = ("create-admin", "--email", "ann@tasks.test", "--password-stdin")
    created = stack.run("duly-1", *words, given=f"{PASSWORD}\n")
    assert created.returncode == 0, created.stderr
    known = {"headers": HOST, "trust_env": False, "verify": stack.authority.client("nginx")}
    with (
        httpx.Client(base_url=f"{one.base_url}/api/v1", **known) as first,
        httpx.Client(base_url=f"{two.base_url}/api/v1", **known) as second,
    ):
        login = first.post("/auth/login", json={"email": "ann@tasks.test", "password": PASSWORD})
        assert login.status_code == 200, login.text
        signed = {"Authorization": f"Bearer {login.json()['access_token']}"}
        assert second.post("/tasks", json={"title": "One for both"}, headers=signed).status_code == 201
        assert first.get("/tasks", headers=signed).json()["total"] == 1
        assert any(limits_count_together(first, second, f"203.0.113.{turn}") for turn in range(5))
        assert first.post("/auth/logout", headers=signed).status_code < 300
        wait_for(lambda: second.get("/tasks", headers=signed).status_code == 401, 5)
        assert first.get(f"{one.base_url}/health/ready", headers={"Host": "x"}).status_code == 400, "not its name"
    through_nginx_with_its_certificate(stack, one, two)
    prometheus_asks(stack, one)
    logs = [server.log() for server in (one, two, worker)]
    assert not [log for log in logs if "NoPermission" in log], "Redis lets Duly do what it does"
    assert [server.stop() for server in (one, two, worker)] == [0, 0, 0]


def limits_count_together(first: httpx.Client, second: httpx.Client, address: str) -> bool:
    """20 logins a minute, whoever is asked. Of a Redis that a busy machine stalls, each server counts for itself."""
    nobody = {"email": "nobody@tasks.test", "password": PASSWORD}
    from_there = {"X-Forwarded-For": address}
    statuses = [
        (first, second)[turn % 2].post("/auth/login", json=nobody, headers=from_there).status_code for turn in range(22)
    ]
    return 429 not in statuses[:20] and set(statuses[20:]) == {429}


def through_nginx_with_its_certificate(stack: Stack, *servers: Server) -> None:
    """As in the compose file. It is not answered without its certificate, and asks no server of another authority."""
    ports = [int(server.base_url.rpartition(":")[2]) for server in servers]
    certificate, key = stack.authority.pair("nginx")
    shown = ("--upstream-certificate", certificate, "--upstream-key", key)
    trusted = ("--upstream-ca", stack.authority.file("nginx", "ca.crt"), "--server-name", "tasks.test")
    stranger = Authority(stack.folder / "stranger")
    stranger.make("--only", "nginx")
    betrayed = ("--upstream-ca", stranger.file("nginx", "ca.crt"), *trusted[2:])
    for number, (words, code) in enumerate(
        {trusted + shown: "NOT_AUTHENTICATED", trusted: "UNAVAILABLE", betrayed + shown: "UNAVAILABLE"}.items()
    ):
        with open_edge(stack.folder / f"edge-{number}", ports, *words) as edge, edge.client(headers=HOST) as client:
            assert client.get("/api/v1/tasks").json()["code"] == code


def prometheus_asks(stack: Stack, server: Server) -> None:
    """Prometheus as in the compose file has the figures of a server, and answers to who has a certificate alone."""
    program = shutil.which("prometheus")
    if program is None:
        skip_or_fail("Prometheus is needed: apt-get install prometheus")
    folder, port, tls = stack.folder, free_port(), f"{stack.authority.folder}/prometheus/"
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text().replace(TLS, tls).replace(": 15s", ": 1s")
    text = text.replace("duly-1:8000", server.base_url.removeprefix("https://")).replace(": 10s", ": 1s")
    text = text.replace("/etc/prometheus/secrets", str(stack.secrets)).replace("localhost:9090", f"localhost:{port}")
    (folder / "prometheus.yml").write_text(text)
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", folder)
    (folder / "web.yml").write_text((DEPLOY / "prometheus" / "web.yml").read_text().replace(TLS, tls))
    log = (folder / "prometheus.log").open("wb")
    process = subprocess.Popen(
        [str(program), f"--config.file={folder}/prometheus.yml", f"--web.config.file={folder}/web.yml",
         f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder}/series"], stdout=log, stderr=log,
    )  # fmt: skip
    address = f"https://localhost:{port}"
    grafana = httpx.Client(base_url=address, verify=stack.authority.client("grafana"), trust_env=False)
    try:

        def jobs_up() -> set[str]:
            with contextlib.suppress(httpx.TransportError, ValueError):  # until it is there
                found = grafana.get("/api/v1/query", params={"query": "up == 1"}).json()["data"]["result"]
                return {one["metric"]["job"] for one in found}
            return set()

        wait_for(lambda: jobs_up() == {"duly", "prometheus"}, 60)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{address}/-/ready", verify=stack.authority.client(None), trust_env=False)
    finally:
        grafana.close()
        process.terminate()
        process.wait(20)
        log.close()


def redis_says(stack: Stack, service: str | None, *words: str) -> str:
    """What an operator's client is answered, by a service's certificate or without one."""
    tls = ["--tls", "--cacert", stack.authority.file("redis", "ca.crt")]
    if service is not None:
        tls += ["--cert", stack.authority.file(service, "tls.crt"), "--key", stack.authority.file(service, "tls.key")]
    command = ["redis-cli", "-p", str(stack.redis_port), *tls, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout + done.stderr


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One loop for several connections: what is refused over TLS takes a moment more to close, behind the answer."""
    with asyncio.Runner() as one:
        yield one


def test_duly_may_in_postgresql_and_redis_what_it_needs_and_no_more(stack: Stack, runner: asyncio.Runner) -> None:
    def attempt(sql: str, *, database: str = "duly", service: str = "duly", query: str | None = None) -> Any:
        url = stack.authority.database_url(stack.cluster.port, service=service)
        if query is not None:
            url = f"{url.partition('?')[0]}?{query}"

        async def go() -> Any:
            arguments = {**parse_database_url(url, stack.folder).asyncpg_arguments(), "database": database}
            connection = await asyncpg.connect(**arguments, timeout=10)
            try:
                return await connection.fetchval(sql)
            finally:
                await connection.close()

        return runner.run(go())

    assert attempt("SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls FROM pg_roles "
                   "WHERE rolname = current_user") is False  # fmt: skip
    assert attempt("SELECT string_agg(datname, ',') FROM pg_database WHERE pg_has_role(datdba, 'USAGE')") == "duly"
    assert attempt("SELECT ssl AND version IN ('TLSv1.2', 'TLSv1.3') FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    for forbidden in ("CREATE DATABASE more", "CREATE ROLE more", "SELECT pg_read_file('/etc/passwd')"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            attempt(forbidden)
    unknown = asyncpg.InvalidAuthorizationSpecificationError
    for refused in (
        {"database": "postgres"},
        {"service": "nginx"},  # its certificate is good, and names no role
        {"query": "sslmode=require"},  # no certificate
        {"query": "sslmode=disable"},
    ):
        with pytest.raises(unknown):
            attempt("SELECT 1", **refused)
    assert attempt("SELECT pg_sleep(0.2) IS NOT NULL")
    assert redis_says(stack, "duly", "SET", "duly:cache:probe", "1").strip() == "OK"
    for words in (("CONFIG", "GET", "*"), ("FLUSHALL",), ("SET", "other", "1"), ("ACL", "LIST"), ("SHUTDOWN",)):
        assert "NOPERM" in redis_says(stack, "duly", *words), words
    assert "PONG" not in redis_says(stack, None, "PING")


def template(name: str, folder: Path, secrets: Path) -> dict[str, str]:
    """An environment's template as an operator fills it in; development's is right as it is."""
    given = {key: value or "" for key, value in dotenv_values(DEPLOY / "env" / f"{name}.env").items()}
    if name != "development":
        given = {key: value or FILLED_IN.get(key, "") for key, value in given.items()}
    return {key: value.replace(f"/etc/duly/{name}", str(secrets)) for key, value in given.items()} | {
        "DATA_DIR": str(folder), "ALLOWED_HOSTS": "", "AUTO_MIGRATE": "true",
    }  # fmt: skip


@pytest.mark.covers("A109", "A110", "A111", "D005", "B076")
@pytest.mark.parametrize("name", ["development", "staging", "production"])
def test_a_server_starts_from_the_template_of_an_environment(
    name: str, start_server: StartServer, tmp_path: Path
) -> None:
    secrets = make_secrets(tmp_path / "secrets", f"sqlite:///{tmp_path}/{name}.db")
    given = template(name, tmp_path, secrets)
    given.pop("PORT", None)
    server = start_server(**{key.lower(): value for key, value in given.items()})
    seen = httpx.get(f"{server.base_url}/health", trust_env=False).json()
    assert (seen["environment"], seen["checks"]["database"]["status"]) == (name, "healthy")
    if name != "development":
        assert (tmp_path / f"{name}.db").exists(), "the database that its own secret names"
        assert '{"time":' in server.log(), "JSON"
    assert server.stop() == 0


@pytest.mark.covers("A111")
def test_a_template_that_was_not_filled_in_is_refused(tmp_path: Path) -> None:
    given = {key: value or "" for key, value in dotenv_values(DEPLOY / "env" / "production.env").items()}
    done = subprocess.run(
        [sys.executable, "-m", "duly", "serve"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**environment(tmp_path), **given, "DATA_DIR": str(tmp_path)},
    )  # fmt: skip
    named = {line.removeprefix("duly: ").partition(":")[0] for line in done.stderr.splitlines()}
    assert done.returncode == 1
    assert {"SECRET_KEY_FILE", "DATABASE_URL_FILE", "PUBLIC_URL"} <= named, done.stderr


@pytest.mark.covers("A108")
def test_the_health_command_says_ready_not_ready_and_no_server(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(allowed_hosts="*.tasks.test,127.0.0.1")

    def ask(*words: str, port: str, **settings: Any) -> tuple[int, str]:
        given = environment(tmp_path, port=port, host="0.0.0.0", **settings)  # noqa: S104 - what an image is set to
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=given, capture_output=True, text=True,
                              timeout=30, check=False)  # fmt: skip
        assert (done.stdout + done.stderr).count("\n") == 1
        return done.returncode, done.stdout + done.stderr

    port = server.base_url.rpartition(":")[2]
    known = {"allowed_hosts": "*.tasks.test"}
    assert ask("-m", "duly.cli.checking", port=port, **known) == (0, f"{server.base_url} is ready.\n")
    assert ask("-m", "duly", "health", port=port, **known)[0] == 0
    assert ask("-m", "duly", "health", "--url", server.base_url, port="1")[0] == 0
    code, said = ask("-m", "duly.cli.checking", port=port, allowed_hosts="other.test")
    assert (code, "400" in said) == (1, True), "it names the host of its settings, which this server does not know"
    server.process.send_signal(signal.SIGSTOP)
    assert ask("-m", "duly.cli.checking", port=port, **known)[0] == 1
    server.process.send_signal(signal.SIGCONT)
    assert server.stop() == 0
    code, said = ask("-m", "duly.cli.checking", port=port, **known)
    assert (code, said.startswith("duly: ")) == (1, True)


def answers(server: Server) -> str | None:
    """The version that answers, if one does."""
    with contextlib.suppress(httpx.TransportError):
        return str(httpx.get(server.base_url, trust_env=False).json()["version"])
    return None


@pytest.mark.covers("A147", "D118")
def test_the_development_service_reloads_when_a_file_changes(tmp_path: Path) -> None:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["duly"]
    source = tmp_path / "app" / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    port = free_port()
    given = {key: value for key, value in service["environment"].items() if not value.startswith("$")}
    given["PYTHONPATH"] = given["PYTHONPATH"].replace("/app", str(tmp_path / "app"))
    environ = environment(tmp_path, port=port) | given
    environ.pop("COVERAGE_PROCESS_CONFIG", None)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "duly", *service["command"]], cwd=tmp_path / "app", env=environ, stdout=output,
            stderr=output, start_new_session=True,
        )  # fmt: skip
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_for(lambda: answers(server), 60)
        version = source / "duly" / "__init__.py"
        version.write_text(re.sub(r'__version__ = ".*"', '__version__ = "9.9.9"', version.read_text()))

        wait_for(lambda: answers(server) == "9.9.9", 60)
    finally:
        server.kill()
