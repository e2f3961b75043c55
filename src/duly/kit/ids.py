"""Identifiers that Duly mints."""

import uuid_utils


def new_id() -> str:
    """A UUIDv7 (RFC 9562 §5.7) as 36 characters: later ids sort after earlier ones."""
    return str(uuid_utils.uuid7())


def new_request_id() -> str:
    """A UUIDv4 (RFC 9562 §5.4) as 36 lower-case characters, at a sixth of the standard library's price."""
    return str(uuid_utils.uuid4())
