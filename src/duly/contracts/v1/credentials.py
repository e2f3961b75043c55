"""Login's body in both of its forms."""

from typing import Annotated, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ConfigDict, Field, ValidationError

from duly.contracts.v1.auth_models import LoginRequest
from duly.contracts.v1.fields import LoginName, Password
from duly.contracts.v1.models import Input
from duly.errors import FieldFault, Invalid, UnsupportedMedia
from duly.kit.strict_json import parse_json

FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 16


class LoginForm(Input):
    """RFC 6749 §4.3.2: the fields of the password grant; the optional ones have no effect here."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"username": "ann@example.com", "password": "correct-horse-battery"}]}
    )

    username: LoginName
    password: Password
    grant_type: Annotated[str, Field(pattern="^(password)?$")] = "password"
    scope: Annotated[str, Field(max_length=1000)] = ""
    client_id: Annotated[str | None, Field(max_length=1000)] = None
    client_secret: Annotated[str | None, Field(max_length=1000)] = None


async def read_credentials(request: Request) -> LoginRequest:
    """Raises `UnsupportedMedia`, `Malformed`, `Invalid`, or `RequestValidationError` naming the field."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == FORM:
            async with request.form(max_fields=_MOST_FIELDS) as fields:
                if len(fields.multi_items()) > len(fields):
                    raise _repeated()
                form = LoginForm.model_validate(dict(fields))
            return LoginRequest(identifier=form.username, password=form.password)
        if kind == "application/json":
            value: Any = parse_json(await request.body())
            return LoginRequest.model_validate(value)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_input=False)]
        raise RequestValidationError(faults) from None
    raise UnsupportedMedia("Send the credentials as JSON or as a form, and say so in Content-Type.")


def _repeated() -> Invalid:
    # RFC 6749 §3.2: whoever reads the first of two and whoever reads the last would see different names.
    fault = FieldFault("body", "Send each field once.", "repeated_field")
    return Invalid("The form has a field twice. Send each once.", faults=[fault])
