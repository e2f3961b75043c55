"""What a new password must be (SP 800-63B-4 §3.1.1): long enough, hard to guess, and not a name of its owner."""

import math
import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from zxcvbn import zxcvbn
from zxcvbn.frequency_lists import FREQUENCY_LISTS
from zxcvbn.matching import L33T_TABLE

from duly.errors import FieldFault, Invalid
from duly.kit.passwords import PasswordHasher

PASSWORD_MAX_LENGTH = 128
LEAST_SCORE = 2
# The words of this service, which anybody would try against it: a password of nothing else, with a few digits and signs
# between them, is refused.
CONTEXT_WORDS = ("duly", "task", "tasks", "todo", "account", "admin", "administrator")
_MOST_SIGNS_BETWEEN = 6
_words_of_context = re.compile(f"(?:{'|'.join(CONTEXT_WORDS)})+").fullmatch
# The estimate's cost grows with the square of the length; what these characters do not give, the rest need not.
_ESTIMATED_CHARACTERS = 72
# It also reads a text once for every way in which signs can stand for letters ("p4$$"): 72 signs chosen for that took
# seconds. So many readings of a text of the full length are paid for; a text with more of them is cut.
_PAID_READINGS = 2


async def check_password(
    hasher: PasswordHasher, password: str, *, names: Sequence[str | None], minimum: int, field: str = "password"
) -> None:
    """`names` are what the owner is called: address, username, name. Raises `Invalid` (`WEAK_PASSWORD`) naming `field`.

    The estimate takes milliseconds, so it runs in the threads of the hashes.
    """
    known = [name for name in names if name]
    fault = find_weakness(password, known, minimum) or await hasher.run(lambda: _find_guessable(password, known))
    if fault is not None:
        message, kind = fault
        raise Invalid(
            "The password cannot be used. Choose another one.",
            code="WEAK_PASSWORD",
            faults=[FieldFault(field, message, kind)],
        )


def find_weakness(password: str, names: Sequence[str], minimum: int) -> tuple[str, str] | None:
    """What is plainly wrong, as a sentence and a stable word; lengths count code points after NFC."""
    text = unicodedata.normalize("NFC", password)
    if len(text) < minimum:
        return f"Use at least {minimum} characters.", "password_too_short"
    if len(text) > PASSWORD_MAX_LENGTH:
        return f"Use at most {PASSWORD_MAX_LENGTH} characters.", "password_too_long"
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
        # A line editor's control codes, or bytes that were no UTF-8: nobody could type it again.
        return "Use no control characters, and valid Unicode.", "password_not_text"
    folded = text.casefold()
    for name in names:
        if folded in {name.casefold(), name.partition("@")[0].casefold()}:
            if "@" in name:
                return "Do not use the e-mail address as the password.", "password_is_email"
            return "Do not use your name as the password.", "password_is_name"
    letters = "".join(filter(str.isalpha, folded))
    if len(folded) - len(letters) <= _MOST_SIGNS_BETWEEN and _words_of_context(letters):
        return "Do not make it of the words of this service alone.", "password_is_context"
    if folded in _common():
        return "This is one of the passwords that are tried first. Choose a rarer one.", "password_common"
    return None


def _find_guessable(password: str, names: Sequence[str]) -> tuple[str, str] | None:
    text = _affordable(unicodedata.normalize("NFC", password))
    known = [part for name in names for part in (name, name.partition("@")[0])]
    found = zxcvbn(text, user_inputs=[*known, *CONTEXT_WORDS])
    if found["score"] >= LEAST_SCORE:
        return None
    return "This is too easy to guess. Use several words that do not belong together.", "password_guessable"


def _affordable(text: str) -> str:
    """The beginning of a text, as much of it as the estimate reads in some hundredths of a second."""
    text = text[:_ESTIMATED_CHARACTERS]
    while _count_readings(text) * len(text) ** 2 > _PAID_READINGS * _ESTIMATED_CHARACTERS**2:
        text = text[:-1]
    return text


def _count_readings(text: str) -> int:
    signs = set(text)
    return math.prod(max(1, len(signs.intersection(standing))) for standing in L33T_TABLE.values())


@cache
def _common() -> frozenset[str]:
    return frozenset(FREQUENCY_LISTS["passwords"])
