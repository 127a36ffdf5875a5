"""What was read as facts: those that can be used, and everything that is wrong with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from errata.errors import FactsError
from errata.facts.checks import fact_warnings, inside_word, quoted
from errata.facts.conflicts import Accepted
from errata.facts.fact import Fact
from errata.facts.problems import Problem, format_problems
from errata.facts.records import Record
from errata.facts.shapes import FLAT, Shape, build, commonest, recognize, unknown_shape


@dataclass(frozen=True, slots=True)
class FactFile:
    """What a fact file (or a list in memory) holds: the usable facts in its order, and every problem found."""

    facts: tuple[Fact, ...]
    problems: tuple[Problem, ...]
    path: Path = Path()
    places: Mapping[str, str] = field(default_factory=dict)
    """Where each usable fact stands, by its id, for messages."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    @property
    def notes(self) -> tuple[Problem, ...]:
        """The warnings that are about the file as a whole, not about a record of it."""
        return tuple(problem for problem in self.warnings if problem.line is None and not problem.where)

    @property
    def without_problems(self) -> FactFile:
        """The same facts at the same places, for what comes after all problems were told."""
        return replace(self, problems=())

    @property
    def bad_records(self) -> int:
        """How many records have an error."""
        return len({(problem.line, problem.where) for problem in self.errors})


def require(fact_file: FactFile, *, skip_bad: bool = False) -> tuple[Fact, ...]:
    """The facts of a file without errors, or of any file with `skip_bad`. Raises one FactsError listing every error."""
    errors = fact_file.errors
    named = "the facts given" if fact_file.path == Path() else str(fact_file.path)
    if errors and not skip_bad:
        count, good = fact_file.bad_records, len(fact_file.facts)
        raise FactsError(
            f"{count} bad record{'s' * (count != 1)} in {named}:\n{format_problems(errors)}\nCorrect "
            f"{'it' if count == 1 else 'them'}"
            + (
                f", or go on with the {good} good fact{'s' * (good != 1)}: --skip-bad (skip_bad=True in Python)."
                if good
                else "."
            ),
            errors,
        )
    if not fact_file.facts:
        named = "The list" if fact_file.path == Path() else str(fact_file.path)
        raise FactsError(f"{named} holds no usable fact:\n{format_problems(errors)}", errors)
    return fact_file.facts


def collect(records: Iterable[Record | Problem], shape: Shape | None, path: Path) -> FactFile:
    """The facts of records, each read as `shape`, else as what it is, else as what most of the others are."""
    items = list(records)
    mappings = [one.value for one in items if isinstance(one, Record) and isinstance(one.value, Mapping)]
    others = shape or commonest(mappings)
    found = _Collected()
    if mappings and others is None:
        found.problems += _all_unknown(items, mappings)
        items = []
    for item in items:
        if isinstance(item, Problem):
            found.problems.append(item)
        else:
            own = recognize(item.value) if shape is None and isinstance(item.value, Mapping) else None
            found.add(item, own or others or FLAT)
    problems = [*found.problems, *found.notes()]
    if not found.facts and not problems:
        problems.append(Problem("error", "the file holds no facts" if path != Path() else "the list holds no facts"))
    return FactFile(tuple(found.facts), tuple(problems), path, found.places)


def _all_unknown(items: Iterable[Record | Problem], mappings: list[Mapping[str, object]]) -> list[Problem]:
    """One error for all records whose shape nobody knows, beside those of what is no record at all."""
    first = next(one for one in items if isinstance(one, Record) and isinstance(one.value, Mapping))
    problems = [one for one in items if isinstance(one, Problem)]
    for item in items:
        if isinstance(item, Record) and not isinstance(item.value, Mapping):
            problems += _problems_of(item, build(FLAT, item.value, item.index).facts[0])
    return [*problems, Problem("error", unknown_shape(mappings), first.line, _given_id(first.value), first.where)]


@dataclass(slots=True)
class _Collected:
    """Facts and problems as records are judged one after another, and what is to be said once of all."""

    facts: list[Fact] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    accepted: Accepted = field(default_factory=Accepted)
    unknown: Counter[str] = field(default_factory=Counter)
    shape_notes: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record, shape: Shape) -> None:
        built = build(shape, record.value, record.index)
        good = False
        for made in built.facts:
            if isinstance(made, Fact):
                good = self._judge(made, record) or good
            else:
                self.problems += _problems_of(record, made)
        if good:
            self.unknown.update(built.unknown)
            self.shape_notes.update([shape.note] * bool(shape.note))

    def _judge(self, fact: Fact, record: Record) -> bool:
        """Take a fact in where it agrees with those before it; whether it does."""
        problems = self.accepted.judge(fact, record.line, record.where)
        warnings = fact_warnings(fact.target_new, fact.subject, fact.text, fact.paraphrases)
        if word := inside_word(fact.text, fact.subject_span):
            warnings.append(f"subject {quoted(fact.subject)} stands only inside {quoted(word)}: its key is that word's")
        self.problems += problems
        self.problems += [Problem("warning", warning, record.line, fact.id, record.where) for warning in warnings]
        if any(problem.severity == "error" for problem in problems):
            return False
        self.facts.append(fact)
        self.places[fact.id] = record.where or f"line {record.line}"
        return True

    def notes(self) -> list[Problem]:
        """One warning about fields that nobody knows, and one for each shape that has something to say."""
        notes = [f"{_count(count, 'record')}: {note}" for note, count in self.shape_notes.items()]
        if self.unknown:
            named = ", ".join(f"{name!r} ({_count(count, 'record')})" for name, count in self.unknown.most_common(12))
            more = f" and {len(self.unknown) - 12} more" * (len(self.unknown) > 12)
            notes.append(f"errata has no use for these fields and keeps them as metadata: {named}{more}")
        return [Problem("warning", note) for note in notes]


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _problems_of(record: Record, made: Fact | list[str]) -> list[Problem]:
    reasons = [] if isinstance(made, Fact) else made
    return [Problem("error", reason, record.line, _given_id(record.value), record.where) for reason in reasons]


def _given_id(value: object) -> str | None:
    """The id that a bad record gives, where it can be printed."""
    given = value.get("id", value.get("case_id")) if isinstance(value, Mapping) else None
    return str(given) if isinstance(given, (str, int)) and str(given).isprintable() else None
