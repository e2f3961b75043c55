"""If-Match and If-None-Match (RFC 9110 §13) over integer versions."""

import re

from starlette.requests import Request

from duly.errors import Malformed, PreconditionFailed
from duly.web.replies import etag

# RFC 9110 §8.8.3: printable and without a quote; a comma between the quotes is part of the tag.
_TAG = re.compile(r'[ \t]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|$)')
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
# No row has this version: a tag that is not ours is stale, whatever the row is.
NEVER = -1


def expected_version(request: Request, in_body: int | None = None) -> int | None:
    """The version that `If-Match` or the body's `version` asks for; None asks for nothing.

    Raises `Malformed` for a header that is no list of entity tags, `PreconditionFailed` when header and body differ.
    """
    lines = request.headers.getlist("if-match")
    header = ",".join(lines)
    if not lines or header.strip() == "*":
        return in_body
    versions = {int(tag) for tag in _strong_tags(header) if _VERSION.fullmatch(tag)}
    if len(versions) > 1:
        raise Malformed("If-Match names more than one version. Send the one ETag that you read.")
    wanted = min(versions, default=NEVER)
    if in_body is not None and in_body != wanted:
        raise PreconditionFailed("If-Match and the body's version differ. Send the one that you read.")
    return wanted


def is_unmodified(request: Request, version: int) -> bool:
    """Whether `If-None-Match` names this version, so that 304 answers."""
    for name, value in request.scope["headers"]:
        if name == b"if-none-match":
            text = value.strip()
            if text == b"*" or etag(version) in (part.strip().removeprefix(b"W/") for part in text.split(b",")):
                return True
    return False


def _strong_tags(header: str) -> list[str]:
    """What stands between the quotes; If-Match compares strongly, so a weak tag matches nothing and is left out."""
    tags, place = [], 0
    while place < len(header) or not place:
        found = _TAG.match(header, place)
        if found is None:
            raise Malformed('If-Match is not an entity tag. Send the ETag as it came, such as "3".')
        if found[1] is None:
            tags.append(found[2])
        place = found.end()
    return tags
