"""Cursors: what comes back, and which are refused."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.errors import Malformed
from duly.kit.paging import Cursors

CURSORS = Cursors(b"k" * 32)
VALUES: list[str | int | None] = ["2026-11-30T17:00:00.000000Z", 7, None, "018f2b7e-0000-7000-8000-000000000001"]
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def refused(scope: str, cursor: str, cursors: Cursors = CURSORS) -> bool:
    with pytest.raises(Malformed) as caught:
        cursors.open(scope, cursor)
    return caught.value.code == "BAD_CURSOR"


def test_sealed_values_come_back_in_order() -> None:
    cursor = CURSORS.seal("ann|-created_at", VALUES)
    assert CURSORS.open("ann|-created_at", cursor) == VALUES
    assert set(cursor) <= set(ALPHABET)


@given(st.text(), st.lists(st.one_of(st.text(max_size=40), st.integers(-(2**63), 2**63 - 1), st.none()), max_size=5))
def test_every_list_of_values_round_trips(scope: str, values: list[str | int | None]) -> None:
    assert CURSORS.open(scope, CURSORS.seal(scope, values)) == values


@pytest.mark.parametrize("scope", ["bob|-created_at", "ann|created_at", "ann|-created_at ", "", "ann|-created_at\0"])
def test_another_user_filter_or_sort_is_refused(scope: str) -> None:
    assert refused(scope, CURSORS.seal("ann|-created_at", VALUES))


def test_scope_and_values_cannot_be_shifted_into_each_other() -> None:
    # The same bytes cut at another place: without the length in front, both would have one signature.
    raw = base64.urlsafe_b64decode(CURSORS.seal('ann["x"]', ["y"]) + "=" * 4)
    moved = base64.urlsafe_b64encode(raw[:16] + b'["x"]' + raw[16:]).rstrip(b"=").decode()
    assert refused("ann", moved)


def test_another_key_is_refused() -> None:
    assert refused("ann", CURSORS.seal("ann", VALUES), Cursors(b"j" * 32))


def test_every_changed_character_is_refused() -> None:
    cursor = CURSORS.seal("ann", ["abc", 12])
    for position, character in enumerate(cursor):
        # The neighbour in the alphabet changes the lowest bit, which at the end of the text means no byte at all.
        other = ALPHABET[ALPHABET.index(character) ^ 1]
        assert refused("ann", cursor[:position] + other + cursor[position + 1 :])
        assert refused("ann", cursor[:position])


@pytest.mark.parametrize(
    "cursor",
    ["", "A", "AAAA", "é", "\ud800", "\0", "+/+/", "a b", "A" * 22, "A" * 2048, "A" * 2049, "A" * 1_000_000, "=" * 8],
)
def test_what_was_never_sealed_is_refused(cursor: str) -> None:
    assert refused("ann", cursor)


@pytest.mark.parametrize("dress", ["{}=", "{}==", " {}", "{}\n", "{}.", "{}A"])
def test_another_spelling_of_a_good_cursor_is_refused(dress: str) -> None:
    for values in (["a"], ["ab"], ["abc"]):
        assert refused("ann", dress.format(CURSORS.seal("ann", values)))


def test_the_standard_alphabet_is_refused() -> None:
    cursors = (CURSORS.seal("ann", [f"?>~{n}"]) for n in range(100))
    cursor = next(cursor for cursor in cursors if "-" in cursor or "_" in cursor)
    assert refused("ann", cursor.replace("-", "+").replace("_", "/"))


def test_seal_never_makes_what_open_refuses() -> None:
    longest = CURSORS.seal("ann", ["x" * 1516])
    assert len(longest) == 2048
    assert CURSORS.open("ann", longest) == ["x" * 1516]
    with pytest.raises(ValueError, match="too long"):
        CURSORS.seal("ann", ["x" * 1517])
    with pytest.raises(ValueError, match="64-bit"):
        CURSORS.seal("ann", [2**64])
