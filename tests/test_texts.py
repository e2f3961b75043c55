"""Text from people: what is kept as it is, what is normalised, and what is refused."""

import unicodedata
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from duly.kit.texts import Line, Text, clean_line, clean_text

TITLE: TypeAdapter[str] = TypeAdapter(Annotated[str, Line(5)])
NOTE: TypeAdapter[str | None] = TypeAdapter(Annotated[str, Text(5)] | None)


@pytest.mark.parametrize(
    ("value", "cleaned"),
    [
        ("plain", "plain"),
        ("  a b \n", "a b"),
        ("\u00a0a\u3000", "a"),
        ("Cafe\u0301", "Café"),
        ("<b>&amp;</b>", "<b>&amp;</b>"),
        ("👩‍👩‍👧 مرحبا", "👩‍👩‍👧 مرحبا"),
        ("", ""),
        ("   ", ""),
    ],
)
def test_both_kinds_of_text_keep_what_was_meant(value: str, cleaned: str) -> None:
    assert clean_line(value) == clean_text(value) == cleaned


def test_lines_break_in_text_and_not_in_a_line() -> None:
    assert clean_text("a\r\nb\tc\u2028d") == "a\r\nb\tc\u2028d"
    for separator in "\n\r\t\u2028\u2029":
        with pytest.raises(ValueError, match="control character"):
            clean_line(f"a{separator}b")


@pytest.mark.parametrize("code", [*range(9), 11, 12, *range(14, 32), *range(127, 160)])
@pytest.mark.covers("B057")
def test_control_characters_are_refused_wherever_they_stand(code: int) -> None:
    for value in (chr(code), f"a{chr(code)}b", f"{chr(code)}a", f"a{chr(code)}"):
        for clean in (clean_line, clean_text):
            with pytest.raises(ValueError, match="control character"):
                clean(value)


@pytest.mark.parametrize("value", ["\ud800", "a\udfff", "\udc00\ud800"])
def test_half_a_character_is_refused(value: str) -> None:
    for clean in (clean_line, clean_text):
        with pytest.raises(ValueError, match="surrogate"):
            clean(value)


@given(st.text())
def test_cleaning_twice_is_cleaning_once(value: str) -> None:
    try:
        cleaned = clean_text(value)
    except ValueError:
        return
    assert clean_text(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    cleaned.encode()


def fault(adapter: TypeAdapter[Any], value: object) -> str:
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(value)
    return str(caught.value.errors()[0]["type"])


def test_the_length_is_counted_after_cleaning() -> None:
    assert TITLE.validate_python("  abcde  ") == "abcde"
    assert TITLE.validate_python("e\u0301" * 5) == "é" * 5
    assert TITLE.validate_python("😀" * 5) == "😀" * 5
    assert fault(TITLE, "abcdef") == "string_too_long"
    assert fault(TITLE, "   ") == "string_too_short"


def test_faults_have_stable_types_and_other_types_are_left_to_the_model() -> None:
    assert fault(TITLE, "a\0b") == "control_character"
    assert fault(TITLE, "a\ud800") == "lone_surrogate"
    assert fault(TITLE, 5) == "string_type"
    assert NOTE.validate_python(None) is None
    assert NOTE.validate_python("") == ""
    assert NOTE.validate_json('"a\\nb"') == "a\nb"


def test_the_schema_tells_the_limits() -> None:
    assert TITLE.json_schema() == {"type": "string", "minLength": 1, "maxLength": 5}
