"""One number for many rows: equal when all values and their order are, wherever the rows were read."""

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson


class RowDigest:
    """SHA-256 over portable rows, each as a JSON array; how they were cut into batches does not matter."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.rows = 0

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Take in the next rows."""
        if rows:
            self._hash.update(orjson.dumps(rows, default=_spell_bytes)[1:-1] + b",")
            self.rows += len(rows)

    def hexdigest(self) -> str:
        """64 hexadecimal digits for what was taken in so far."""
        return self._hash.hexdigest()


def _spell_bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    raise TypeError(f"{type(value).__name__} is no portable value")
