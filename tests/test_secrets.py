"""The key that development makes for itself: one for all processes, whole, and private."""

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from duly.kit.secrets import load_or_make_key

RACER = """
import sys, time
from pathlib import Path
from duly.kit.secrets import load_or_make_key

def no_links(source, target):
    raise PermissionError

time.sleep(max(0, float(sys.argv[3]) - time.time()))
options = {"link": no_links} if sys.argv[2] == "without links" else {}
print(load_or_make_key(Path(sys.argv[1]) / "key", **options))
"""


@pytest.mark.parametrize("way", ["with links", "without links"])
def test_sixteen_processes_at_once_agree_on_one_key(tmp_path: Path, way: str) -> None:
    start = str(time.time() + 2.0)
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path), way, start], stdout=subprocess.PIPE, text=True)
        for _ in range(16)
    ]
    keys = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 16
    assert len(set(keys)) == 1
    assert len(keys[0]) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_the_key_stays_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "key"
    key = load_or_make_key(path)
    assert load_or_make_key(path) == key
    assert path.read_text(encoding="ascii") == key + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_system_without_hard_links_gets_a_key_too(tmp_path: Path) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    path = tmp_path / "key"
    key = load_or_make_key(path, link=refuse)
    assert load_or_make_key(path, link=refuse) == key
    assert path.read_text(encoding="ascii") == key + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_an_operators_own_key_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("o" * 40, encoding="ascii")
    os.utime(path, (0, 0))
    start = time.monotonic()
    assert load_or_make_key(path) == "o" * 40
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("content", [b"", b"\n", b"half\n", "ü".encode() * 40 + b"\n", b"\xff" * 64])
def test_a_file_without_a_whole_key_is_reported_not_used(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    os.utime(path, (0, 0))
    with pytest.raises(OSError, match="holds no whole key"):
        load_or_make_key(path)
    assert path.read_bytes() == content


def test_half_a_key_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"")
    writer = threading.Timer(0.3, lambda: path.write_text("w" * 64 + "\n", encoding="ascii"))
    writer.start()
    assert load_or_make_key(path) == "w" * 64
    writer.join()
