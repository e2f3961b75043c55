"""Both stores of files, on a real disk and on a real S3 server: whole or not at all, and nowhere else."""

import asyncio
import gzip
import io
import os
import resource
import sys
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from duly.app import create_app
from duly.db import migrate
from duly.db.url import parse_database_url
from duly.errors import StorageFull, Unavailable
from duly.files.bucket import BucketFiles, parse_bucket_address
from duly.files.local import LocalFiles
from duly.files.store import FileMissing, FileStore, new_key
from duly.files.types import find_type
from duly.operations.doctor import examine
from duly.settings import Settings, SettingsFault
from tests.fixtures.object_store import ObjectStore
from tests.fixtures.server import environment, free_port

MIB = 1024**2
BAD_KEYS = [
    "../../etc/passwd", "/etc/passwd", "", ".", "ab/cd/../../x", "ab/cd/" + "a" * 32, "AB/CD/ABCD" + "0" * 28,
    "ab/cd/abcd" + "0" * 28 + "\n", "ab\\cd\\abcd" + "0" * 28, "ab/cd/abcd" + "0" * 28 + ".part/..", "\0",
]  # fmt: skip


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalFiles]:
    files = LocalFiles(tmp_path / "files")
    yield files
    files.close()


@pytest.fixture(params=["local", "bucket"])
async def files(request: pytest.FixtureRequest, local: LocalFiles) -> FileStore:
    if request.param == "local":
        return local
    return BucketFiles(parse_bucket_address(request.getfixturevalue("object_store").files_url))


async def listed(files: FileStore) -> list[str]:
    return [file.key async for page in files.pages() for file in page]


async def content(files: FileStore, key: str, start: int, end: int) -> bytes:
    return b"".join([piece async for piece in await files.open(key, start, end)])


class Broken(io.BytesIO):
    """Gives some of what it has, and then no more."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= 6 * MIB:
            raise OSError(5, "the source broke")
        return super().read(size)


@pytest.mark.covers("A127")
async def test_what_was_put_is_there_whole_in_parts_and_then_gone(files: FileStore) -> None:
    for size in (1, 256 * 1024, 256 * 1024 + 1, 5 * MIB - 1, 5 * MIB, 12 * MIB + 7):
        data, key = os.urandom(size), new_key()
        before = datetime.now(UTC) - timedelta(seconds=2)
        await files.put(key, io.BytesIO(data))
        assert await content(files, key, 0, size) == data
        assert await content(files, key, size // 3, size - size // 4) == data[size // 3 : size - size // 4]
        [[found]] = [page async for page in files.pages()]
        assert found.key == key
        assert before < found.modified < datetime.now(UTC) + timedelta(seconds=2)
        await files.delete(key)
        await files.delete(key)
        with pytest.raises(FileMissing):
            await files.open(key, 0, size)
        assert await listed(files) == []


async def test_a_source_that_breaks_leaves_nothing(files: FileStore) -> None:
    with pytest.raises(Unavailable):
        await files.put(new_key(), Broken(bytes(20 * MIB)))
    assert await listed(files) == []
    await files.check()
    assert await listed(files) == []


async def test_no_other_name_than_its_own_is_ever_used(files: FileStore, tmp_path: Path) -> None:
    for key in BAD_KEYS:
        for work in (files.put(key, io.BytesIO(b"x")), files.open(key, 0, 1), files.delete(key)):
            with pytest.raises(ValueError, match="not a key"):
                await work
    assert await listed(files) == []
    assert not [name for _, _, names in os.walk(tmp_path) for name in names]


async def test_a_local_file_is_nobody_elses_and_what_is_not_ours_stays(local: LocalFiles, tmp_path: Path) -> None:
    key = new_key()
    await local.put(key, io.BytesIO(b"mine"))
    path = tmp_path / "files" / key
    assert path.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in list(path.parents)[:3]} == {0o700}
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    for name in ("notes.txt", f"{path.parent.parent.name}/notes.txt", f"{key[:5]}/notes.txt", "zz/zz/zz"):
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / name).write_text("an operator's")
    cut_off = path.with_name(f"{path.name}.part")
    cut_off.write_bytes(b"half")
    assert await listed(local) == [key, f"{key}.part"]
    await local.delete(f"{key}.part")
    assert not cut_off.exists()


async def test_a_full_disk_takes_no_file_and_keeps_no_half_of_one(local: LocalFiles) -> None:
    await local.check()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel then refuses writes beyond it, as on a disk that is full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    try:
        with pytest.raises(StorageFull, match="Nothing was stored"):
            await local.put(new_key(), io.BytesIO(bytes(2 * MIB)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert await listed(local) == []


async def test_a_bucket_that_is_away_says_so_and_works_again(object_store: ObjectStore) -> None:
    files = BucketFiles(parse_bucket_address(object_store.files_url))
    key = new_key()
    await files.put(key, io.BytesIO(b"kept"))
    assert object_store.keys() == [key]
    object_store.stop()
    for work in (files.put(new_key(), io.BytesIO(b"x")), files.open(key, 0, 1), files.delete(key), files.check()):
        with pytest.raises(Unavailable) as refused:
            await work
        assert (refused.value.code, refused.value.retry_after) == ("FILES_UNAVAILABLE", 5)
    with pytest.raises(Unavailable):
        await listed(files)
    object_store.start()
    await files.check()


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("http://files", "give s3://bucket/prefix"),
        ("s3://", "give s3://bucket/prefix"),
        ("s3://key:secret@files", "AWS_ACCESS_KEY_ID"),
        ("s3://files?endpont=https://x", "endpont"),
        ("s3://files?endpoint=http://x", "allow_http=true"),
        ("s3://files?endpoint=x", "https://host"),
        ("s3://files?endpoint", "cannot be read"),
    ],
)
def test_an_address_that_cannot_be_used_stops_the_start_in_one_line(url: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsFault) as fault:
        create_app(Settings(_env_file=None, data_dir=tmp_path, files_url=url))
    [line] = fault.value.faults
    assert line.startswith("FILES_URL: ")
    assert remedy in line
    assert "secret" not in line


async def test_a_folder_that_takes_no_files_stops_the_start_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "in the way").write_text("a file")
    folder = tmp_path / "in the way" / "files"
    settings = environment(tmp_path, files_dir=folder, port=free_port())
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "duly", "serve", env=settings, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    _, said = await program.communicate()
    assert program.returncode == 1
    [line] = said.decode().splitlines()
    assert line.startswith(f"duly: FILES_DIR: {folder} does not take files (Not a directory); give")


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    return file.getvalue()


TEXT, UNKNOWN = "text/plain; charset=utf-8", "application/octet-stream"
KINDS: list[tuple[Any, str]] = [
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(50), "image/png"),
    (b"GIF89a\x01\0\x01\0" + bytes(20), "image/gif"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(50), "image/jpeg"),
    (b"RIFF\x10\0\0\0WEBPVP8 \0", "image/webp"),
    (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
    (zipped(), "application/zip"),
    (gzip.compress(b"hello", mtime=0), "application/gzip"),
    (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video/mp4"),
    (b"ID3\x03\0\0\0\0\0\0", "audio/mpeg"),
    ("Grüße, 世界 💥\r\n\t".encode(), TEXT),
    (("a" + "é" * 40_000).encode(), TEXT),
    (b"<html><script>alert(1)</script>", TEXT),
    (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", TEXT),
    ("<svg/>".encode("utf-16"), UNKNOWN),
    (b"<html>\0<script>alert(1)</script>", UNKNOWN),
    (b"MZ\x90\0\x03\0\0\0", UNKNOWN),
    (b"\x7fELF\x02\x01\x01" + bytes(30), UNKNOWN),
    (b"\0asm\x01\0\0\0", UNKNOWN),
    (bytes(range(256)), UNKNOWN),
    (b"\xff", UNKNOWN),
]


@pytest.mark.parametrize(("data", "kind"), KINDS)
async def test_a_type_is_told_from_the_bytes_and_never_one_that_runs(data: bytes, kind: str) -> None:
    assert await find_type(io.BytesIO(data)) == kind


@pytest.mark.parametrize(("made", "answer", "faults"), [("files", "ok", 0), ("in the way", "takes no files", 1)])
async def test_the_doctor_sees_whether_files_are_taken_and_changes_nothing(
    made: str, answer: str, faults: int, tmp_path: Path, object_store: ObjectStore
) -> None:
    (tmp_path / "in the way").write_text("a file")
    await migrate.upgrade(parse_database_url(None, tmp_path))
    settings = Settings(_env_file=None, data_dir=tmp_path, files_dir=tmp_path / made / "files")
    report = await examine(settings)
    assert (report.facts["files"], len(report.faults)) == (answer, faults)
    assert not (tmp_path / "files").exists()
    if faults:
        object_store.stop()
    report = await examine(Settings(_env_file=None, data_dir=tmp_path, files_url=object_store.files_url))
    assert (report.facts["files"], len(report.faults)) == (answer, faults)
