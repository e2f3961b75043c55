"""What the ending of a file's name promises, held against the first bytes of the file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from duly.errors import FieldFault, Invalid
from duly.files.types import is_text

HEAD_BYTES = 4096
"""How much of a file is enough to compare it with its name."""

Looks = Callable[[bytes], bool]
# Two spellings of one kind: who allows one of them means both.
_SAME = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tiff": "tif", "htm": "html", "yml": "yaml"}


def _starts(*marks: bytes, at: int = 0) -> Looks:
    return lambda head: head.startswith(marks, at)


def _any(*ways: Looks) -> Looks:
    return lambda head: any(looks(head) for looks in ways)


_JPEG = _starts(b"\xff\xd8\xff")
_GIF = _starts(b"GIF87a", b"GIF89a")
_PNG = _starts(b"\x89PNG\r\n\x1a\n")
# The first one, an empty archive, and an archive in parts, which may begin with either mark.
_ZIP = _starts(b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00PK")
# Office documents of before 2007, and every newer one that has a password.
_OLE = _starts(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
_SEVEN_ZIP = _starts(b"7z\xbc\xaf\x27\x1c")
_RAR = _starts(b"Rar!\x1a\x07")
# The boxes that the family of ISO 14496-12 may begin with.
_BOXES = _starts(b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", at=4)

# Only kinds that begin alike wherever they come from. Of ico, mov, mp3, tar, jar and others that cannot be said: a file
# that is refused for nothing is worse than one that is not looked at.
_LOOKS: dict[str, Looks] = {
    "png apng": _PNG,
    "jpg": _JPEG,
    "gif": _GIF,
    "webp": lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    "bmp dib": _starts(b"BM", b"BA"),
    "tif": _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    # Some telephones give this name to the JPEG that they hand on.
    "heic heif": _any(_BOXES, _JPEG),
    "avif mp4 m4v m4a 3gp": _BOXES,
    "pdf": lambda head: b"%PDF-" in head[:1024],  # readers look for it in as much
    "zip odt ods odp odg epub": _ZIP,
    "docx docm dotx dotm xlsx xlsm xlsb xltx xltm pptx pptm ppsx ppsm potx potm": _any(_ZIP, _OLE),
    "gz": _starts(b"\x1f\x8b"),
    "7z": _SEVEN_ZIP,
    "rar": _any(_RAR, _starts(b"RE~^")),
    "bz2": _starts(b"BZh"),
    "xz": _starts(b"\xfd7zXZ\0"),
    "zst": _starts(b"\xb5\x2f\xfd", b"\x2a\x4d\x18", at=1),
    "flac": _starts(b"fLaC", b"ID3"),
    "ogg oga ogv opus": _starts(b"OggS"),
    "wav": _starts(b"RIFF", b"RIFX", b"RF64", b"BW64"),
    "avi": _starts(b"RIFF"),
    "webm mkv mka": _starts(b"\x1a\x45\xdf\xa3"),
    "psd psb": _starts(b"8BPS"),
    "woff": _starts(b"wOFF"),
    "woff2": _starts(b"wOF2"),
}
_LOOKS_OF = {extension: looks for extensions, looks in _LOOKS.items() for extension in extensions.split()}


def _is_program(head: bytes) -> bool:
    """ELF, Mach-O, and Windows' PE: its first two bytes are letters, so the place that they point to counts too."""
    if head.startswith((b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe")):
        return True
    place = int.from_bytes(head[60:64], "little")
    return head[:2] == b"MZ" and head[place : place + 4] == b"PE\0\0"


# Text has no mark of its own, and comes in many encodings; but it is none of these.
_NO_TEXT = _any(_PNG, _JPEG, _GIF, _OLE, _SEVEN_ZIP, _RAR, _starts(b"PK\x03\x04", b"%PDF-"), _is_program)
# The old office's documents were HTML, RTF, text or the newer format under the same name, ever since.
_NO_OFFICE = _any(_PNG, _JPEG, _GIF, _SEVEN_ZIP, _RAR, _starts(b"%PDF-"), _is_program)
_NEVER: dict[str, Looks] = {
    "txt text log md csv tsv json xml html xhtml svg css js mjs ics vcf yaml eml": _NO_TEXT,
    "doc dot xls xlt ppt pps rtf": _NO_OFFICE,
}
_LOOKS_NOT = {extension: looks for extensions, looks in _NEVER.items() for extension in extensions.split()}


@dataclass(frozen=True, slots=True)
class ExtensionRule:
    """What files may be called: `allowed` are endings as `kind_of` gives them, and none of them allows any."""

    allowed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, extensions: Iterable[str]) -> "ExtensionRule":
        """From endings as an operator writes them."""
        return cls(frozenset(_SAME.get(extension, extension) for extension in extensions))

    def check_name(self, name: str) -> None:
        """Raises `Invalid` (`FILE_TYPE_NOT_ALLOWED`)."""
        if self.allowed and kind_of(name) not in self.allowed:
            told = f"Files whose names end so are not accepted. Accepted are: {', '.join(sorted(self.allowed))}."
            raise _refusal("FILE_TYPE_NOT_ALLOWED", told, "extension_not_allowed")

    def check_content(self, name: str, head: bytes) -> None:
        """`head` are the first `HEAD_BYTES`, or all of a smaller file. Raises `Invalid` (`FILE_CONTENT_MISMATCH`)."""
        kind = kind_of(name)
        looks, looks_not = _LOOKS_OF.get(kind), _LOOKS_NOT.get(kind)
        is_wrong = looks is not None and not looks(head)
        # What begins like a GIF or a PDF may be text that speaks of one.
        is_wrong = is_wrong or (looks_not is not None and looks_not(head) and not is_text(head, HEAD_BYTES))
        if is_wrong:
            told = f"The file's name ends in .{kind}, but its content is something else. Name it after what it is."
            raise _refusal("FILE_CONTENT_MISMATCH", told, "content_mismatch")


def kind_of(name: str) -> str:
    """The last ending in lower case and in one spelling, or nothing. Dots and blanks behind it some systems drop."""
    _, dot, ending = name.rstrip(". ").rpartition(".")
    ending = ending.lower() if dot else ""
    return _SAME.get(ending, ending)


def _refusal(code: str, message: str, kind: str) -> Invalid:
    return Invalid(message, code=code, faults=[FieldFault("file", message, kind)])
