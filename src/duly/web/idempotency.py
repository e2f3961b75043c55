"""Idempotency-Key: the effect and its answer are one transaction, so a retry gets the first answer again."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import orjson
from sqlalchemy import Column, Integer, Text, bindparam, select, update
from sqlmodel import Field
from starlette.requests import Request
from starlette.responses import Response

from duly.db.functions import insert_on_conflict
from duly.db.statements import Statement
from duly.db.tables import Base
from duly.db.types import Instant, ordered_text
from duly.db.unit import Unit
from duly.errors import Conflict, FieldFault, Invalid
from duly.identity.principals import Principal
from duly.identity.tables import user_reference
from duly.kit.clock import now
from duly.kit.secrets import encode_bytes
from duly.web.raw_headers import find_header
from duly.web.replies import Document

LIFE = timedelta(hours=24)
MAX_LENGTH = 255
HEADER = b"idempotency-key"
REPLAYED = (b"idempotency-replayed", b"true")


class IdempotencyKey(Base, table=True):
    """One used key of one user, with the answer that it got."""

    __tablename__ = "idempotency_keys"

    user_id: str = Field(sa_column=user_reference(primary_key=True))
    key: str = Field(sa_column=Column(ordered_text(MAX_LENGTH), primary_key=True))
    request_hash: str = Field(sa_column=Column(ordered_text(43), nullable=False))
    created_at: datetime = Field(sa_column=Column(Instant, nullable=False, index=True))
    status: int | None = Field(default=None, sa_column=Column(Integer))
    headers: str | None = Field(default=None, sa_column=Column(Text))
    body: str | None = Field(default=None, sa_column=Column(Text))


_keys = IdempotencyKey.__table__  # type: ignore[attr-defined]
_own = (_keys.c.user_id == bindparam("user_id"), _keys.c.key == bindparam("key"))

# Concurrent uses of one key wait here for the first one's commit. An expired key is taken over.
_CLAIM = Statement(
    insert_on_conflict(_keys)
    .values({name: bindparam(name) for name in ("user_id", "key", "request_hash", "created_at")})
    .on_conflict_do_update(
        index_elements=[_keys.c.user_id, _keys.c.key],
        set_={
            "request_hash": bindparam("request_hash"),
            "created_at": bindparam("created_at", type_=Instant()),
            "status": None,
            "headers": None,
            "body": None,
        },
        where=_keys.c.created_at < bindparam("expired", type_=Instant()),
    )
    .returning(_keys.c.key)
)

_FIND = Statement(select(_keys.c.request_hash, _keys.c.status, _keys.c.headers, _keys.c.body).where(*_own))

_KEEP = Statement(
    update(_keys).where(*_own).values(status=bindparam("status"), headers=bindparam("headers"), body=bindparam("body"))
)


def read_key(request: Request) -> str | None:
    """The header's value. Raises `Invalid` unless it is 1 to 255 printable ASCII characters."""
    key = find_header(request.scope, HEADER)
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_LENGTH or not (key.isascii() and key.isprintable()):
        fault = FieldFault("header.Idempotency-Key", f"Send 1 to {MAX_LENGTH} printable ASCII characters.", "bad_key")
        raise Invalid("The Idempotency-Key cannot be used.", faults=[fault])
    return key


async def answer_once(
    request: Request,
    unit: Unit,
    actor: Principal,
    effect: Callable[[], Awaitable[Response]],
    *,
    digest: str | None = None,
) -> Response:
    """Run `effect` unless this key already had an answer; errors are not kept, so a retry may succeed.

    `digest` stands for a body that was streamed and is not in memory any more.

    Raises `Invalid` (`IDEMPOTENCY_KEY_REUSED`) for another request under the same key, `Conflict` while the first one
    runs.
    """
    key = read_key(request)
    if key is None:
        return await effect()
    hashed = await _hash_request(request, digest)
    moment = now()
    claimed = await unit.first(
        _CLAIM, user_id=actor.user_id, key=key, request_hash=hashed, created_at=moment, expired=moment - LIFE
    )
    if claimed is None:
        return await _replay(unit, actor, key, hashed)
    response = await effect()
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in response.raw_headers]
    kept = [pair for pair in headers if pair[0] not in {"content-length", "content-type"}]
    await unit.fetch(
        _KEEP,
        user_id=actor.user_id,
        key=key,
        status=response.status_code,
        headers=orjson.dumps(kept).decode(),
        body=bytes(response.body).decode(),
    )
    return response


async def _replay(unit: Unit, actor: Principal, key: str, hashed: str) -> Response:
    row = await unit.first(_FIND, user_id=actor.user_id, key=key)
    if row is None or row[1] is None:
        raise Conflict("The first request with this Idempotency-Key still runs. Wait and send it again.",
                       code="IDEMPOTENCY_IN_PROGRESS")  # fmt: skip
    stored_hash, status, headers, body = row
    if not hmac.compare_digest(stored_hash, hashed):
        raise Invalid("This Idempotency-Key was used for another request. Use a new key.",
                      code="IDEMPOTENCY_KEY_REUSED")  # fmt: skip
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in orjson.loads(headers)]
    return Document(body.encode(), status, [*raw, REPLAYED])


async def _hash_request(request: Request, digest: str | None) -> str:
    hashed = hashlib.sha256(f"{request.method} {request.url.path}\n".encode())
    hashed.update(await request.body() if digest is None else digest.encode())
    return encode_bytes(hashed.digest())
