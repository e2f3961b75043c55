"""What of a user's rights an outside issuer's token carries: the scopes that the issuer put into it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from duly.errors import Forbidden, InsufficientScope

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# RFC 6749 §3.3. It has no quote and no blank, so a scope can stand in a header as it is.
_SCOPE = re.compile(r"[!#-\[\]-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Scopes:
    """What an issuer's tokens need: `read` for everything, and `write` too for what changes something.

    Raises ValueError for what no scope looks like.
    """

    read: str
    write: str

    def __post_init__(self) -> None:
        if not _SCOPE.fullmatch(self.read) or not _SCOPE.fullmatch(self.write):
            raise ValueError("a scope is one word of printable ASCII, such as tasks:read (RFC 6749 §3.3)")

    def needed(self, method: str) -> tuple[str, ...]:
        """What a request with this method needs."""
        return (self.read,) if method in SAFE_METHODS or self.read == self.write else (self.read, self.write)


@dataclass(frozen=True, slots=True)
class Rights:
    """The scopes that a token has of those that it needs. One that has them all has no `Rights`: nothing is to ask."""

    scopes: Scopes
    granted: frozenset[str]
    is_understood: bool = True

    def allow(self, method: str) -> bool:
        """Whether a request with this method may go on."""
        return self.is_understood and self.granted.issuperset(self.scopes.needed(method))

    def check(self, method: str) -> None:
        """Raises `Forbidden` unless a request with this method may go on."""
        if not self.is_understood:
            raise Forbidden(
                "The access token has `authorization_details`, which this server does not know. Get one without them.",
                code="AUTHORIZATION_DETAILS_UNKNOWN",
            )
        if not self.allow(method):
            needed = " ".join(self.scopes.needed(method))
            raise InsufficientScope(f"The access token needs the scope {needed}. Get one that has it.", scope=needed)


def rights_in(payload: Mapping[str, object], scopes: Scopes | None) -> Rights | None:
    """What the claims grant: None is all that the user may do. Without `scopes` they are not looked at."""
    if scopes is None:
        return None
    # RFC 9068 §2.2.3 has `scope`, a text; some issuers write `scp` instead, and either as a list.
    claimed = payload["scope"] if "scope" in payload else payload.get("scp")
    words = claimed.split(" ") if isinstance(claimed, str) else claimed
    named = {word for word in words if isinstance(word, str)} if isinstance(words, list) else set()
    granted = frozenset(named & {scopes.read, scopes.write})
    # RFC 9396: rights finer than a scope. Who cannot read them must not take the token for more than it says.
    is_understood = payload.get("authorization_details") is None
    if is_understood and granted == {scopes.read, scopes.write}:
        return None
    return Rights(scopes, granted, is_understood)
