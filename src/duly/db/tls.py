"""How a connection to PostgreSQL is encrypted, whom it trusts, and the certificate that it shows itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from ssl import CERT_NONE, PROTOCOL_TLS_CLIENT, SSLContext, TLSVersion
from typing import Literal, get_args

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]

_HOME_ROOTS = "~/.postgresql/root.crt"
_WORDS: Mapping[str, SslMode] = {
    "disable": "disable", "false": "disable", "0": "disable", "off": "disable",
    "allow": "prefer", "prefer": "prefer",
    "require": "require", "true": "require", "1": "require", "on": "require", "no-verify": "require",
    "verify-ca": "verify-ca", "verify_ca": "verify-ca", "verify-full": "verify-full", "verify_full": "verify-full",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What the `ssl…` parameters of an address say. Files are read when a connection is made, and not before."""

    mode: SslMode = "prefer"
    rootcert: str | None = None
    cert: str | None = None
    key: str | None = None

    def argument(self) -> str | SSLContext:
        """What asyncpg takes as `ssl`. Raises ValueError when a certificate file cannot be used."""
        # As in libpq, `require` with a root certificate verifies too, only not the host's name.
        verifies = self.mode.startswith("verify") or (self.mode == "require" and self.rootcert is not None)
        if not verifies and self.cert is None:
            return self.mode
        context = SSLContext(PROTOCOL_TLS_CLIENT)
        context.minimum_version = TLSVersion.TLSv1_2
        context.check_hostname = self.mode == "verify-full"
        if verifies:
            self._trust(context)
        else:
            context.verify_mode = CERT_NONE
        if self.cert is not None and self.key is not None:
            self._show(context, self.cert, self.key)
        return context

    def _trust(self, context: SSLContext) -> None:
        chosen = self.rootcert or (_HOME_ROOTS if expand(_HOME_ROOTS).is_file() else "system")
        try:
            if chosen == "system":
                context.load_default_certs()
            else:
                context.load_verify_locations(cafile=expand(chosen))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ValueError(f"sslrootcert: cannot use {chosen} ({reason}); name a readable PEM file") from None

    def _show(self, context: SSLContext, cert: str, key: str) -> None:
        for name, path in (("sslcert", cert), ("sslkey", key)):
            try:
                with expand(path).open("rb"):
                    pass
            except OSError as error:
                raise ValueError(f"{name}: cannot read {path} ({error.strerror}); name a readable PEM file") from None
        try:
            # A password that is wanted would be asked of whoever sits at the terminal.
            context.load_cert_chain(expand(cert), expand(key), password="")
        except OSError:
            raise ValueError(f"sslcert: {cert} and the sslkey {key} are no certificate and its key, in PEM and without "
                             "a password; give two that belong together") from None  # fmt: skip


def read_tls(options: dict[str, str]) -> ClientTls:
    """Take the parameters that are about TLS out of `options`. Raises ValueError with one line."""
    modes: list[SslMode] = []
    for name in ("sslmode", "ssl"):
        word = options.pop(name, "").lower()
        if word and word not in _WORDS:
            raise ValueError(f"{name}: is none of {', '.join(get_args(SslMode))}")
        if word:
            modes.append(_WORDS[word])
    accept = options.pop("sslaccept", "accept_invalid_certs")
    if accept not in ("strict", "accept_invalid_certs"):
        raise ValueError("sslaccept: is neither strict nor accept_invalid_certs")
    rootcert, cert, key = (options.pop(name, None) or None for name in ("sslrootcert", "sslcert", "sslkey"))
    if accept == "strict" or rootcert == "system":
        modes.append("verify-full")
    if "disable" in modes and len(set(modes)) > 1:
        raise ValueError("sslmode: is disable, and another parameter asks for encryption; keep one")
    mode: SslMode = max(modes, key=get_args(SslMode).index, default="prefer")
    if (cert is None) != (key is None):
        missing, given = ("sslcert", "sslkey") if cert is None else ("sslkey", "sslcert")
        raise ValueError(f"{missing}: is missing beside {given}; name the files of a certificate and of its key")
    if cert is not None and mode in ("disable", "prefer"):
        raise ValueError("sslcert: is of no use without TLS; add sslmode=verify-full")
    return ClientTls(mode, rootcert, cert, key)


def expand(path: str) -> Path:
    """The path with its `~` replaced, where this user has a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        # A process may run as a user without a home.
        return Path(path)
