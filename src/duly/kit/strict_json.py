"""JSON from outside, read so that no two readers can understand the same bytes differently (RFC 7493)."""

import json
from typing import Any, Final

import orjson

from duly.errors import Malformed

MOST_DEPTH: Final = 64
MOST_NAMES: Final = 256
"""In one object."""
MOST_VALUES: Final = 20_000
"""In the whole document: what every later step takes time for is their number."""

_BOM = b"\xef\xbb\xbf"
_COLON_ESCAPE = b"\\u003"
_NO_MARKS = bytes(set(range(256)) - set(b'",[{'))
_NO_NUMBERS = (b"NaN", b"Infinity", b"-Infinity")


def parse_json(raw: bytes, most_values: int = MOST_VALUES) -> object:
    """The document's value: UTF-8 only, no name twice, no number beyond 64 bits, at most 64 levels and `most_values`.

    Raises `Malformed`, whose message says what is wrong and repeats nothing of the input.
    """
    if _fewest_values(raw) > most_values and _fewest_values(_outside_strings(raw)) > most_values:
        raise _too_many(most_values)  # before each of them takes memory, and the time to look through it
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _explain(raw, error) from None
    # The parser keeps the last of two equal names in silence. Each name has one colon of its own, so something was
    # dropped exactly when the text has more colons than the value has names and colons inside strings. That fails only
    # for a colon written as an escape, which takes the slow way.
    colons = _count_colons([value], 0, [most_values, most_values])
    twice = _names_twice(raw) if _COLON_ESCAPE in raw else colons != raw.count(b":")
    if twice:
        raise Malformed("An object in the body has the same name twice; send each name once.")
    return value


def _fewest_values(text: bytes) -> int:
    """How many values there are at least: each list and object is one, and what stands after a comma is one more."""
    return max(text.count(b"[") + text.count(b"{"), text.count(b","))


def _outside_strings(raw: bytes) -> bytes:
    """The marks that `_fewest_values` counts, without those inside strings."""
    # Without the escapes each quotation mark begins or ends a string. Pairs go first: the second one escapes nothing.
    # Two that then stand side by side are a string with no mark in it, or an end and a beginning: out they go, which
    # leaves little to cut up.
    marks = raw.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _NO_MARKS).replace(b'""', b"")
    return b"".join(marks.split(b'"')[::2])


def _count_colons(container: Any, depth: int, room: list[int]) -> int:
    """Names plus colons inside names and strings; refuses on the way what is too deep, too large or too much.

    `room` is how many values there may still be, and how many there might have been.
    """
    if depth > MOST_DEPTH:
        raise _too_deep()
    room[0] -= len(container)
    if room[0] < 0 or (type(container) is dict and len(container) > MOST_NAMES):
        raise _too_many(room[1])
    colons = 0
    members = container
    if type(container) is dict:
        colons = len(container)
        for name in container:
            if ":" in name:
                colons += name.count(":")
        members = container.values()
    for member in members:
        kind = type(member)
        if kind is str:
            colons += member.count(":")
        elif kind is dict or kind is list:
            colons += _count_colons(member, depth + 1, room)
        # The parser turns an integer that does not fit 64 bits into a float, which would change it silently.
        elif kind is float and not -(2.0**63) < member < 2.0**64:
            raise _too_large()
    return colons


def _names_twice(raw: bytes) -> bool:
    found = False

    def check(pairs: list[tuple[str, Any]]) -> None:
        nonlocal found
        found = found or len({name for name, _ in pairs}) != len(pairs)

    json.loads(raw, object_pairs_hook=check)
    return found


def _explain(raw: bytes, error: orjson.JSONDecodeError) -> Malformed:
    if not raw.strip():
        return Malformed("The body is empty; send a JSON document.")
    if raw.startswith(_BOM):
        return Malformed("The body begins with a byte order mark; send UTF-8 without one.")
    try:
        rest = raw.decode()[error.pos :].encode()
    except UnicodeDecodeError:
        return Malformed("The body is not UTF-8.")
    if "depth" in error.msg:
        return _too_deep()
    if "infinity" in error.msg:
        return _too_large()
    if "surrogate" in error.msg:
        return Malformed("A string in the body has half of a surrogate pair; send whole characters.")
    if rest.startswith(_NO_NUMBERS):
        return Malformed("NaN and Infinity are not JSON; send a number or null.")
    return Malformed(f"The body is not valid JSON; see line {error.lineno}, column {error.colno}.")


def _too_deep() -> Malformed:
    return Malformed(f"The body is nested too deeply; send at most {MOST_DEPTH} levels.")


def _too_many(most_values: int) -> Malformed:
    return Malformed(
        f"The body has too much in it; send at most {most_values:,} values, and {MOST_NAMES} names in one object."
    )


def _too_large() -> Malformed:
    return Malformed("A number in the body is too large; send numbers that fit 64 bits.")
