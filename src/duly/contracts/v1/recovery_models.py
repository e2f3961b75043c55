"""Recovery and verification of v1 on the wire."""

from pydantic import ConfigDict

from duly.contracts.v1.fields import Email, NewPassword, Password, TokenText
from duly.contracts.v1.models import Input


class EmailRequest(Input):
    """An address to send a mail to, if it is somebody's."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"email": "ann@example.com"}]})

    email: Email


class TokenRequest(Input):
    """The token of a mail."""

    token: TokenText


class ResetPasswordRequest(Input):
    """The token of the mail, and the password that is to be."""

    token: TokenText
    new_password: NewPassword


class ChangePasswordRequest(Input):
    """The password as it is, and as it is to be."""

    current_password: Password
    new_password: NewPassword


class ChangeEmailRequest(Input):
    """The address that is to be, and the password."""

    new_email: Email
    current_password: Password
