"""How texts are folded and cut into words, before any database has them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from duly.tasks.words import LONGEST, cut, fold, index_words, read_search, tokens

LETTERS = "aAbß éÉ1 Жжй%_-+(🪴買物いซื้\u200d\uff37İΰ½ \n"
TEXTS = st.text(LETTERS, max_size=40) | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@settings(deadline=None, max_examples=400)
@given(TEXTS)
def test_a_folded_text_stays_as_it_is_and_its_words_are_plain(text: str) -> None:
    folded = fold(text)
    assert fold(folded) == folded
    for word in cut(folded):
        assert 0 < len(word) <= LONGEST
        assert word in folded
        assert not any(character.isspace() for character in word)


@settings(deadline=None, max_examples=400)
@given(TEXTS)
def test_a_search_asks_for_the_words_that_are_indexed(text: str) -> None:
    folded, words = index_words("owner", {"title": text, "description": None, "tags": []}, trashed=False)
    wanted = read_search(text)
    found = {word.removeprefix("owner") for word in words.split(" ")[1:]}
    asked = {word[8:] for word in tokens("u", wanted.words, None, trashed=False)}
    assert asked == {word for word in found if word}
    assert all(literal in folded for literal in wanted.literals)
    # What ends up in the databases' own query languages has no meaning there.
    assert all(character.isalnum() or not character.isascii() for word in asked for character in word)


def test_a_part_of_a_task_belongs_to_its_user_and_its_place() -> None:
    def of(user_id: str, *, trashed: bool) -> list[str]:
        return tokens(user_id, ("cafe",), "Tag", trashed=trashed)

    places = [of("ann", trashed=False), of("ann", trashed=True), of("ben", trashed=False)]
    assert len({word[:9] for words in places for word in words}) == 3
    assert {words[0][9:] for words in places} == {"cafe"}
    assert of("ann", trashed=False)[1] != tokens("ann", (), "tag", trashed=False)[0]
