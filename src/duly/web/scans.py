"""An upload in which the virus scanner finds something: told to the audit log, and refused."""

import asyncio
import hashlib
from typing import Any, BinaryIO, cast

from starlette.requests import Request

from duly.audit.events import Actor, Event
from duly.errors import FieldFault, Invalid
from duly.identity.principals import Principal
from duly.web.devices import origin_of
from duly.web.services import Services
from duly.web.uploads import Upload


async def refuse_infected(
    request: Request, tools: Services, caller: Principal, upload: Upload, *, target: tuple[str, str] | None = None
) -> None:
    """Have the file scanned, where there is a scanner: before anything of it is kept, and outside of any transaction.

    Raises `Invalid` (`FILE_INFECTED`), which is also an event about `target`, and as `Clamd.scan` does. There is no
    way round a scanner that does not answer.
    """
    signature = await tools.scanner.scan(upload.file) if tools.scanner is not None else None
    if signature is None:
        return
    sha256 = await asyncio.to_thread(_digest, upload.file)
    async with tools.database.unit() as unit:
        await tools.identity.audit.record(
            unit, Event.FILE_INFECTED, origin=origin_of(request), actor=Actor(caller.user_id), target=target,
            outcome="failure", signature=signature, sha256=sha256, size=upload.size,
        )  # fmt: skip
    told = "The virus scanner found something harmful in this file. It was not stored."
    raise Invalid(told, code="FILE_INFECTED", faults=[FieldFault("file", told, "infected_file")])


def _digest(file: BinaryIO) -> str:
    return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
