"""The certificate that Duly shows to its clients: read, tried, and read again when it was renewed."""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

log = logging.getLogger(__name__)

# Authenticated encryption with forward secrecy, as nginx has it outside; those of TLS 1.3 are all of that kind.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
LOOK_SECONDS = 1.0


class CertificateFault(ValueError):
    """One file cannot be used. `name` is the setting that names it."""

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(f"{name}: {fault}")


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files: the certificate with what leads from it to its authority, its key, and who signs clients' ones."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def server_context(self) -> ssl.SSLContext:
        """For a server, TLS 1.2 and newer. With `client_ca` only clients with a certificate of it come in.

        Raises `CertificateFault`.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        self._load(context)
        if self.client_ca is not None:
            _read("TLS_CLIENT_CA", self.client_ca)
            try:
                context.load_verify_locations(cafile=self.client_ca)
            except ssl.SSLError:
                raise CertificateFault(
                    "TLS_CLIENT_CA", f"{self.client_ca} holds no certificate; give the PEM file of an authority"
                ) from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def own_client_context(self) -> ssl.SSLContext:
        """For a client on the same machine: it believes this one certificate, and shows it as its own.

        The name in it is that for others, so it is not compared. Raises `CertificateFault`.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False
        self._load(context)
        context.load_verify_locations(cafile=self.certificate)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        _read("TLS_CERTIFICATE", self.certificate)
        _read("TLS_PRIVATE_KEY", self.key)
        try:
            # A password that is wanted would be asked of whoever sits at the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
        except OSError:
            raise CertificateFault(
                "TLS_CERTIFICATE", f"{self.certificate} and the TLS_PRIVATE_KEY {self.key} are no certificate and its "
                "key, in PEM and without a password; give two that belong together",
            ) from None  # fmt: skip


def _read(name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise CertificateFault(name, f"cannot read {path} ({error.strerror}); give a readable PEM file") from None


class RenewedContext:
    """The context of the files as they are now: who renews them has nothing to restart."""

    def __init__(self, files: CertificateFiles) -> None:
        """Raises `CertificateFault`."""
        self._files = files
        self._seen = self._look()
        self._looked_at = monotonic()
        self._context = files.server_context()

    def current(self) -> ssl.SSLContext:
        """For the next connection. What cannot be used, as when half of it is written, leaves the one before."""
        if monotonic() - self._looked_at < LOOK_SECONDS:
            return self._context
        self._looked_at = monotonic()
        found = self._look()
        if found != self._seen:
            self._seen = found
            try:
                self._context = self._files.server_context()
            except CertificateFault as fault:
                log.warning("The certificate that was loaded stays in use: %s", fault)
            else:
                log.info("The certificate was renewed")
        return self._context

    def _look(self) -> list[tuple[int, int] | None]:
        """What changes when a file is written or replaced."""
        found: list[tuple[int, int] | None] = []
        for path in (self._files.certificate, self._files.key, self._files.client_ca):
            try:
                state = path.stat() if path is not None else None
            except OSError:
                state = None
            found.append((state.st_mtime_ns, state.st_ino) if state is not None else None)
        return found
