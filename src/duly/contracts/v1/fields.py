"""The field types of v1's wire models: bounded, strict, and said in the OpenAPI document as they are checked."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from duly.identity.accounts import read_email
from duly.identity.strength import PASSWORD_MAX_LENGTH
from duly.kit.texts import Line, Text, clean_line
from duly.tasks.tables import DESCRIPTION_LENGTH, TITLE_LENGTH

_CLOCK = r"([01]\d|2[0-3]):[0-5]\d"
_MOMENT = re.compile(rf"\d{{4}}-\d\d-\d\d[Tt ]{_CLOCK}:[0-5]\d(\.\d{{1,9}})?([Zz]|[+-]{_CLOCK})", re.ASCII)
# PostgreSQL's driver takes the first and the last moment of Python's calendar for minus and plus infinity.
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
# What `clean_line` lets pass, in the regular expressions of JSON Schema. Blanks around a text are dropped before it is
# judged; a pattern that said so could not be read any more, so the description says it.
_BLANK = r"\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_CONTROL = r"\u0000-\u001f\u007f-\u009f"
LINE_PATTERN = rf"^[^{_CONTROL}\u2028\u2029]*$"
FILLED_LINE_PATTERN = rf"^[^{_CONTROL}\u2028\u2029{_BLANK}][^{_CONTROL}\u2028\u2029]*$"
TRIMMED = "Blanks around it are dropped."
TEXT_PATTERN = r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$"
SECRET_PATTERN = rf"^[^{_CONTROL}]*$"
LEAST_NEW_PASSWORD = 8
# With blanks around it, and before what is written in pieces is put together.
_MOST_SENT_AS_EMAIL = 2048
_CONTROLS = re.compile(f"[{_CONTROL}]")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return value


def _line(least: int, most: int) -> Any:
    pattern = FILLED_LINE_PATTERN if least else LINE_PATTERN
    schema = {"type": "string", "minLength": least, "maxLength": most, "pattern": pattern, "description": TRIMMED}
    return Annotated[str, Line(most, least), WithJsonSchema(schema)]


def _lines(most: int) -> Any:
    schema = {"type": "string", "maxLength": most, "pattern": TEXT_PATTERN, "description": TRIMMED}
    return Annotated[str, Text(most), WithJsonSchema(schema)]


def read_moment(value: object) -> datetime:
    """An RFC 3339 date and time with an offset, in UTC. Raises ValueError."""
    text = _text(value)
    if not _MOMENT.fullmatch(text):
        raise ValueError("must be an RFC 3339 time such as 2026-12-31T09:00:00Z")
    try:
        moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except OverflowError:
        moment = _LAST
    except ValueError:
        raise ValueError("must be a time that exists, such as 2026-12-31T09:00:00Z") from None
    if not _FIRST < moment < _LAST:
        raise PydanticCustomError(
            "time_out_of_range", "must be a time between the years 1 and 9999, and not their very first or last moment"
        )
    return moment


def _email(value: object) -> str:
    sent = _text(value)
    try:
        if len(sent) > _MOST_SENT_AS_EMAIL:
            raise ValueError
        text = clean_line(sent)
        if len(text) > 254:
            raise ValueError
        return read_email(text)
    except ValueError:
        raise ValueError("must be an e-mail address such as ann@example.com") from None


def _secret(least: int, most: int, **said: Any) -> Any:
    """`said` is what the document says beyond or instead of what is checked here."""

    def check(value: object) -> str:
        text = _text(value)
        if not least <= len(text) <= most:
            raise ValueError(f"must have {least} to {most} characters")
        if _CONTROLS.search(text):
            raise ValueError("must have no control character")
        return text

    return Annotated[
        str,
        BeforeValidator(check),
        WithJsonSchema(
            {
                "type": "string",
                "minLength": least,
                "maxLength": most,
                "pattern": SECRET_PATTERN,
                "writeOnly": True,
                **said,
            }
        ),
    ]


def _json_integer(value: object) -> object:
    # JSON has one kind of number: to JSON Schema 1.0 is an integer, and no text and no boolean is one.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, (str, bool)):
        raise ValueError("must be a whole number")
    return value


def _distinct(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(tags))


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


Title = _line(1, TITLE_LENGTH)
Description = _lines(DESCRIPTION_LENGTH)
PersonName = _line(1, 200)
Moment = Annotated[
    datetime,
    BeforeValidator(read_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-12-31T09:00:00Z"]}),
]
Email = Annotated[
    str,
    BeforeValidator(_email),
    WithJsonSchema({"type": "string", "format": "email", "maxLength": 254, "examples": ["ann@example.com"]}),
]
Flag = Annotated[bool, BeforeValidator(_flag), WithJsonSchema({"type": "boolean"})]
Tag = _line(1, 50)
LoginName = _line(0, 254)
Search = _line(1, 100)
Username = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{2,31}$", description="3 to 32 letters, digits, . _ -")
]
Tags = Annotated[list[Tag], Field(max_length=20), AfterValidator(_distinct)]  # type: ignore[valid-type]
JSON_INTEGER = BeforeValidator(_json_integer)
Password = _secret(1, 1024, format="password")
"""Bounded here only against abuse: the rules for a new password are identity's."""
NewPassword = _secret(1, 1024, format="password", minLength=LEAST_NEW_PASSWORD, maxLength=PASSWORD_MAX_LENGTH)
"""Checked like `Password`; the document says the lengths that identity will ask for."""
TokenText = _secret(1, 512)
