"""Which facts of a file a model can be given, and what is said of the others."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from errata.core.words import counted
from errata.errors import FactsError, InputError
from errata.facts import Fact, Problem, format_problems

Prepared = TypeVar("Prepared")


def usable_facts(
    facts: Sequence[Fact],
    prepare: Callable[[Fact], Prepared],
    *,
    done: str,
    places: Mapping[str, str],
    skip_bad: bool,
    notify: Callable[[str], None],
) -> tuple[list[tuple[Fact, Prepared]], list[Problem]]:
    """The facts that `prepare` takes, with what it made of them, and what is wrong with the others.

    Raises FactsError with all of that unless `skip_bad`, and where no fact is left.
    `prepare` raises InputError for a fact that cannot be used; `done` says what for ("traced").  `places`: where a fact
    stands in its file, by id.
    """
    kept: list[tuple[Fact, Prepared]] = []
    problems: list[Problem] = []
    for number, fact in enumerate(facts, 1):
        try:
            kept.append((fact, prepare(fact)))
        except InputError as error:
            where = places.get(fact.id, f"fact {number}")
            problems.append(Problem("error", str(error), where=where, fact_id=fact.id))
    if problems and (not skip_bad or not kept):
        raise FactsError(
            f"{len(problems)} of {counted(len(facts), 'fact')} cannot be {done}; correct them or go on without them "
            f"(--skip-bad):\n{format_problems(problems)}",
            problems,
        )
    if not kept:
        raise FactsError(f"There is no fact that could be {done}.")
    if problems:
        notify(f"Skipped: {len(problems)} of {counted(len(facts), 'fact')}:\n{format_problems(problems)}")
    return kept, problems
