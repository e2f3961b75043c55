"""Cross-origin rules also for what the door answers itself, so that a browser's program can read every refusal."""

from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware

from duly.web.headers import RawPair


class CrossOrigin(CORSMiddleware):
    """Starlette's rules, for a response that did not come through its middleware."""

    def headers_for(self, scope: MutableMapping[str, Any]) -> list[RawPair]:
        """What the rules add to an answer to this request; nothing when it comes from no other origin."""
        origin = Headers(scope=scope).get("origin")
        if origin is None:
            return []
        headers = MutableHeaders(raw=[])
        headers.update(self.simple_headers)
        if not self.allow_all_origins and self.is_allowed_origin(origin=origin):
            self.allow_explicit_origin(headers, origin)
        return headers.raw
