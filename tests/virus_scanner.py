"""ClamAV's daemon with two signatures of our own, on a socket and a free port of loopback, which a test may hang."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import free_port

PROGRAM = shutil.which("clamd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PATIENCE = 30.0
MARKER = b"this-is-what-the-tests-of-duly-call-a-virus"
# The test file that every scanner knows, in two halves: no scanner of this machine shall find it here.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD" + b"-ANTIVIRUS-TEST-FILE!$H+H*"
STREAM_MAX = 2 * 1024**2
SCAN_MAX = 1024**2

# It scans what it is told in memory of its own and fetches nothing: signatures are freshclam's business.
CONFIGURATION = f"""
Foreground yes
DatabaseDirectory {{folder}}/signatures
TemporaryDirectory {{folder}}
LocalSocket {{folder}}/clamd.ctl
TCPSocket {{port}}
TCPAddr 127.0.0.1
StreamMaxLength {STREAM_MAX}
MaxFileSize {SCAN_MAX}
MaxScanSize {SCAN_MAX}
AlertExceedsMax yes
MaxThreads 4
SelfCheck 0
{{user}}
"""


class VirusScanner:
    """One process in the foreground; `path` and `port` are where it listens."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.path = folder / "clamd.ctl"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def urls(self) -> list[str]:
        """Both ways to it, as settings."""
        return [f"unix://{self.path}", f"tcp://127.0.0.1:{self.port}"]

    def start(self) -> None:
        """Start, and wait until it listens."""
        signatures = self._folder / "signatures"
        signatures.mkdir(exist_ok=True)
        lines = [f"Duly.Test.{name}:0:*:{mark.hex()}\n" for name, mark in (("Marker", MARKER), ("Eicar", EICAR))]
        (signatures / "tests.ndb").write_text("".join(lines), encoding="ascii")
        user = "User root" if os.geteuid() == 0 else ""
        text = CONFIGURATION.format(folder=self._folder, port=self.port, user=user)
        (self._folder / "clamd.conf").write_text(text, encoding="ascii")
        with (self._folder / "log").open("ab") as log:
            words = [str(PROGRAM), f"--config-file={self._folder / 'clamd.conf'}"]
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not self.path.exists():
            log_text = (self._folder / "log").read_text()
            assert self._process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.02)

    def hang(self) -> None:
        """Connections are taken by the kernel, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `hang`."""
        self._signal(signal.SIGCONT)

    def end(self) -> None:
        """Gone, whatever its state is."""
        if self._process is not None and self._process.poll() is None:
            self._signal(signal.SIGKILL)
            self._process.wait(PATIENCE)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


@contextlib.contextmanager
def running_scanner(folder: Path) -> Iterator[VirusScanner]:
    """A scanner that runs; it is gone afterwards.

    `folder` is below /tmp: a socket's path has 107 bytes at most, and AppArmor lets clamd read no other place.
    """
    if PROGRAM is None:
        skip_or_fail("ClamAV's daemon is needed: apt-get install --no-install-recommends clamav-daemon")
    scanner = VirusScanner(folder)
    try:
        scanner.start()
        yield scanner
    finally:
        scanner.end()
