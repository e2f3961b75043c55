"""Files in an object store that speaks S3, through `obstore`."""

import asyncio
import contextlib
import io
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from duly.files.store import PIECE_BYTES, FileMissing, Source, StoredFile, check_key, is_key, new_key, unavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig

PART_BYTES = 5 * 1024**2  # the least that S3 takes as a part of an upload
PARTS_AT_ONCE = 2
PAGE = 1000
_OPTIONS = frozenset({"endpoint", "region", "allow_http"})
_RETRIES = {"max_retries": 2, "retry_timeout": timedelta(seconds=15)}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """What `FILES_URL` names. Credentials are not in it: they come from the usual `AWS_…` variables."""

    bucket: str
    prefix: str
    endpoint: str | None
    region: str | None
    allow_http: bool


def parse_bucket_address(url: str) -> BucketAddress:
    """Read `s3://bucket/prefix?endpoint=…&region=…&allow_http=true`. Raises ValueError with one line and its remedy."""
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError("cannot be read; give s3://bucket/prefix?region=eu-central-1") from None
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError("give s3://bucket/prefix, or no FILES_URL for a folder")
    if "@" in parts.netloc:
        raise ValueError("holds credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise ValueError(f"has the unknown option {unknown[0]!r}; there are {', '.join(sorted(_OPTIONS))}")
    endpoint = options.get("endpoint") or None
    allow_http = options.get("allow_http", "false").lower() == "true"
    scheme = urlsplit(endpoint).scheme if endpoint else "https"
    if scheme not in {"http", "https"} or (endpoint and not urlsplit(endpoint).hostname):
        raise ValueError("the endpoint is no address; give https://host[:port]")
    if scheme == "http" and not allow_http:
        raise ValueError("the endpoint is not encrypted; use https, or add allow_http=true if the line is private")
    return BucketAddress(parts.netloc, parts.path.strip("/"), endpoint, options.get("region") or None, allow_http)


class BucketFiles:
    """A `FileStore` in one bucket, below one prefix that nothing else uses."""

    def __init__(self, address: BucketAddress) -> None:
        self._name = f"s3://{address.bucket}/{address.prefix}"
        # The limits of one request. A download is as slow as its client; what counts there is silence.
        self._store = _connect(address, {"timeout": "60s"})
        self._reader = _connect(address, {"timeout": "1h", "read_timeout": "30s"})

    async def put(self, key: str, source: Source) -> None:
        """See `FileStore.put`; what is larger than one part is sent in parts, two of them at once."""
        path = check_key(key)
        first = await asyncio.to_thread(_read_part, source)
        with self._faults():
            if len(first) < PART_BYTES:
                await obstore.put_async(self._store, path, first, use_multipart=False)
            else:
                await obstore.put_async(
                    self._store, path, _parts(first, source), chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
                )

    async def open(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        """See `FileStore.open`."""
        with self._faults():
            try:
                found = await obstore.get_async(self._reader, check_key(key), options={"range": (start, end)})
            except FileNotFoundError:
                raise FileMissing(key) from None
        return self._pieces(found.stream(min_chunk_size=PIECE_BYTES))

    async def _pieces(self, stream: "obstore.BytesStream") -> AsyncGenerator[bytes]:
        with self._faults():
            async for piece in stream:
                yield bytes(piece)

    async def delete(self, key: str) -> None:
        """See `FileStore.delete`."""
        with self._faults(), contextlib.suppress(FileNotFoundError):
            await obstore.delete_async(self._store, check_key(key))

    async def pages(self) -> AsyncIterator[Sequence[StoredFile]]:
        """See `FileStore.pages`. Uploads that were cut off are the bucket's own lifecycle rule's to remove."""
        with self._faults():
            async for page in obstore.list(self._store, chunk_size=PAGE):
                listed = (StoredFile(file["path"], file["last_modified"], file["size"]) for file in page)
                found = [file for file in listed if is_key(file.key)]
                yield sorted(found, key=lambda file: file.key)

    async def check(self) -> None:
        """See `FileStore.check`."""
        key = new_key()
        await self.put(key, io.BytesIO(b"check"))
        await self.delete(key)

    def close(self) -> None:
        """Nothing is held open."""

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            reason = " ".join(str(error).partition("Debug source")[0].split())
            log.error("The file store at %s: %s", self._name, reason[:500])
            raise unavailable() from error


def _connect(address: BucketAddress, limits: "ClientConfig") -> S3Store:
    given = {"endpoint": address.endpoint, "region": address.region}
    return S3Store(
        address.bucket,
        prefix=address.prefix or None,
        config={name: value for name, value in given.items() if value},  # type: ignore[arg-type]
        client_options={**limits, "connect_timeout": "3s", "allow_http": address.allow_http},
        retry_config=_RETRIES,  # type: ignore[arg-type]
    )


def _read_part(source: Source) -> bytes:
    """As much as one part, or what there is; a read may give less than was asked for."""
    found = bytearray()
    while len(found) < PART_BYTES and (piece := source.read(PART_BYTES - len(found))):
        found += piece
    return bytes(found)


async def _parts(first: bytes, source: Source) -> AsyncGenerator[bytes]:
    part = first
    while part:
        yield part
        part = await asyncio.to_thread(_read_part, source)
