"""`duly health`: asks a running server whether it is ready, as the health check of a container does.

`python -m duly.cli.checking` is the same without loading the other commands, for who asks every few seconds.
"""

import http.client
import ssl
import sys
from urllib.parse import urlsplit

from duly.cli.certificates import own_trust, own_url
from duly.cli.faults import stop
from duly.settings import Settings, SettingsFault, load_settings

SECONDS = 4.0
PATH = "/health/ready"


def health(url: str | None = None) -> None:
    """Ask the server of these settings, or the one at --url, whether it is ready; exit code 0 or 1, and one line."""
    settings = load_settings()
    address = url or own_url(settings)
    fault = ask(address, _host_header(settings) if url is None else None, trust=own_trust(settings, address))
    if fault is not None:
        stop(f"{address} is not ready: {fault}")
    print(f"{address} is ready.")


def _host_header(settings: Settings) -> str | None:
    """With `ALLOWED_HOSTS` the server answers to those names alone."""
    return next((host.replace("*", "www", 1) for host in settings.allowed_hosts if host != "*"), None)


def ask(
    url: str, host: str | None = None, seconds: float = SECONDS, *, trust: ssl.SSLContext | None = None
) -> str | None:
    """None when the address, without a path its readiness, answers 200 within `seconds`; else what it said.

    Certificates are verified by `trust`, or by the system's authorities.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return "that is no address; give one such as http://127.0.0.1:8000"
    connection: http.client.HTTPConnection
    try:
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=seconds, context=trust)
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=seconds)
    except ValueError:
        return "that is no address; give one such as http://127.0.0.1:8000"
    try:
        connection.request("GET", parts.path.rstrip("/") or PATH, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        said = answer.read(200).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return f"{str(error) or type(error).__name__}; start the server, or give its address with --url"
    finally:
        connection.close()
    return None if answer.status == http.client.OK else f"{answer.status} {' '.join(said.split())}"


if __name__ == "__main__":
    try:
        health(*sys.argv[1:2])
    except SettingsFault as fault:
        stop(*fault.faults)
