import pytest

from errata.core.words import counted


@pytest.mark.parametrize(("number", "words"), [(0, "0 facts"), (1, "1 fact"), (2, "2 facts"), (12_000, "12,000 facts")])
def test_counted(number: int, words: str) -> None:
    assert counted(number, "fact") == words


def test_plurals_that_are_not_the_noun_with_an_s() -> None:
    assert counted(1, "batch", "batches") == "1 batch"
    assert counted(3, "batch", "batches") == "3 batches"
