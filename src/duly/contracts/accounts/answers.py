"""What several routes of the accounts contract answer."""

from dataclasses import asdict
from typing import Literal

from starlette.responses import Response

from duly.identity.accounts import Account
from duly.identity.sessions import TokenPair
from duly.web.replies import Document, dump_json


def tokens(pair: TokenPair) -> Response:
    """A new pair."""
    return Document(dump_json(_shown(pair)))


def session(whose: Literal["user", "admin"], account: Account, pair: TokenPair, status: int = 200) -> Response:
    """An account and the pair of its new session."""
    return Document(dump_json({whose: asdict(account), **_shown(pair)}), status)


def one(account: Account) -> Response:
    """An account."""
    return Document(dump_json(asdict(account)))


def message(text: str, status: int = 200) -> Response:
    """A sentence for people."""
    return Document(dump_json({"message": text}), status)


def _shown(pair: TokenPair) -> dict[str, object]:
    return {
        "access_token": pair.access_token,
        "refresh_token": pair.refresh_token,
        "token_type": "bearer",
        "expires_in": pair.expires_in,
    }
