"""What a word is: how texts are folded and cut for the search, by one rule for both databases and for the query.

Case and accents do not count. A word is a run of letters and digits; every other visible character stands for itself,
and so does each character of scripts that write without blanks. A token is a word under the name of its user and of
where its task lies, so that nobody's search meets anybody else's words.
"""

import base64
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

LONGEST = 64
"""Characters of a word that are indexed; what is longer is compared with the text itself."""
_OWNER = 8
_KEPT, _TRASHED = "k", "t"
# Tags are found as they are, by their hash. No word begins with this: it is a private character, and stands alone.
_TAG = "\ue000"
# ASCII's own symbols would part words in the databases; there they have private characters instead.
_SYMBOLS = 0xF000

# Accents of alphabets, shapes of the same character, and what is not seen at all.
_DROPPED = re.compile(
    "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f"
    "\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
)
_ASCII_PIECES = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
# Thai, Lao, Myanmar, Khmer, Kana, Han.
_WITHOUT_BLANKS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\U00020000-\U000323af]"
)
_PART, _WORD, _ALONE = range(3)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A search, read: each of the words begins a word of the text, and the text holds each of the literals."""

    words: tuple[str, ...]
    literals: tuple[str, ...]


def fold(text: str) -> str:
    """Without case and accents: texts that people would call the same are the same."""
    if text.isascii():
        return text.lower()
    bare = _DROPPED.sub("", unicodedata.normalize("NFKD", text))
    # Folding may bring accents of its own.
    return _DROPPED.sub("", unicodedata.normalize("NFKC", bare.casefold()))


def cut(folded: str) -> list[str]:
    """The words of a folded text, in order, each at most 64 characters long."""
    if folded.isascii():
        return [piece[:LONGEST] for piece in _ASCII_PIECES.findall(folded)]
    return [piece[:LONGEST] for piece in _pieces(folded)]


def read_search(text: str) -> Wanted:
    """What somebody looks for. What is more than one word, such as `100%`, has to stand in the text as it is."""
    words: dict[str, None] = {}
    literals: dict[str, None] = {}
    for term in fold(text).split():
        pieces = cut(term)
        words |= dict.fromkeys(pieces)
        if pieces and (pieces != [term] or _kind(term[0]) == _ALONE):
            literals[term] = None
    return Wanted(tuple(words), tuple(literals))


def owner_mark(user_id: str) -> str:
    """What the words of this user begin with."""
    return base64.b32encode(sha256(user_id.encode()).digest())[:_OWNER].decode().lower()


def tokens(user_id: str, words: tuple[str, ...], tag: str | None, *, trashed: bool) -> list[str]:
    """The tokens to ask the index for."""
    mark = owner_mark(user_id) + (_TRASHED if trashed else _KEPT)
    asked = [mark + _spell(word) for word in words]
    if tag is not None:
        asked.append(mark + _tag_word(tag))
    return asked


def index_words(mark: str, task: dict[str, Any], *, trashed: bool) -> tuple[str, str]:
    """The folded text of a task's document, and all its tokens with a blank before each."""
    # No word, and no literal of a search, reaches over a line feed.
    folded = fold("\n".join((task["title"], task["description"] or "", *task["tags"])))
    mark = " " + mark + (_TRASHED if trashed else _KEPT)
    found = [_spell(word) if len(word) == 1 else word for word in dict.fromkeys(cut(folded))]
    found += map(_tag_word, task["tags"])
    return folded, "".join([mark + word for word in found])


@lru_cache(maxsize=4096)
def _tag_word(tag: str) -> str:
    return _TAG + base64.b32encode(sha256(tag.encode()).digest())[:26].decode().lower()


def _spell(word: str) -> str:
    if len(word) == 1 and word.isascii() and not word.isalnum():
        return chr(_SYMBOLS + ord(word))
    return word


@lru_cache(maxsize=4096)
def _kind(character: str) -> int:
    if _WITHOUT_BLANKS.match(character):
        return _ALONE
    category = unicodedata.category(character)
    if category[0] == "Z" or category in ("Cc", "Cf", "Cs"):
        return _PART
    # Marks that were not dropped belong to the letter before them.
    return _WORD if category[0] in "LNM" else _ALONE


def _pieces(folded: str) -> Iterator[str]:
    begin = 0
    for place, character in enumerate(folded):
        kind = _kind(character)
        if kind == _WORD:
            continue
        if begin < place:
            yield folded[begin:place]
        if kind == _ALONE:
            yield character
        begin = place + 1
    if begin < len(folded):
        yield folded[begin:]
