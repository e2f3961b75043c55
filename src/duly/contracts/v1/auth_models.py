"""Accounts and sessions of v1 on the wire."""

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, model_validator

from duly.contracts.v1.fields import Email, Flag, LoginName, NewPassword, Password, PersonName, TokenText, Username
from duly.contracts.v1.models import Identifier, Input, Output


class RegisterRequest(Input):
    """A new account."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"email": "ann@example.com", "password": "correct-horse-battery", "name": "Ann"}]
        }
    )

    email: Email
    password: NewPassword
    username: Username | None = None
    name: PersonName | None = None


class LoginRequest(Input):
    """Credentials: exactly one of `email`, `username` and `identifier`, and the password."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"email": "ann@example.com", "password": "correct-horse-battery"}],
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
    def _one_name(self) -> "LoginRequest":
        if sum(value is not None for value in (self.email, self.username, self.identifier)) != 1:
            raise ValueError("send exactly one of email, username and identifier")
        return self

    @property
    def name(self) -> str:
        """Whichever of the three was sent."""
        return self.email or self.username or self.identifier or ""


class RefreshRequest(Input):
    """The refresh token to exchange."""

    refresh_token: TokenText


class LogoutRequest(Input):
    """Which sessions to end."""

    all_sessions: Flag = False


class UserResponse(Output):
    """A user."""

    id: Identifier
    email: str | None
    username: str | None
    name: str | None
    role: Literal["user", "admin"]
    is_active: bool
    email_verified: bool
    created_at: datetime
    updated_at: datetime


class TokenResponse(Output):
    """RFC 6749 §5.1: `expires_in` is in seconds."""

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"]
    expires_in: int


class AuthResponse(TokenResponse):
    """A user and the tokens of a new session."""

    user: UserResponse


class SessionResponse(Output):
    """One of the caller's sessions; `current` is the one that asks."""

    id: Identifier
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    ip_address: str | None
    user_agent: str | None
    device: str | None
    current: bool


class SessionListResponse(Output):
    """A page of sessions."""

    items: list[SessionResponse]
    total: int
    limit: int
    offset: int
    next_cursor: str | None
