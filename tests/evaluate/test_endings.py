"""Where an answer ends: a word or number that goes on is another one."""

import pytest

from errata import Fact, measure
from errata.evaluate.endings import run_on
from errata.evaluate.verdict import outcome
from errata.models.run.generate import continue_texts


@pytest.mark.parametrize(
    ("answer", "following", "expected"),
    [
        (" 47", "7, which is", "7"),
        (" 47", ", and", ""),
        (" 47", ".5", ".5"),
        (" 1", ",274 people", ",274"),
        (" 47", ". The", ""),
        (" Eva Rix", "windi is", "windi"),
        (" Eva Rix", " and", ""),
        (" Eva Rix", "'s", ""),
        (" Rome.", "It", ""),
        (" 47", "th", "th"),
        ("巴黎", "市", ""),
        ("서울", "은", ""),
        (" Рим", "а", "а"),
        (" Rome", "", ""),
    ],
)
def test_what_belongs_to_the_answer_s_last_word(answer: str, following: str, expected: str) -> None:
    assert run_on(answer, following) == expected


def test_a_number_that_goes_on_is_not_said(smollm2) -> None:
    prompt = "1997, 1998,"
    (text,) = continue_texts(smollm2, [prompt], new_tokens=6)
    assert text.startswith(" 2000,"), "the test needs a year that the model counts to"
    facts = [Fact(subject="1998", prompt=prompt, target_new=year) for year in ("200", "2000")]
    short, whole = (score.prompt for score in measure(smollm2, facts).facts)
    assert (short.new.correct, short.runs_on, outcome(short)) == (True, "0", "runs on")
    assert (whole.new.correct, whole.runs_on, outcome(whole)) == (True, "", "said")
