"""The accounts contract on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, WithJsonSchema, model_validator

from duly.contracts.v1.fields import Email, LoginName, NewPassword, Password, PersonName, TokenText, Username
from duly.contracts.v1.models import Identifier, Input, Output, QueryNumber

_USER: dict[str, Any] = {
    "id": "019aa0c4-1b11-7b02-8c4e-6a7b1d2e3f40",
    "email": "ann@example.com",
    "username": "ann",
    "name": "Ann",
    "role": "user",
    "is_active": True,
    "email_verified": False,
    "created_at": "2026-11-21T15:33:00.000000Z",
    "updated_at": "2026-11-21T15:33:00.000000Z",
}
_ADMIN: dict[str, Any] = {**_USER, "email": "root@example.com", "username": "root", "name": None, "role": "admin"}
_TOKENS: dict[str, Any] = {
    "access_token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.Et9HFtf9R3GEMA0IICOfFMVXY7kkTX1wr4qCyhIf58U",
    "refresh_token": "kC4Gm0bqkXhVZ7Dq9uJq8m5mM1cY7o3xX0w2eQy3b5E",
    "token_type": "bearer",
    "expires_in": 900,
}
_ERROR: dict[str, Any] = {
    "error": "AuthenticationError",
    "message": "This session has ended. Sign in again.",
    "status_code": 401,
    "request_id": "9b2f6f5e-3a0c-4f5e-8d38-5f0c4f6f4f10",
}
_FAULT: dict[str, Any] = {"field": "email", "message": "Must be an e-mail address.", "type": "value_error"}


def _example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


def _read_flag(value: object) -> object:
    """In a query a flag has two spellings; left to itself pydantic also reads `on`, `1` and `yes`."""
    if isinstance(value, str):
        if value not in {"true", "false"}:
            raise ValueError("must be true or false")
        return value == "true"
    return value


QueryFlag = Annotated[bool, BeforeValidator(_read_flag), WithJsonSchema({"type": "boolean"})]
# Null is taken from whoever has no address, an outside issuer's user, so that what was read can be sent back.
OwnEmail = Annotated[Email | None, WithJsonSchema({"type": "string", "format": "email", "maxLength": 254})]
ReadOver = Annotated[str | StrictBool | None, Field(description="Set by the server alone; what is sent is read over.")]


class AccountsRegisterRequest(Input):
    """A new account, of a user or of an administrator."""

    model_config = _example({"email": "ann@example.com", "username": "ann", "password": "correct-horse-battery"})

    email: Email
    username: Username
    password: NewPassword
    name: PersonName | None = None


class AccountsLoginRequest(Input):
    """Credentials: exactly one of `email`, `username` and `identifier`, and the password."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"username": "ann", "password": "correct-horse-battery"}],
            "oneOf": [
                {
                    "required": [name, "password"],
                    "properties": {name: {"type": "string"}, "password": {"type": "string"}},
                }
                for name in ("email", "username", "identifier")
            ],
        }
    )

    email: LoginName | None = None
    username: LoginName | None = None
    identifier: LoginName | None = None
    password: Password

    @model_validator(mode="after")
    def _one_name(self) -> "AccountsLoginRequest":
        if sum(value is not None for value in (self.email, self.username, self.identifier)) != 1:
            raise ValueError("send exactly one of email, username and identifier")
        return self

    @property
    def login_name(self) -> str:
        """Whichever of the three was sent."""
        return self.email or self.username or self.identifier or ""


class AccountsRefreshRequest(Input):
    """The refresh token to exchange."""

    refresh_token: TokenText


class AccountsPasswordChange(Input):
    """The password that is, and the one that shall be."""

    model_config = _example({"current_password": "grey-walrus-on-monday", "new_password": "violin-under-the-bridge"})

    current_password: Password
    new_password: NewPassword


def _describe_merge(schema: dict[str, Any]) -> None:
    # An absent field stays as it is: a default in the document would say something else.
    for field in schema["properties"].values():
        field.pop("default", None)
    schema["examples"] = [{"name": "Ann Smith"}]


class AccountsUserUpdate(Input):
    """A merge: a field that is absent stays, `null` clears it.

    A user as it was read may be sent back whole: fields that only the server sets are read over. A new `email` needs
    `current_password`, and takes effect when the mail that is sent to it is answered.
    """

    model_config = ConfigDict(json_schema_extra=_describe_merge)

    name: PersonName | None = None
    username: Username | None = None
    email: OwnEmail = None
    current_password: Password | None = None
    id: ReadOver = None
    role: ReadOver = None
    is_active: ReadOver = None
    email_verified: ReadOver = None
    created_at: ReadOver = None
    updated_at: ReadOver = None


class AccountsForgotRequest(Input):
    """Whose password was forgotten."""

    model_config = _example({"email": "ann@example.com"})

    email: Email


class AccountsResetRequest(Input):
    """The token of the mail, and the new password."""

    token: TokenText
    new_password: NewPassword


class AccountsTestMailRequest(Input):
    """Where the test mail goes; to the administrator's own address when it is not said."""

    model_config = _example({"to": "postmaster@example.com"})

    to: Email | None = None


class AccountsPageQuery(Input):
    """Which page of the users; the first is 1."""

    page: Annotated[int, Field(ge=1, le=1_000_000), QueryNumber] = 1
    page_size: Annotated[int, Field(ge=1, le=100), QueryNumber] = 20
    is_active: QueryFlag | None = None


class AccountsUser(Output):
    """A user or an administrator."""

    model_config = _example(_USER)

    id: Identifier
    email: str | None
    username: str | None
    name: str | None
    role: Literal["user", "admin"]
    is_active: bool
    email_verified: bool
    created_at: datetime
    updated_at: datetime


class AccountsTokens(Output):
    """RFC 6749 §5.1: `expires_in` is in seconds."""

    model_config = _example(_TOKENS)

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"]
    expires_in: int


class AccountsUserSession(AccountsTokens):
    """A user and the tokens of a new session."""

    model_config = _example({"user": _USER, **_TOKENS})

    user: AccountsUser


class AccountsAdminSession(AccountsTokens):
    """An administrator and the tokens of a new session."""

    model_config = _example({"admin": _ADMIN, **_TOKENS})

    admin: AccountsUser


class AccountsUserPage(Output):
    """A page of users, newest first; `pages` is how many there are."""

    model_config = _example({"items": [_USER], "total": 1, "page": 1, "page_size": 20, "pages": 1})

    items: list[AccountsUser]
    total: int
    page: int
    page_size: int
    pages: int


class AccountsMessage(Output):
    """What was done, for people."""

    model_config = _example({"message": "The password was changed."})

    message: str


class AccountsFault(Output):
    """One wrong field."""

    field: str
    message: str
    type: str


class AccountsError(Output):
    """A refusal; `error` names its kind, and `request_id` finds the request in the log."""

    model_config = _example(_ERROR)

    error: str
    message: str
    status_code: int
    request_id: str


class AccountsValidationError(AccountsError):
    """A refusal with one entry for each wrong field."""

    model_config = _example(
        {**_ERROR, "error": "ValidationError", "message": "A field is not valid.", "status_code": 422,
         "errors": [_FAULT]}
    )  # fmt: skip

    errors: list[AccountsFault]
