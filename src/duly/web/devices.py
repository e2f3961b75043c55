"""What a request shows of where it comes from."""

from starlette.requests import Request

from duly.audit.events import Origin

USER_AGENT_LENGTH = 512
_SYSTEMS = (
    ("iPhone", "iPhone"), ("iPad", "iPad"), ("Android", "Android"), ("Windows", "Windows"), ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"), ("Linux", "Linux"),
)  # fmt: skip
_PROGRAMS = (
    ("Edg/", "Edge"), ("EdgA/", "Edge"), ("EdgiOS/", "Edge"), ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"), ("Firefox/", "Firefox"), ("FxiOS/", "Firefox"), ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"), ("Safari/", "Safari"),
    ("curl/", "curl"), ("python-httpx", "httpx"), ("python-requests", "requests"), ("okhttp", "okhttp"),
)  # fmt: skip


def origin_of(request: Request) -> Origin:
    """Address as the trusted proxies leave it, agent as sent, both in words that a person recognises, and the id."""
    address = request.client.host if request.client else None
    agent = request.headers.get("user-agent")
    if agent is not None:
        agent = "".join(c for c in agent if c.isprintable())[:USER_AGENT_LENGTH]
    return Origin(address, agent, _name(agent or ""), request.scope["state"]["request_id"])


def _name(agent: str) -> str | None:
    program = next((name for mark, name in _PROGRAMS if mark in agent), None)
    system = next((name for mark, name in _SYSTEMS if mark in agent), None)
    if program and system:
        return f"{program} on {system}"
    return program or system
