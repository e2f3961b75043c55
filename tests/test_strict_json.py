"""What is read as JSON, and what is refused with a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.errors import Malformed
from duly.kit.strict_json import parse_json

SECRET = "canary"


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'"\xff"', "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        ('{"a": 1}'.encode("utf-16-le"), "not valid JSON"),
        (b'{"a": 1, "a": 2}', "same name twice"),
        (b'{"a": 1, "\\u0061": 2}', "same name twice"),
        (b'{"a": {"b": 1, "c": [{"d": 1, "d": 1}]}}', "same name twice"),
        (b'{"a:b": "c:d", "a:b": "c:d"}', "same name twice"),
        (b'{"x": {"a": 1}, "x": {"a": 1}}', "same name twice"),
        (b'{"a": "\\u003a", "a": "b"}', "same name twice"),
        (b'{"a": "\\u003A\\u003A", "a": 1, "b": ""}', "same name twice"),
        (b'{"a\\u003a": 1, "a:": 2}', "same name twice"),
        (b'{"\\u003a": 1, "\\u003a": 2}', "same name twice"),
        (b"NaN", "NaN"),
        (b'{"a": Infinity}', "NaN"),
        (b"[-Infinity]", "NaN"),
        (b"1" + b"0" * 5000, "too large"),
        (b"-" + b"9" * 400, "too large"),
        (b"1e5000", "too large"),
        (b"[18446744073709551616]", "too large"),
        (b'{"a": -9223372036854775809}', "too large"),
        (nested(65), "nested too deeply"),
        (nested(2000), "nested too deeply"),
        (b"[" * 10_000, "nested too deeply"),
        (b"[" * 100_000, "too much"),
        (b"[" + b"[]," * 20_000 + b"[]]", "too much"),
        (b"[" + b"0," * 20_000 + b"0]", "too much"),
        (b"{" + b",".join(b'"%d": 0' % number for number in range(257)) + b"}", "too much"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested too deeply"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b'"\x00"', "not valid JSON"),
        (b"{'a': 1}", "line 1, column 2"),
        (b'{"a": 1} x', "not valid JSON"),
        (b"[1,]", "not valid JSON"),
        (b'{"a":\n\n nope}', "line 3, column 2"),
    ],
)
@pytest.mark.covers("A134", "B057", "D062", "E066", "C066", "C075", "C088")
def test_refused_with_the_reason(raw: bytes, words: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_json(raw)
    assert words in caught.value.message
    assert caught.value.code == "MALFORMED_REQUEST"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": "10:30:00", "b": ["x:y", {"c:d": ":"}], "e": null}',
        b'{"a": "\\u003a\\u003A", "b": "\\\\u003a"}',
        b'":"',
        b"12",
        b"null",
        b"[18446744073709551615, -9223372036854775808, 0.5, 1e18, 1e-5000, -0]",
        b'"\\ud83d\\ude00 \\u0000"',
        b'[{"a": 1}, {"a": 1}]',
        b' {"": {"": ""}} ',
        json.dumps(["[{" * 20_000, '\\"[', "[" * 20_000]).encode(),
        json.dumps([",:" * 20_000, '\\",' * 9000 + "\\", "," * 20_000, '"', '\\\\"', ',"' * 20_000]).encode(),
        b"[" + b"0," * 19_998 + b"0]",
        b"{" + b",".join(b'"%d": 0' % number for number in range(256)) + b"}",
        nested(64),
    ],
)
def test_read_like_any_json(raw: bytes) -> None:
    assert parse_json(raw) == json.loads(raw)


@pytest.mark.parametrize("raw", [b'{"canary": 1, "canary": 2}', b'{"a": canary}', b'{"a": "canary\\ud800"}', b"canary"])
def test_messages_repeat_no_input(raw: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        parse_json(raw)
    assert SECRET not in caught.value.message


NAMES = st.sampled_from(["a", "b", ":", "a:", "\\", "é", ""])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(st.sampled_from('a:"\\u003é'), max_size=4))


def spell(text: str, escape_colons: bool) -> str:
    return json.dumps(text).replace(":", "\\u003a") if escape_colons else json.dumps(text, ensure_ascii=False)


def write(value: object, escape_colons: bool) -> str:
    """JSON text in which a list of pairs is an object, so that a name can come twice."""
    if isinstance(value, tuple):
        pairs = (f"{spell(name, escape_colons)}: {write(member, escape_colons)}" for name, member in value)
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(write(member, escape_colons) for member in value) + "]"
    return spell(value, escape_colons) if isinstance(value, str) else json.dumps(value)


def has_duplicate(value: object) -> bool:
    if isinstance(value, tuple):
        names = [name for name, _ in value]
        return len(set(names)) < len(names) or any(has_duplicate(member) for _, member in value)
    return isinstance(value, list) and any(has_duplicate(member) for member in value)


DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.lists(st.tuples(NAMES, inner), max_size=4).map(tuple)),
    max_leaves=12,
)


@given(DOCUMENTS, st.booleans())
def test_a_document_is_refused_exactly_when_an_object_names_twice(value: object, escape_colons: bool) -> None:
    raw = write(value, escape_colons).encode()
    if has_duplicate(value):
        with pytest.raises(Malformed):
            parse_json(raw)
    else:
        assert parse_json(raw) == json.loads(raw)


def refuse_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError
    return dict(pairs)


@given(st.one_of(st.binary(max_size=64), st.text(st.sampled_from('{}[]":,a1 '), max_size=12).map(str.encode)))
def test_any_bytes_are_read_like_json_or_malformed(raw: bytes) -> None:
    try:
        value = parse_json(raw)
    except Malformed:
        with pytest.raises((ValueError, RecursionError)):
            json.loads(raw.decode(), parse_constant=int, object_pairs_hook=refuse_twice)
    else:
        assert value == json.loads(raw)
