import unicodedata

import pytest

from errata.core.words import counted, shortened, visible


@pytest.mark.parametrize(("number", "words"), [(0, "0 facts"), (1, "1 fact"), (2, "2 facts"), (12_000, "12,000 facts")])
def test_counted(number: int, words: str) -> None:
    assert counted(number, "fact") == words


def test_plurals_that_are_not_the_noun_with_an_s() -> None:
    assert counted(1, "batch", "batches") == "1 batch"
    assert counted(3, "batch", "batches") == "3 batches"


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [("short", 5, "short"), ("longer", 5, "long…"), (" a \n b ", 9, "a b"), ("two words", 5, "two…"), ("", 3, "")],
)
def test_shortened(text: str, limit: int, expected: str) -> None:
    assert shortened(text, limit) == expected
    assert len(shortened(text, limit)) <= limit


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" Paris", "·Paris"), ("\n", "⏎"), ("\t", "⇥"), ("\x07", "␇"), ("", "∅"), ("\u202eabc", "‹202E›abc"),
        ("a\u200bb", "a‹200B›b"), ("巴黎", "巴黎"), ("\u00a0", "⍽"), ("\ud800", "‹D800›"),
    ],
)  # fmt: skip
def test_tokens_are_made_visible(text, shown):
    assert visible(text) == shown
    assert not any(unicodedata.category(char)[0] in "CZ" for char in visible(text))
