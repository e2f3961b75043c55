"""Certificates for the inside, made by the shipped script; whoever asks a server behind them needs one too."""

import getpass
import grp
import os
import pwd
import ssl
from pathlib import Path

from tests.edges import run_script

OURS = f"{getpass.getuser()}:{grp.getgrgid(os.getgid()).gr_name}"


class Authority:
    """What `internal-certificates` makes, for processes of this machine under the user who runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, *words: str) -> str:
        """Run the script; what it says. PostgreSQL runs as somebody else when root runs the tests."""
        owners = {"postgres": OURS, "redis": OURS, "duly": OURS, "nginx": OURS, "prometheus": OURS, "grafana": OURS}
        if os.geteuid() == 0:
            owners["postgres"] = f"postgres:{grp.getgrgid(pwd.getpwnam('postgres').pw_gid).gr_name}"
            self.folder.mkdir(parents=True, exist_ok=True)
        given = [word for service, owner in owners.items() for word in ("--owner", f"{service}={owner}")]
        done = run_script("internal-certificates", "--directory", self.folder, *given, *words)
        assert done.returncode == 0, done.stderr
        self.folder.chmod(0o755)
        return done.stdout

    def file(self, service: str, name: str) -> Path:
        """`tls.crt`, `tls.key` or `ca.crt` of a service."""
        return self.folder / service / name

    def pair(self, service: str) -> tuple[Path, Path]:
        """A certificate and its key."""
        return self.file(service, "tls.crt"), self.file(service, "tls.key")

    def client(self, service: str | None) -> ssl.SSLContext:
        """What a service asks with; None: somebody who knows the authority and has no certificate."""
        context = ssl.create_default_context(cafile=str(self.folder / "authority" / "ca.crt"))
        if service is not None:
            context.load_cert_chain(*self.pair(service))
        return context

    def server_settings(self, *, clients: bool = True) -> dict[str, Path]:
        """For `duly serve`."""
        certificate, key = self.pair("duly")
        given = {"tls_certificate": certificate, "tls_private_key": key}
        return {**given, "tls_client_ca": self.file("duly", "ca.crt")} if clients else given

    def database_url(self, port: int, *, service: str = "duly", role: str = "duly") -> str:
        """The address that make-secrets writes, on this machine."""
        certificate, key = self.pair(service)
        tls = f"sslmode=verify-full&sslrootcert={self.file('duly', 'ca.crt')}&sslcert={certificate}&sslkey={key}"
        return f"postgresql://{role}@localhost:{port}/duly?{tls}"

    def redis_url(self, port: int, service: str = "duly") -> str:
        """The same for Redis."""
        certificate, key = self.pair(service)
        files = f"ssl_ca_certs={self.file('duly', 'ca.crt')}&ssl_certfile={certificate}&ssl_keyfile={key}"
        return f"rediss://localhost:{port}/0?{files}"
