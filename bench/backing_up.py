"""How long `duly backup` and `duly restore` take, and how much memory: `python -m bench.backing_up --mib 1024`.

A SQLite file is filled with accounts, tasks and attachments; it is backed up and restored into a clean folder with the
commands as an operator runs them, each with its own verification.
"""

import argparse
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path

import apsw

from bench.copying import fill, run_duly

MIB = 1024 * 1024
_ATTACH = """INSERT INTO attachments (id, task_id, user_id, name, content_type, size, sha256, key, created_at)
VALUES (?, ?, ?, 'file.bin', 'application/octet-stream', ?, ?, ?, '2026-01-03T00:00:00.000000Z')"""


def attach(folder: Path, count: int) -> None:
    """Files of one MiB of random bytes, with their rows."""
    connection = apsw.Connection(str(folder / "duly.db"))
    try:
        tasks = connection.execute("SELECT id, user_id FROM tasks LIMIT ?", (count,)).fetchall()
        for number in range(count):
            task_id, user_id = tasks[number % len(tasks)]
            data, name = os.urandom(MIB), uuid.uuid4().hex
            key = f"{name[:2]}/{name[2:4]}/{name}"
            path = folder / "files" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            connection.execute(_ATTACH, (str(uuid.uuid4()), task_id, user_id, MIB, digest, key))
    finally:
        connection.close()


def measure(tasks: int, mib: int, folder: Path) -> None:
    """Fill, back up, restore, and print a line for each."""
    house, clean = folder / "house", folder / "clean"
    for one in (house, clean):
        one.mkdir()
    address = f"sqlite:///{house / 'duly.db'}"
    run_duly(house, address, "migrate", "upgrade")
    fill(house / "duly.db", 100, tasks)
    attach(house, mib)
    print(f"{tasks} tasks: {(house / 'duly.db').stat().st_size / MIB:.0f} MiB; {mib} MiB of attachments")
    # The key that signs is in no backup: it goes its own way.
    run_duly(house, address, "sweep")
    shutil.copy(house / "secret_key", clean / "secret_key")
    for words, where in (("backup", house), ("restore", clean)):
        begun = time.monotonic()
        options = ("--quiet",) if words == "backup" else ("--quiet", "--yes")
        run = run_duly(where, f"sqlite:///{where / 'duly.db'}", words, str(folder / "x.tar"), *options)
        print(f"{words}: {time.monotonic() - begun:.1f} s, {run.peak_mib:.0f} MiB at most, "
              f"load {os.getloadavg()[0]:.1f}: {run.output.strip()}")  # fmt: skip


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=50_000)
    parser.add_argument("--mib", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="duly-backing-up-") as folder:
        measure(options.tasks, options.mib, Path(folder))


if __name__ == "__main__":
    main()
