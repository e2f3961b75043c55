"""Which requests bring a file, how large it may be, and the one file that such a request holds."""

import contextlib
import re
import unicodedata
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from duly.errors import FieldFault, Invalid, Malformed, UnsupportedMedia
from duly.files.extensions import HEAD_BYTES, ExtensionRule
from duly.files.store import refusal_of
from duly.settings import Settings

IMPORT_MAX_BYTES = 10 * 1024**2
# What multipart puts around a file: boundaries, its name, and some fields beside it.
ENVELOPE_BYTES = 64 * 1024
FILE_FIELD = "file"
MAX_NAME = 255
NAMELESS = "file"

# Commands to a device, breaks of a line, halves of characters, and what turns the direction of writing round, so that
# `gpj.exe` reads as `exe.jpg`.
_NOT_IN_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# As browsers write them in a name (HTML, multipart/form-data encoding): a percent sign itself they leave as it is.
_ESCAPED = {"%22": '"', "%0D": "", "%0A": "", "%0d": "", "%0a": ""}
_escapes = re.compile("|".join(_ESCAPED))
_attachments = re.compile(r"/api(?:/v1)?/tasks/[^/]+/attachments").fullmatch
_file = re.compile(r"/api(?:/v1)?/tasks/[^/]+/attachments/[^/]+").fullmatch
_import = re.compile(r"/api(?:/v1)?/tasks/import").fullmatch


def upload_limit(settings: Settings) -> Callable[[MutableMapping[str, Any]], int]:
    """For the door: the largest body of a request, in bytes, envelope included; 0 for what is no upload."""

    def limit(scope: MutableMapping[str, Any]) -> int:
        if scope["method"] != "POST":
            return 0
        path = scope["path"].rstrip("/")
        if _import(path):
            return IMPORT_MAX_BYTES + ENVELOPE_BYTES
        if settings.attachments_enabled and _attachments(path):
            return settings.attachment_max_bytes + ENVELOPE_BYTES
        return 0

    return limit


def is_file(path: str) -> bool:
    """Whether this is the address of a file's bytes."""
    return _file(path) is not None


@dataclass(frozen=True, slots=True)
class Upload:
    """The file of a request, read from the wire and not yet kept: on disk if it is large. `name` is clean."""

    file: BinaryIO
    name: str
    size: int


@contextlib.asynccontextmanager
async def read_upload(request: Request, rule: ExtensionRule | None = None) -> AsyncIterator[Upload]:
    """The one file that a multipart/form-data body holds, in the field `file`, until the block ends.

    At no time is more than two pieces of a mebibyte of it in memory. Raises `UnsupportedMedia` for another type of
    body, `Malformed` for what cannot be read, `Invalid` for no file, an empty one, two, or another field, and
    `StorageFull`. What `rule` refuses is refused as soon as its name, or its first bytes, are here.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise UnsupportedMedia("The body must be multipart/form-data with the file in the field 'file'.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMedia("The body must not be compressed. Send it without Content-Encoding.")
    # One more of each than there may be, so that too many can be told from a body that cannot be read.
    parser = _RuledParser(request.headers, request.stream(), max_files=2, max_fields=1, max_part_size=1024)
    parser.rule = rule
    try:
        form = await _parse(parser)
        if len(_begun(parser)) > sum(isinstance(part, UploadFile) for _, part in form.multi_items()):
            raise Malformed("The upload ended in the middle. Send it again.")
        yield _only_file(form)
    finally:
        for file in _begun(parser):
            file.close()


class _RuledParser(MultiPartParser):
    """Shows a rule the name of each file when it comes, and the first bytes as soon as there are enough."""

    rule: ExtensionRule | None = None
    _name = ""
    # None where nothing is to be looked at (any more).
    _head: bytes | None = None

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        file, self._head = self._current_part.file, None
        if file is not None and self.rule is not None:
            self._name, self._head = clean_name(file.filename or ""), b""
            self.rule.check_name(self._name)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        super().on_part_data(data, start, end)
        if self._head is not None:
            self._head += data[start : min(end, start + HEAD_BYTES - len(self._head))]
            if len(self._head) == HEAD_BYTES:
                self._look()

    def on_part_end(self) -> None:
        super().on_part_end()
        if self._head:  # that a file is empty is said as such
            self._look()

    def _look(self) -> None:
        if self.rule is not None and self._head is not None:
            self.rule.check_content(self._name, self._head)
        self._head = None


def _begun(parser: MultiPartParser) -> Sequence[IO[bytes]]:
    """The files of all parts; the form has only those that came to their end."""
    return parser._files_to_close_on_error  # noqa: SLF001 - the parser has no other list of them


async def _parse(parser: MultiPartParser) -> FormData:
    try:
        return await parser.parse()
    except OSError as error:
        raise refusal_of(error) from error
    except (MultiPartException, ValueError):
        # The name of a charset may have a NUL in it, and the parser looks it up.
        raise Malformed("The upload cannot be read. Check its Content-Type and its parts.") from None


def _only_file(form: FormData) -> Upload:
    sent = form.multi_items()
    strange = next((name for name, _ in sent if name != FILE_FIELD), None)
    if strange is not None:
        raise _wrong(strange, "Unknown field. There is only 'file'.", "extra_forbidden")
    if len(sent) > 1:
        raise _wrong(FILE_FIELD, "Send one file at a time.", "too_many_files")
    upload = sent[0][1] if sent else None
    if not isinstance(upload, UploadFile):
        raise _wrong(FILE_FIELD, "Send a file, with its name.", "missing")
    if not upload.size:
        raise _wrong(FILE_FIELD, "The file is empty.", "empty_file")
    return Upload(upload.file, clean_name(upload.filename or ""), upload.size)


def _wrong(field: str, message: str, kind: str) -> Invalid:
    return Invalid("The upload is not valid. See `errors`.", faults=[FieldFault(field, message, kind)])


def clean_name(sent: str) -> str:
    """The last part of a file's name, in one line of 1 to 255 characters; `NAMELESS` where nothing is left of it."""
    name = _escapes.sub(lambda found: _ESCAPED[found[0]], sent)
    name = unicodedata.normalize("NFC", _NOT_IN_NAME.sub("", name))
    name = name.replace("\\", "/").rpartition("/")[2].strip()
    if not name.strip("."):
        return NAMELESS
    if len(name) <= MAX_NAME:
        return name
    stem, dot, ending = name.rpartition(".")
    if not stem or len(ending) > 20:
        return name[:MAX_NAME].strip()
    return stem[: MAX_NAME - len(dot + ending)] + dot + ending
