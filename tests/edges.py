"""nginx as it ships, in front of servers of Duly: written by our own script, with a certificate of our own."""

import contextlib
import getpass
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import ROOT, free_port

SCRIPTS = ROOT / "deploy" / "scripts"
PATHS = f"{os.environ.get('PATH', '')}:/usr/sbin"
NGINX = shutil.which("nginx", path=PATHS)
# Where nothing of the machine's own nginx is touched, and a worker without rights can write.
MAIN = "pid {folder}/nginx.pid;\n"
HTTP = "".join(f"{name}_temp_path {{folder}}/temp/{name};\n" for name in ("client_body", "proxy"))


def run_script(name: str, *words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """A script of deploy/scripts to its end."""
    kept = {name: value for name, value in os.environ.items() if name in {"HOME", "LANG"}}
    return subprocess.run(
        [SCRIPTS / name, *words], capture_output=True, text=True, check=False, timeout=600, stdin=subprocess.DEVNULL,
        env={**kept, "PATH": PATHS, **environ},
    )  # fmt: skip


@dataclass
class Edge:
    """A running nginx. Its certificate is for localhost, and clients of `client` trust that one alone."""

    folder: Path
    http_port: int
    https_port: int
    process: "subprocess.Popen[bytes]"

    @property
    def certificate(self) -> Path:
        return self.folder / "certificates" / "fullchain.pem"

    @property
    def configuration(self) -> Path:
        return self.folder / "etc" / "nginx.conf"

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.https_port}"

    @property
    def plain_url(self) -> str:
        return f"http://localhost:{self.http_port}"

    def trust(self) -> ssl.SSLContext:
        """What a client verifies with."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def client(self, source: str = "127.0.0.1", **options: Any) -> httpx.Client:
        """A client at an address of this machine."""
        transport = httpx.HTTPTransport(verify=self.trust(), local_address=source)
        return httpx.Client(base_url=self.base_url, transport=transport, **{"timeout": 60, **options})

    def raw(self, request: bytes, *, plain: bool = False, wait: float = 10, address: str = "127.0.0.1") -> bytes:
        """Everything that nginx answers until it closes, or has said nothing for so long."""
        port = self.http_port if plain else self.https_port
        with socket.create_connection((address, port), timeout=wait) as connection:
            wire = connection if plain else self.trust().wrap_socket(connection, server_hostname="localhost")
            with wire:
                with contextlib.suppress(OSError):
                    wire.sendall(request)
                answer = b""
                with contextlib.suppress(OSError):
                    while piece := wire.recv(65536):
                        answer += piece
                return answer

    def log(self) -> str:
        """Its access log so far."""
        return (self.folder / "logs" / "access.log").read_text()

    def stop(self) -> None:
        """At once."""
        self.process.terminate()
        self.process.wait(10)


def configure(folder: Path, upstreams: Sequence[int], http_port: int, https_port: int, *more: str | Path) -> None:
    """Make the certificate and write the configuration, by the shipped scripts."""
    if NGINX is None:
        skip_or_fail("nginx is needed: apt-get install nginx-light")
    for name in ("logs", "temp", "etc/duly/main.d", "etc/duly/http.d"):
        (folder / name).mkdir(parents=True)
    (folder / "etc/duly/main.d/test.conf").write_text(MAIN.format(folder=folder))
    (folder / "etc/duly/http.d/test.conf").write_text(HTTP.format(folder=folder))
    made = run_script("certificates", "--self-signed", "localhost", "--directory", folder / "certificates")
    assert made.returncode == 0, made.stderr
    places = [word for port in upstreams for word in ("--upstream", f"127.0.0.1:{port}")]
    written = run_script(
        "configure-nginx", "--server-name", "localhost", *places, "--http-port", str(http_port), "--https-port",
        str(https_port), "--certificate", folder / "certificates/fullchain.pem", "--directory", folder / "etc",
        "--logs", folder / "logs", "--user", getpass.getuser(), "--no-reload", *more,
    )  # fmt: skip
    assert written.returncode == 0, written.stderr


@contextlib.contextmanager
def open_edge(folder: Path, upstreams: Sequence[int], *options: str | Path) -> Iterator[Edge]:
    """The proxy before these ports while the block runs; `options` are more words for the script."""
    folder.mkdir()
    http_port, https_port = free_port(), free_port()
    configure(folder, upstreams, http_port, https_port, *options)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [str(NGINX), "-c", str(folder / "etc/nginx.conf"), "-g", "daemon off;"], stdout=output, stderr=output
        )
    edge = Edge(folder, http_port, https_port, process)
    try:
        deadline = time.monotonic() + 10
        while not _listens(http_port):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"nginx did not come up:\n{(folder / 'output').read_text()}")
            time.sleep(0.02)
        yield edge
    finally:
        edge.stop()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
