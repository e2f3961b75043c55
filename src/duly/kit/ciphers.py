"""Fields that are stored encrypted, under keys that can be replaced one by one."""

import os
import re
from collections.abc import Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from duly.kit.secrets import decode_bytes, encode_bytes

_MARK = "enc1"
_NONCE_BYTES = 12
_ID_FORM = re.compile("[0-9a-f]{8}").fullmatch


class WrongKey(Exception):
    """A value cannot be decrypted; as it is, it was encrypted under a key that is not here."""


class AlteredValue(WrongKey):
    """A value was altered, or it belongs to another place."""


class FieldCipher:
    """AES-256-GCM (NIST SP 800-38D); the first key encrypts, every key decrypts.

    A stored value is `enc1.<key id>.<base64url of nonce and cipher text>`. `place`, such as `sessions:<id>`, is
    authenticated with it: a value that is copied into another row does not open there.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {key_id(key): AESGCM(key) for key in keys}
        self.current_id = key_id(keys[0])

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Every key that decrypts; the one that encrypts comes first."""
        return tuple(self._keys)

    def seal(self, text: str, *, place: str) -> str:
        """Encrypt. The result is about 4/3 of the text's bytes and 53 characters more."""
        nonce = os.urandom(_NONCE_BYTES)
        raw = nonce + self._keys[self.current_id].encrypt(nonce, text.encode(), place.encode())
        return f"{_MARK}.{self.current_id}.{encode_bytes(raw)}"

    def open(self, sealed: str, *, place: str) -> str:
        """Decrypt. Raises `WrongKey`, and of its kind `AlteredValue`."""
        mark, _, rest = sealed.partition(".")
        used, _, body = rest.partition(".")
        key = self._keys.get(used)
        if mark != _MARK or not _ID_FORM(used):
            raise AlteredValue("altered, for it has not the form of an encrypted value")
        if key is None:
            raise WrongKey(f"encrypted under the key {used}, which is not among the keys given")
        try:
            raw = decode_bytes(body)
            return key.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], place.encode()).decode()
        except (InvalidTag, ValueError):
            raise AlteredValue("altered, or moved from another row") from None

    def is_current(self, sealed: str) -> bool:
        """Whether the value is under the key that encrypts now."""
        return sealed.startswith(f"{_MARK}.{self.current_id}.")


def key_id(key: bytes) -> str:
    """Eight characters that tell keys apart and give nothing of them away."""
    return sha256(b"duly/key-id" + key).hexdigest()[:8]
