"""Fact files: every usable fact in one, and everything that is wrong with it, before any long work starts."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from errata.errors import ConfigError, FactsError
from errata.facts.checks import REQUIRED, fact_warnings, inside_word, quoted
from errata.facts.conflicts import Accepted
from errata.facts.csv_records import csv_records
from errata.facts.fact import Fact
from errata.facts.problems import Problem, format_problems
from errata.facts.records import Record, json_records, jsonl_records
from errata.facts.shapes import Shape, build, counterfact, known, own, recognize, zsre

Format = Literal["auto", "jsonl", "json", "csv", "counterfact", "zsre", "known"]

MAX_BYTES = 1 << 30
_CONTAINERS = {"jsonl": jsonl_records, "json": json_records, "csv": csv_records}
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv"}
_DATA_SETS: dict[str, Shape] = {"counterfact": counterfact, "zsre": zsre, "known": known}
_WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


@dataclass(frozen=True, slots=True)
class FactFile:
    """What a fact file holds: the usable facts in its order, and every problem found."""

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
    def bad_records(self) -> int:
        """How many records have an error."""
        return len({(problem.line, problem.where) for problem in self.errors})


def read_facts(path: str | Path, *, format: Format = "auto", limit: int | None = None) -> FactFile:
    """Every usable fact of a file and every problem with the rest; a bad record never raises.

    "auto" goes by the extension and recognizes the data sets by the first record's fields; "jsonl", "json" and "csv"
    expect our own field names; "counterfact", "zsre" and "known" (JSON, or JSON Lines by extension) ignore fields they
    do not need. `limit` reads only the first records, good or bad. Of two facts in conflict the later one is bad.
    Raises FactsError where the file as a whole cannot be read, ConfigError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; it must be at least 1.")
    path = Path(path)
    container = _container(path, format)
    text = _text(path)
    records = islice(_CONTAINERS[container](text), limit)
    return _collect(records, None if format == "auto" else _DATA_SETS.get(format, own), path)


def require(fact_file: FactFile, *, skip_bad: bool = False) -> tuple[Fact, ...]:
    """The facts of a file without errors, or of any file with `skip_bad`. Raises one FactsError listing every error."""
    errors = fact_file.errors
    if errors and not skip_bad:
        count = fact_file.bad_records
        raise FactsError(
            f"{count} bad record{'s' * (count != 1)} in {fact_file.path}:\n{format_problems(errors)}\nCorrect them"
            + (
                f", or go on with the {len(fact_file.facts)} good facts: --skip-bad (skip_bad=True in Python)."
                if fact_file.facts
                else "."
            ),
            errors,
        )
    if not fact_file.facts:
        raise FactsError(f"{fact_file.path} holds no usable fact:\n{format_problems(errors)}", errors)
    return fact_file.facts


def _container(path: Path, format: str) -> str:
    names = ("auto", *_CONTAINERS, *_DATA_SETS)
    if format not in names:
        raise FactsError(f"Unknown format {format!r} for {path}; known: {', '.join(names)}.")
    if format in _CONTAINERS:
        return format
    found = _SUFFIXES.get(path.suffix.lower())
    if format in _DATA_SETS:
        return "jsonl" if found == "jsonl" else "json"
    if found is None:
        if path.is_dir():
            raise FactsError(f"{path} is a folder; a fact file was expected.")
        raise FactsError(
            f"Cannot tell the format of {path} by its name (known: {', '.join(_SUFFIXES)}); give --format (format= in "
            f"Python): {', '.join(names[1:])}."
        )
    return found


def _text(path: Path) -> str:
    """The file decoded, bytes that are no UTF-8 kept as lone surrogates for the record that holds them."""
    try:
        if not path.exists():
            raise FactsError(f"No fact file at {path}.")
        if not path.is_file():
            raise FactsError(f"{path} is a folder or a device; a fact file was expected.")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise FactsError(f"{path} has {size:,} bytes; a fact file of more than {MAX_BYTES:,} is not plausible.")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise FactsError(f"Cannot read {str(path)!r}: {error}.") from error
    if data.startswith(_WIDE_BOMS):
        raise FactsError(f"{path} is UTF-16 or UTF-32; save it as UTF-8.")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")


def _collect(records: Iterator[Record | Problem], shape: Shape | None, path: Path) -> FactFile:
    facts: list[Fact] = []
    places: dict[str, str] = {}
    problems: list[Problem] = []
    accepted = Accepted()
    for record in records:
        if isinstance(record, Problem):
            problems.append(record)
            continue
        if shape is None and isinstance(record.value, Mapping):
            found_shape = recognize(record.value)
            # A first record that is nobody's does not decide for all others.
            shape = found_shape if found_shape is not own or set(REQUIRED) & set(record.value) else None
        fact, found = _judge(record, shape or own, accepted)
        problems += found
        if fact is not None:
            facts.append(fact)
            places[fact.id] = record.where or f"line {record.line}"
    if not facts and not problems:
        problems.append(Problem("error", "the file holds no facts"))
    return FactFile(tuple(facts), tuple(problems), path, places)


def _judge(record: Record, shape: Shape, accepted: Accepted) -> tuple[Fact | None, list[Problem]]:
    """The fact of a record where it can be used, and the problems with the record."""
    made = build(shape, record.value, record.index)
    if not isinstance(made, Fact):
        return None, [Problem("error", reason, record.line, _given_id(record.value), record.where) for reason in made]
    found = accepted.judge(made, record.line, record.where)
    warnings = fact_warnings(made.target_new, made.subject, made.paraphrases)
    if word := inside_word(made.text, made.subject_span):
        warnings.append(f"subject {quoted(made.subject)} stands only inside {quoted(word)}: its key is that word's")
    found += [Problem("warning", warning, record.line, made.id, record.where) for warning in warnings]
    return None if any(problem.severity == "error" for problem in found) else made, found


def _given_id(value: object) -> str | None:
    """The id that a bad record gives, where it can be printed."""
    given = value.get("id", value.get("case_id")) if isinstance(value, Mapping) else None
    return str(given) if isinstance(given, (str, int)) and str(given).isprintable() else None
