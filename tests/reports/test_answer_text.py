"""How answers are shown, against answers made by hand."""

import pytest

from errata.jobs.ask_job import Answer
from errata.reports.answer_text import answers

LONG = Answer("Once", " a word " * 100 + "\n\nthe end", tuple((f" token{i}", 0.1) for i in range(9)))


def test_one_state() -> None:
    answer = Answer("Paris is in", " France.", ((" France", 0.756), ("\n", 0.05)))
    assert answers([answer], None, None, width=80).splitlines() == [
        "Paris is in",
        "  goes on  France.",
        r"  next     ' France' 75.6%  '\n' 5.0%",
    ]


def test_both_states() -> None:
    before, after = (Answer("Paris is in", f" {place}.", ((f" {place}", 0.9),)) for place in ("France", "Italy"))
    assert answers([before], [after], "abc", width=80).splitlines() == [
        "Paris is in",
        "  before",
        "    goes on  France.",
        "    next     ' France' 90.0%",
        "  with patch abc",
        "    goes on  Italy.",
        "    next     ' Italy' 90.0%",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_fit_the_terminal_and_say_that_they_are_cut(width: int) -> None:
    lines = answers([LONG], None, None, width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum("word" in line for line in lines) == 3
    assert any(line.strip() == "… (--full shows all)" for line in lines)
    # No next token is torn from its probability.
    assert sum(line.count("token") for line in lines) == sum(line.count("%") for line in lines) == 9


@pytest.mark.parametrize("width", [40, 200])
def test_in_full_nothing_is_cut_and_line_ends_stay(width: int) -> None:
    lines = answers([LONG], None, None, width=width, full=True).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.count("word") for line in lines) == 100
    at = next(i for i, line in enumerate(lines) if line.strip() == "the end")
    assert lines[at - 1] == ""
