"""The server's own TLS as the settings have it, and how one asks that server on its own machine."""

import contextlib
import ipaddress
import ssl
from urllib.parse import urlsplit

from duly.kit.certificates import CertificateFault, CertificateFiles
from duly.settings import Settings, SettingsFault

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def certificate_files(settings: Settings) -> CertificateFiles | None:
    """Those that the server shows; None where it speaks HTTP."""
    if settings.tls_certificate is None or settings.tls_private_key is None:
        return None
    return CertificateFiles(settings.tls_certificate, settings.tls_private_key, settings.tls_client_ca)


def check_certificate(settings: Settings) -> None:
    """Raises `SettingsFault` for a certificate that cannot be shown."""
    files = certificate_files(settings)
    if files is not None:
        try:
            files.server_context()
        except CertificateFault as fault:
            raise SettingsFault([str(fault)]) from None


def own_url(settings: Settings) -> str:
    """Where the server of these settings answers on this machine."""
    host = settings.host
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:  # who listens everywhere is asked here
            host = "127.0.0.1" if address.version == 4 else "::1"
    scheme = "http" if settings.tls_certificate is None else "https"
    return f"{scheme}://[{host}]:{settings.port}" if ":" in host else f"{scheme}://{host}:{settings.port}"


def own_trust(settings: Settings, url: str) -> ssl.SSLContext | None:
    """Who asks this machine's own server knows its certificate, and shows it too; None for any other address.

    Raises `SettingsFault`.
    """
    files = certificate_files(settings)
    if files is None or urlsplit(url).hostname not in {urlsplit(own_url(settings)).hostname, *_LOOPBACK}:
        return None
    try:
        return files.own_client_context()
    except CertificateFault as fault:
        raise SettingsFault([str(fault)]) from None
