"""The documentation pages, served by Duly itself: no CDN, no inline script, nothing fetched from outside."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from duly.web.headers import DOCS_CSP

_OWN = files("duly.web") / "assets"
_THEIRS = files("fastapi_standalone_docs") / "static"
Files = Mapping[str, tuple[Traversable, str]]
_FILES: Files = {
    "swagger-ui-bundle.js": (_THEIRS / "swagger" / "swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "swagger-ui.css": (_THEIRS / "swagger" / "swagger-ui.css", "text/css; charset=utf-8"),
    "redoc.standalone.js": (_THEIRS / "redoc" / "redoc.standalone.js", "text/javascript; charset=utf-8"),
    "redoc-logo.svg": (_THEIRS / "redoc" / "logo-mini.svg", "image/svg+xml"),
    "swagger.js": (_OWN / "swagger.js", "text/javascript; charset=utf-8"),
    "redoc.js": (_OWN / "redoc.js", "text/javascript; charset=utf-8"),
    "oauth2-redirect.js": (_OWN / "oauth2-redirect.js", "text/javascript; charset=utf-8"),
    "page.css": (_OWN / "page.css", "text/css; charset=utf-8"),
    "favicon.svg": (_OWN / "favicon.svg", "image/svg+xml"),
}
_FOREVER = "public, max-age=31536000, immutable"
_CHECKED = "public, no-cache"

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" type="image/svg+xml" href="{favicon.svg}">
<link rel="stylesheet" href="{page.css}">
"""
_SWAGGER = (
    _HEAD
    + """<link rel="stylesheet" href="{swagger-ui.css}">
</head>
<body>
<div id="swagger-ui" data-openapi-url="{openapi}" data-redirect-url="{redirect}"></div>
<noscript>This page needs JavaScript. The same document is at {openapi}.</noscript>
<script src="{swagger-ui-bundle.js}"></script>
<script src="{swagger.js}"></script>
</body>
</html>
"""
)
_REDOC = (
    _HEAD
    + """</head>
<body>
<div id="redoc" data-openapi-url="{openapi}"></div>
<noscript>This page needs JavaScript. The same document is at {openapi}.</noscript>
<script src="{redoc.standalone.js}"></script>
<script src="{redoc.js}"></script>
</body>
</html>
"""
)
_REDIRECT = (
    _HEAD
    + """</head>
<body>
<script src="{oauth2-redirect.js}"></script>
</body>
</html>
"""
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent: read and compressed once, because the largest take 50 ms to compress."""

    body: bytes
    zipped: bytes
    media_type: str
    version: str


class Assets:
    """The files behind some pages, served below the path `place`; each is read at its first use."""

    def __init__(self, place: str, known: Files) -> None:
        self._place = place
        self._known = known
        self._loaded: dict[str, Asset] = {}

    async def find(self, name: str) -> Asset:
        """Raises HTTPException 404 for a name that is none of ours."""
        asset = self._loaded.get(name)
        if asset is None:
            if name not in self._known:
                raise HTTPException(404)
            asset = self._loaded[name] = await asyncio.to_thread(_load, *self._known[name])
        return asset

    async def addresses(self, prefix: str) -> dict[str, str]:
        """From file name to address; the version in it changes with the content, so that browsers may keep the file."""
        return {name: f"{prefix}{self._place}/{name}?v={(await self.find(name)).version}" for name in self._known}

    def route(self) -> Route:
        """The route at which the files are had."""

        async def send_asset(request: Request) -> Response:
            return await self.send(request, request.path_params["name"])

        return Route(f"{self._place}/{{name}}", send_asset, include_in_schema=False)

    async def send(self, request: Request, name: str) -> Response:
        """One file, compressed for those who take it, and 304 for those who have it."""
        asset = await self.find(name)
        zips = "gzip" in request.headers.get("accept-encoding", "")
        etag = f'"{asset.version}{"-gzip" if zips else ""}"'
        headers = {
            "cache-control": _FOREVER if request.query_params.get("v") == asset.version else _CHECKED,
            "etag": etag,
            "vary": "Accept-Encoding",
        }
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if zips:
            headers["content-encoding"] = "gzip"
        return Response(asset.zipped if zips else asset.body, headers=headers, media_type=asset.media_type)


def _load(path: Traversable, media_type: str) -> Asset:
    body = path.read_bytes()
    return Asset(body, gzip.compress(body, 6, mtime=0), media_type, sha256(body).hexdigest()[:16])


def prefix_of(request: Request) -> str:
    """What a proxy has stripped from the path, and addresses in a page must begin with (ASGI `root_path`)."""
    prefix: str = request.scope.get("root_path", "")
    return prefix.rstrip("/")


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with each `{name}` replaced by its value, escaped."""
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", escape(value))
    return template


def docs_routes(openapi_url: str, title: str) -> list[Route]:
    """Routes for /docs, /redoc, /docs/oauth2-redirect and their files under /docs/assets/.

    The pages bring their own Content-Security-Policy. Addresses in them begin with the ASGI `root_path`.
    """
    assets = Assets("/docs/assets", _FILES)

    def page(template: str, heading: str, opener: str) -> Callable[[Request], Awaitable[Response]]:
        async def show(request: Request) -> Response:
            prefix = prefix_of(request)
            values = await assets.addresses(prefix)
            values |= {"title": heading, "openapi": prefix + openapi_url, "redirect": f"{prefix}/docs/oauth2-redirect"}
            headers = {
                "content-security-policy": DOCS_CSP.decode("ascii"),
                "cross-origin-opener-policy": opener,
                "cache-control": "no-cache",
            }
            return HTMLResponse(fill(template, values), headers=headers)

        return show

    async def send_logo(request: Request) -> Response:
        return await assets.send(request, "redoc-logo.svg")

    # A login window comes back from another origin: stricter opener policies would cut it off from the page.
    swagger = page(_SWAGGER, f"{title} · Swagger UI", "same-origin-allow-popups")
    redirect = page(_REDIRECT, f"{title} · login", "unsafe-none")
    redoc = page(_REDOC, f"{title} · ReDoc", "same-origin")
    return [
        Route("/docs", swagger, include_in_schema=False),
        Route("/docs/oauth2-redirect", redirect, include_in_schema=False),
        assets.route(),
        Route("/redoc", redoc, include_in_schema=False),
        Route("/redoc/logo-mini.svg", send_logo, include_in_schema=False),  # the bundle asks for it by this address
    ]
