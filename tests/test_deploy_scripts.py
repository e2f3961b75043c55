"""The scripts of deploy/scripts by hand: what they refuse, what they would do, and a release that is put back."""

import stat
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.edges import SCRIPTS, run_script
from tests.fixtures.server import ROOT, free_port

NAMES = ("certificates", "configure-nginx", "deploy", "internal-certificates", "roll-back", "rolling-restart")


@pytest.mark.covers("A113", "B079")
def test_they_pass_a_shell_lint() -> None:
    checker = Path(sys.executable).parent / "shellcheck"
    linted = subprocess.run([checker, "-x", *(SCRIPTS / name for name in NAMES)], capture_output=True, check=False)
    assert (linted.returncode, linted.stdout) == (0, b"")


@pytest.mark.parametrize("name", NAMES)
def test_each_explains_itself_and_refuses_in_one_line(name: str) -> None:
    explained = run_script(name, "--help")
    assert (explained.returncode, explained.stderr) == (0, "")
    assert explained.stdout.startswith(f"Usage: {name} ")
    refused = run_script(name, "--colour")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"{name}: --colour is no option; see {name} --help\n"


class Instances:
    """Servers that say whether they are ready; restarting one is a file that appears."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ready: dict[int, bool] = {}
        self._servers: list[ThreadingHTTPServer] = []

    def add(self, *, ready: bool = True) -> str:
        instances = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                port = self.server.server_address[1]
                restarted = (instances.folder / str(port)).exists()
                self.send_response(200 if instances.ready[port] or restarted else 503)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        port = server.server_address[1]
        self.ready[port] = ready
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        return str(port)

    def roll(self, *names: str, command: str = "", dry: bool = False) -> "subprocess.CompletedProcess[str]":
        words = [word for name in names for word in ("--instance", name)] + ["--timeout", "1", "--pause", "0"]
        given = command or f"echo restarts {{}}; touch {self.folder}/{{}}"
        return run_script("rolling-restart", *words, "--restart-command", given, *(["--dry-run"] if dry else []))

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def instances(tmp_path: Path) -> Iterator[Instances]:
    servers = Instances(tmp_path)
    yield servers
    servers.close()


@pytest.mark.covers("A113", "B079", "E122")
def test_a_server_is_restarted_only_while_the_others_serve(instances: Instances) -> None:
    first, second, ill = instances.add(), instances.add(), instances.add(ready=False)
    dry = instances.roll(first, second, dry=True)
    assert (dry.returncode, "restarts" in dry.stdout, list(instances.folder.iterdir())) == (0, True, [])
    rolled = instances.roll(first, second, ill)
    told = [line for line in rolled.stdout.splitlines() if line.startswith("restarts ")]
    # The one that does not serve comes first: nobody loses anything by it.
    assert (rolled.returncode, told) == (0, [f"restarts {name}" for name in (ill, first, second)])


@pytest.mark.covers("A113")
def test_it_stops_at_the_first_server_that_does_not_come_back(instances: Instances) -> None:
    dead, alive = str(free_port()), instances.add()
    stopped = instances.roll(alive, dead)
    assert stopped.returncode == 1
    assert stopped.stderr.count("\n") == 1
    assert f"instance {dead} is not ready 1 s after its restart" in stopped.stderr
    assert not (instances.folder / alive).exists()
    failed = instances.roll(alive, command="exit 3 # {}")
    assert failed.returncode == 1
    assert f"the restart of instance {alive} failed" in failed.stderr


def test_a_certificate_is_made_once_and_its_key_is_for_its_owner(tmp_path: Path) -> None:
    words = ("--self-signed", "localhost", "--directory", tmp_path / "certificates")
    assert run_script("certificates", *words).returncode == 0
    key, chain = tmp_path / "certificates/privkey.pem", tmp_path / "certificates/fullchain.pem"
    first = chain.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "still good" in run_script("certificates", *words).stdout
    assert chain.read_bytes() == first
    assert run_script("certificates", *words, "--renew").returncode == 0
    assert chain.read_bytes() != first
    real = run_script("certificates", "--real", "tasks.example.com", "--email", "a@example.com", "--dry-run")
    assert real.returncode == 0
    assert "certbot certonly --webroot" in real.stdout


def test_a_configuration_that_nginx_refuses_changes_nothing(tmp_path: Path) -> None:
    words = ("--server-name", "localhost", "--upstream", "127.0.0.1:8001", "--directory", tmp_path / "etc")
    missing = run_script("configure-nginx", *words, "--certificate", tmp_path / "none.pem")
    assert missing.returncode == 1
    assert "make a certificate first" in missing.stderr
    assert not (tmp_path / "etc").exists()
    assert run_script("configure-nginx", "--server-name", "a;b", "--upstream", "x:1").returncode == 1


VENV = """#!/bin/sh
# Makes an environment whose dependencies are those of the tests.
{python} -m venv "$3" && echo {packages} > "$3/{site}/dependencies.pth"
"""


def build(tmp_path: Path, version: str) -> Path:
    """A wheel of what is here, under another version."""
    source = tmp_path / f"source-{version}"
    source.mkdir()
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", ROOT / name, source / name], check=True)
    (source / "src/duly/__init__.py").write_text(f'"""Duly."""\n\n__version__ = "{version}"\n')
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    return tmp_path / f"duly-{version}-py3-none-any.whl"


@pytest.mark.torture
@pytest.mark.covers("A113", "B079")
def test_a_release_is_installed_beside_the_other_and_put_back(tmp_path: Path, instances: Instances) -> None:
    python = tmp_path / "python"
    paths = sysconfig.get_paths()
    site = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    python.write_text(VENV.format(python=sys.executable, packages=paths["purelib"], site=site))
    python.chmod(0o755)
    (tmp_path / "none.lock").write_text("")
    name, link = instances.add(), tmp_path / "link"
    places = ("--releases", tmp_path / "releases", "--link", link)
    run_command = f"env DATA_DIR={tmp_path} DATABASE_URL=sqlite:///{tmp_path}/duly.db"
    rest = ("--run-command", run_command, "--instance", name, "--pause", "0", "--timeout", "1")
    restarts = ("--restart-command", f"readlink {link} # {{}}")
    options = ("--python", python, "--requirements", tmp_path / "none.lock", *places, *rest)
    first, second = build(tmp_path, "9.0.0"), build(tmp_path, "9.0.1")
    dry = run_script("deploy", "--wheel", first, *options, *restarts, "--dry-run")
    assert (dry.returncode, link.exists(), (tmp_path / "releases").exists()) == (0, False, False), dry.stderr
    deployed = run_script("deploy", "--wheel", first, *options, *restarts)
    assert deployed.returncode == 0, deployed.stderr
    assert run_script("deploy", "--wheel", second, *options, *restarts).returncode == 0
    assert link.readlink().name == "9.0.1"
    back = run_script("roll-back", *places, *rest, *restarts)
    assert (back.returncode, link.readlink().name) == (0, "9.0.0"), back.stderr
    # A release that does not come up is put back by itself.
    refuses = ("--restart-command", f"readlink {link} | grep -v 9.0.1 # {{}}")
    broken = run_script("deploy", "--wheel", second, *options, *refuses)
    assert (broken.returncode, link.readlink().name) == (1, "9.0.0"), broken.stdout
    assert "9.0.1 did not become ready, and 9.0.0 runs again" in broken.stderr
