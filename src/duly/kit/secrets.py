"""Keys for each purpose, derived from the one secret, and keyed hashes of what must not be stored in clear."""

import base64
import hmac
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_KEY_CHARACTERS = 64
_KEY_LEAST_CHARACTERS = 32
_KEY_WAIT_SECONDS = 2.0


def derive_key(secret: str, purpose: str) -> bytes:
    """32 bytes for one purpose (HKDF-SHA256, RFC 5869), so that no two uses share a key."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"duly/{purpose}".encode()).derive(secret.encode())


def derive_keys(secrets_: Sequence[str], purpose: str) -> tuple[bytes, ...]:
    """One key for each secret, in their order: the first makes, all of them are recognised."""
    return tuple(derive_key(secret, purpose) for secret in secrets_)


def keyed_hash(key: bytes, text: str) -> str:
    """HMAC-SHA256 as 43 characters of base64url: what the database keeps instead of a token."""
    return encode_bytes(hmac.digest(key, text.encode(), sha256))


def encode_bytes(raw: bytes) -> str:
    """Base64url without padding (RFC 4648 §5)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_bytes(text: str) -> bytes:
    """The reverse of `encode_bytes`; raises ValueError on anything else, and on a second spelling of the same bytes."""
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if encode_bytes(raw) != text:
        raise ValueError("not canonical base64url")
    return raw


def new_token() -> str:
    """256 random bits as 43 characters of base64url."""
    return secrets.token_urlsafe(32)


def load_or_make_key(path: Path, *, link: Callable[[Path, Path], None] = os.link) -> str:
    """The key kept at `path`, made at the first call with mode 0600; any number of processes at once agree on one.

    `link` gives the finished file its name, and may raise OSError where the file system has no hard links. Raises
    OSError when the folder cannot be written, or when the file holds no whole key.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _publish(path, secrets.token_urlsafe(48), link)
    return _read_key(path)


def replace_key(path: Path) -> None:
    """Put a new key into the file; the one that was there becomes the first of the previous ones, in a file beside it.

    Raises OSError. What is written first is the old key: a crash in between loses none.
    """
    old = load_or_make_key(path)
    previous = _previous_path(path)
    kept = [old, *(key for key in read_previous_keys(path) if key != old)]
    _rewrite(previous, "\n".join(kept))
    _rewrite(path, secrets.token_urlsafe(48))


def read_previous_keys(path: Path) -> list[str]:
    """The keys that `replace_key` put aside, newest first."""
    previous = _previous_path(path)
    return previous.read_text(encoding="ascii").split() if previous.exists() else []


def _previous_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.previous")


def _rewrite(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    _write_key(handle, text)
    Path(name).replace(path)
    _sync_folder(path.parent)


def _publish(path: Path, key: str, link: Callable[[Path, Path], None]) -> None:
    # The name appears with the content behind it, and only for the first: nobody can read half a key.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        _write_key(handle, key)
        link(draft, path)
    except FileExistsError:
        return
    except OSError:
        _publish_without_links(path, key)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _publish_without_links(path: Path, key: str) -> None:
    # Some file systems know no hard links. Here a reader may see the file before its content, and waits for it.
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    try:
        _write_key(handle, key)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _write_key(handle: int, key: str) -> None:
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_key(path: Path) -> str:
    # Only a file that is just being made is waited for; one that was put there without a line end is not.
    while True:
        age = time.time() - path.stat().st_mtime
        raw = path.read_bytes()
        if raw.endswith(b"\n") or len(raw) >= _KEY_CHARACTERS or not 0 <= age < _KEY_WAIT_SECONDS:
            break
        time.sleep(0.01)
    key = raw.decode("ascii", errors="ignore").strip()
    if len(key) < _KEY_LEAST_CHARACTERS or not raw.isascii():
        raise OSError(f"{path} holds no whole key; delete the file, and a new key is made at the next start")
    return key
