"""Who is calling: the one value that guards, verbs and logs speak of."""

from dataclasses import dataclass

from duly.identity.delegation import Rights


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose token was verified.

    `session_id` is None for an outside issuer's token, which Duly cannot end; `subject` is that issuer's `sub` as it
    came. `expires_at` is in seconds since 1970. `rights` None: all that the user may do; else what the token was given.
    """

    user_id: str
    session_id: str | None
    subject: str | None
    expires_at: float
    rights: Rights | None = None
