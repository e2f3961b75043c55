"""The name of an upload and its content must agree: what can be told is refused, and nothing else is."""

import asyncio
import bz2
import gzip
import io
import lzma
import struct
import sys
import wave
import zipfile
from pathlib import Path

import pytest

from duly.errors import Invalid
from duly.files.extensions import HEAD_BYTES, ExtensionRule
from duly.settings import Settings, SettingsFault, load_settings
from tests.fixtures.application import Api, Person, StartApp
from tests.fixtures.stored import Stored
from tests.raw_asgi import Asked, ask
from tests.test_attachments import attach, attached, kept
from tests.test_hostile_files import png

shared = pytest.mark.asyncio(loop_scope="module")


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    return file.getvalue()


def nothing_zipped() -> bytes:
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    return file.getvalue()


def sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as track:
        track.setnchannels(1)
        track.setsampwidth(2)
        track.setframerate(8000)
        track.writeframes(bytes(100))
    return file.getvalue()


PNG = png(1, 1)
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(50)
EXIF = b"\xff\xd8\xff\xe1\0\x18Exif\0" + bytes(50)
GIF = b"GIF89a\1\0\1\0" + bytes(range(50))
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
MP4 = b"\0\0\0\x20ftypisom\0\0\2\0"
WEBP = b"RIFF\x24\0\0\0WEBPVP8 "
EXE = b"MZ" + bytes(58) + struct.pack("<I", 128) + bytes(64) + b"PE\0\0" + bytes(100)
ELF = Path(sys.executable).resolve().read_bytes()[:5000]
TEXT = b"A few words.\n"

FITTING: list[tuple[str, bytes]] = [
    ("a.png", PNG), ("a.PNG", PNG), ("a.b.png", PNG), ("a.png.", PNG), ("a.png . .", PNG), (".png", PNG),
    ("a.jpg", JPEG), ("a.jpeg", EXIF), ("a.JPE", JPEG), ("a.jfif", JPEG), ("a.gif", GIF), ("a.gif", b"GIF87a"),
    ("a.webp", WEBP), ("a.bmp", b"BM" + bytes(60)), ("a.tif", b"II*\0"), ("a.tiff", b"MM\0*"), ("a.tif", b"II+\0"),
    ("IMG_1.HEIC", HEIC), ("IMG_2.HEIC", EXIF), ("a.avif", b"\0\0\0\x1cftypavif"), ("a.mp4", MP4), ("a.m4a", MP4),
    ("a.pdf", PDF), ("a.pdf", b"\xef\xbb\xbf%PDF-1.4"), ("a.pdf", b"HTTP/1.1 200 OK\r\n\r\n" + PDF),
    ("a.zip", zipped()), ("a.zip", nothing_zipped()), ("a.zip", b"PK00PK\3\4"), ("a.docx", zipped()), ("a.xlsx", OLE),
    ("a.pptx", zipped()), ("a.odt", zipped()), ("a.epub", zipped()), ("a.doc", OLE), ("a.doc", zipped()),
    ("a.doc", rb"{\rtf1 x}"), ("a.xls", b"<html><table>"), ("a.xls", b"name\tsize\n"), ("a.rtf", rb"{\rtf1 x}"),
    ("a.csv.gz", gzip.compress(TEXT)), ("a.tar.bz2", bz2.compress(TEXT)), ("a.xz", lzma.compress(TEXT)),
    ("a.wav", sound()), ("a.7z", b"7z\xbc\xaf\x27\x1c\0\4"), ("a.rar", b"Rar!\x1a\x07\1\0"), ("a.flac", b"ID3\4\0"),
    ("a.ogg", b"OggS\0\2"), ("a.zst", b"\x28\xb5\x2f\xfd\0"), ("a.webm", b"\x1a\x45\xdf\xa3"), ("a.psd", b"8BPS\0\1"),
    ("a.txt", TEXT), ("a.txt", "Grüße".encode("latin-1")), ("a.txt", "Grüße".encode("utf-16")), ("a.txt", b"\0\1\2"),
    ("a.txt", b"%PDF- begins a PDF, GIF89a a GIF"), ("a.md", b"GIF89a"), ("a.txt", b"MZ is not the end\xff"),
    ("a.log", b"PK\n"), ("a.csv", "€;Ł".encode("utf-16-le")), ("a.json", b"{}"), ("a.svg", b"<svg/>"), ("a.js", b"1"),
    ("a.txt", ("é" * HEAD_BYTES).encode()[1:]), ("a.ico", PNG), ("a.mov", b"moov"), ("a.mp3", b"\xff\xfb\x90"),
    ("a", PNG), ("png", TEXT), ("a.", TEXT), ("a.pngx", TEXT), ("a.exe", EXE), ("a.bin", PNG), ("a.png.bin", TEXT),
    ("a.jar", b"#!/bin/sh"), ("a.tgz", TEXT), ("a.qzp", b"x"), ("a.ts", PNG), ("a.png\u200b", TEXT),
]  # fmt: skip
CONTRADICTING: list[tuple[str, bytes]] = [
    *((f"a.{ending}", TEXT) for ending in (
        "png", "jpg", "jpeg", "gif", "webp", "bmp", "tiff", "heic", "avif", "mp4", "pdf", "zip", "docx", "xlsx", "pptx",
        "odt", "gz", "7z", "rar", "bz2", "xz", "zst", "flac", "ogg", "wav", "avi", "webm", "psd", "woff", "woff2")),
    ("a.png", JPEG), ("a.jpg", PNG), ("a.PNG", TEXT), ("a.b.png", TEXT), ("a.png.", TEXT), ("a.png . .", EXE),
    (".png", TEXT), ("a.exe.png", EXE), ("a.png", b"\x89PNG"), ("a.pdf", EXE), ("a.pdf", b"x" * 1020 + b"%PDF-1.7"),
    ("a.docx", PDF), ("a.docx", EXE), ("a.zip", gzip.compress(TEXT)), ("a.jpg", HEIC), ("a.webp", sound()),
    ("a.txt", EXE), ("a.txt", ELF), ("a.txt", PNG), ("a.csv", zipped()), ("a.md", PDF), ("a.html", JPEG),
    ("a.svg", PNG), ("a.json", OLE), ("a.yml", GIF), ("a.doc", EXE), ("a.xls", PNG), ("a.rtf", PDF),
]  # fmt: skip


def fault(rule: ExtensionRule, name: str, head: bytes = b"") -> str | None:
    """What the rule says of a file."""
    try:
        rule.check_name(name)
        rule.check_content(name, head[:HEAD_BYTES])
    except Invalid as refusal:
        [only] = refusal.faults
        return f"{refusal.code} {only.field} {only.type}"
    return None


@pytest.mark.covers("A127")
def test_what_fits_its_name_or_cannot_be_told_is_taken() -> None:
    assert [(name, data) for name, data in FITTING if fault(ExtensionRule(), name, data) is not None] == []


@pytest.mark.covers("A127")
def test_what_contradicts_its_name_is_refused() -> None:
    said = "FILE_CONTENT_MISMATCH file content_mismatch"
    assert [(name, data) for name, data in CONTRADICTING if fault(ExtensionRule(), name, data) != said] == []


def test_a_list_allows_those_endings_and_no_others() -> None:
    settings = Settings(_env_file=None, attachment_extensions="pdf, .JPEG,*.txt,gz")  # type: ignore[arg-type]
    rule = ExtensionRule.of(settings.attachment_extensions)
    allowed = {"a.pdf": PDF, "a.PDF.": PDF, "a.jpg": JPEG, "a.jpeg": JPEG, "a.txt": TEXT, "a.tar.gz": b"\x1f\x8b"}
    assert [name for name, data in allowed.items() if fault(rule, name, data) is not None] == []
    others = [
        "a",
        "pdf",
        "a.exe",
        "a.pdf.exe",
        "a.pdf\u200b",
        "a.pdf:x",
        "a.pdf.x ",
        ".profile",
        "a.\uff50df",
        "file",
        "a.",
    ]
    said = "FILE_TYPE_NOT_ALLOWED file extension_not_allowed"
    assert [name for name in others if fault(rule, name) != said] == []
    assert fault(rule, "a.pdf", TEXT) == "FILE_CONTENT_MISMATCH file content_mismatch"
    assert Settings(_env_file=None).attachment_extensions == ()


@pytest.mark.parametrize("wrong", ["tar.gz", "p df", "../x", "é", "x" * 21, "."])
def test_an_ending_that_is_none_stops_the_start(wrong: str) -> None:
    with pytest.raises(SettingsFault) as refused:
        load_settings(_env_file=None, attachment_extensions=f"pdf,{wrong}")
    assert [fault.partition(":")[0] for fault in refused.value.faults] == ["ATTACHMENT_EXTENSIONS"]


@pytest.mark.covers("A127")
async def test_a_refused_file_leaves_nothing_and_costs_no_quota(start_app: StartApp, stored: Stored) -> None:
    api = await start_app(attachment_extensions="png,txt", attachment_quota_bytes=2_000_000)
    ann = await api.register()
    task = await ann.add_task()
    refused = [("a.png", b"x", "FILE_CONTENT_MISMATCH"), ("a.png", b"x" * 1_900_000, "FILE_CONTENT_MISMATCH"),
               ("a.gif", GIF, "FILE_TYPE_NOT_ALLOWED"), ("a", b"x" * 1_900_000, "FILE_TYPE_NOT_ALLOWED")]  # fmt: skip
    for name, data, code in refused:
        for options in ({}, {"headers": {"Idempotency-Key": "once"}}):
            answer = await attach(ann, task, data, name, **options)
            assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert [entry["field"] for entry in answer.json()["errors"]] == ["file"]
    assert (await attach(ann, task, b"", "a.png")).json()["errors"][0]["type"] == "empty_file"
    assert await stored.value("SELECT count(*) FROM attachments") == 0
    assert kept(api) == []
    first = await attach(ann, task, b"x" * 1_900_000, "a.txt", headers={"Idempotency-Key": "once"})
    assert first.status_code == 201, first.text
    assert (await attached(ann, task, PNG, "a.PNG"))["content_type"] == "image/png"
    assert len(kept(api)) == 2


async def begun(api: Api, person: Person, name: str, *pieces: bytes) -> tuple[int, bytes]:
    """The answer to an upload of which no more than these pieces ever comes."""
    task = await person.add_task()
    opened = b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + name.encode() + b'"\r\n\r\n'
    headers = (
        (b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", b"20000000"),
        (b"authorization", f"Bearer {person.access_token}".encode()),
    )  # fmt: skip
    path = f"/api/v1/tasks/{task['id']}/attachments"
    async with asyncio.timeout(20):
        answer = await ask(api.app, Asked("POST", path, headers=headers, pieces=(opened, *pieces), unfinished=True))
    return answer.status, answer.body


async def test_a_refusal_does_not_wait_for_the_rest_of_the_file(start_app: StartApp) -> None:
    api = await start_app(attachment_extensions="png")
    ann = await api.register()
    status, body = await begun(api, ann, "a.exe")
    assert (status, b"FILE_TYPE_NOT_ALLOWED" in body) == (422, True)
    # However it is cut.
    for size in (1, 1000, HEAD_BYTES):
        status, body = await begun(api, ann, "a.png", *(b"x" * size for _ in range(-(-HEAD_BYTES // size))))
        assert (status, b"FILE_CONTENT_MISMATCH" in body) == (422, True)
    assert kept(api) == []


@shared
async def test_a_mark_that_comes_in_pieces_is_a_mark(house: Api, carol: Person) -> None:
    task = await carol.add_task()
    data = PNG + bytes(10_000)
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + data + b"\r\n--x--\r\n"
    headers = (
        (b"content-type", b"multipart/form-data; boundary=x"), (b"transfer-encoding", b"chunked"),
        (b"authorization", f"Bearer {carol.access_token}".encode()),
    )  # fmt: skip
    for size in (1, 7, 4000):
        pieces = tuple(body[place : place + size] for place in range(0, len(body), size))
        path = f"/api/v1/tasks/{task['id']}/attachments"
        answer = await ask(house.app, Asked("POST", path, headers=headers, pieces=pieces))
        assert answer.status == 201, answer.body
