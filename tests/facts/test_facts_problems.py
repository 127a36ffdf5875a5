"""How problems are shown."""

import pytest

from errata.facts import Problem, format_problems


@pytest.mark.parametrize(
    ("problem", "shown"),
    [
        (Problem("error", "it is empty"), "error: it is empty"),
        (Problem("error", "it is empty", 3), "line 3: error: it is empty"),
        (Problem("warning", "odd", 3, "eiffel"), "line 3 [eiffel]: warning: odd"),
        (Problem("error", "odd", 3, None, "record 7 (line 3)"), "record 7 (line 3): error: odd"),
        (Problem("error", "odd", fact_id="eiffel"), "[eiffel]: error: odd"),
    ],
)
def test_shown(problem: Problem, shown: str) -> None:
    assert str(problem) == shown


def test_errors_come_first_and_the_rest_is_counted() -> None:
    warnings = [Problem("warning", "odd", line) for line in (1, 2)]
    errors = [Problem("error", "bad", line) for line in (3, 4, 5)]
    shown = format_problems([*warnings, *errors], limit=2).splitlines()
    assert shown == ["line 3: error: bad", "line 4: error: bad", "... and 3 more (1 errors, 2 warnings)"]
    assert len(format_problems([*warnings, *errors]).splitlines()) == 5
    assert format_problems([]) == ""
