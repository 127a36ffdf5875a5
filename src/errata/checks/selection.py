"""Which facts a model can be given for a piece of work, and what is wrong with the others: one rule for every job."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from errata.core.words import counted
from errata.errors import FactsError, InputError
from errata.facts import Accepted, Fact, Problem, format_problems

Prepared = TypeVar("Prepared")
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Selection:
    """The facts that can be used, the errors of the others, and warnings about those that can."""

    facts: tuple[Fact, ...]
    errors: list[Problem]
    warnings: list[Problem]


def selected(
    facts: Sequence[Fact],
    problems: Sequence[Problem],
    *,
    action: str,
    skip_bad: bool,
    rejected: Sequence[Problem] = (),
) -> Selection:
    """The facts without an error. `action`: what they are wanted for ("edited into NAME").

    rejected: errors of further facts, one each, which are not among `facts`.  Raises FactsError with every error unless
    `skip_bad`, and where no fact is left.
    """
    own = [problem for problem in problems if problem.severity == "error"]
    bad, errors = {problem.fact_id for problem in own}, [*rejected, *own]
    kept, count = tuple(fact for fact in facts if fact.id not in bad), len(facts) + len(rejected)
    if errors and (not skip_bad or not kept):
        raise FactsError(
            f"{count - len(kept):,} of {counted(count, 'fact')} cannot be {action}; correct them"
            f"{' or go on without them (--skip-bad)' if kept else ''}:\n{format_problems(errors)}",
            errors,
        )
    return Selection(kept, errors, [problem for problem in problems if problem.severity == "warning"])


def prepared_facts(
    facts: Sequence[Fact],
    prepare: Callable[[Fact], Prepared],
    *,
    action: str,
    places: Mapping[str, str],
    skip_bad: bool,
    notify: Notify,
) -> tuple[list[tuple[Fact, Prepared]], list[Problem]]:
    """The facts that `prepare` takes, with what it made of them, and what is wrong with the others.

    `prepare` raises InputError for a fact that cannot be used. `places`: where a fact stands in its file, by id. Raises
    FactsError as `selected` does, and where there is no fact.
    """
    pairs: list[tuple[Fact, Prepared]] = []
    problems: list[Problem] = []
    for number, fact in enumerate(facts, 1):
        try:
            pairs.append((fact, prepare(fact)))
        except InputError as error:
            where = places.get(fact.id, f"fact {number}")
            problems.append(Problem("error", str(error), where=where, fact_id=fact.id))
    selected(facts, problems, action=action, skip_bad=skip_bad)
    if not pairs:
        raise FactsError(f"There is no fact that could be {action}.")
    tell_skipped(len(facts) - len(pairs), len(facts), problems, notify)
    return pairs, problems


def placed(problems: Sequence[Problem], places: Mapping[str, str]) -> list[Problem]:
    """The problems with the places of their facts, where these are known by id."""
    return [replace(problem, where=places.get(problem.fact_id or "", "")) for problem in problems]


def tell_skipped(skipped: int, count: int, errors: Sequence[Problem], notify: Notify) -> None:
    """Say which facts are left out, if any."""
    if errors:
        notify(f"{skipped:,} of {counted(count, 'fact')} are skipped:\n{format_problems(errors)}")


def without_contradictions(facts: Sequence[Fact], places: Mapping[str, str]) -> tuple[list[Problem], list[Fact]]:
    """What is wrong with facts beside those before them, and the others."""
    accepted = Accepted()
    errors: list[Problem] = []
    distinct: list[Fact] = []
    for number, fact in enumerate(facts, 1):
        place = places.get(fact.id, f"fact {number}")
        own = [problem for problem in accepted.judge(fact, where=place) if problem.severity == "error"]
        errors += own
        distinct += [] if own else [fact]
    return errors, distinct
