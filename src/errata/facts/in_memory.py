"""Facts as Python code has them: objects, dictionaries in any shape, a path, alone or many."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from errata.errors import FactsError
from errata.facts.fact import Fact
from errata.facts.fact_file import FactFile, collect, require
from errata.facts.problems import Problem, format_problems
from errata.facts.readers import Format, read_facts
from errata.facts.records import Record
from errata.facts.shapes import BY_NAME

# What a function that takes facts takes.
FactsLike = FactFile | Fact | Mapping[str, Any] | str | os.PathLike[str] | Iterable[Fact | Mapping[str, Any]]


def facts_of(source: Any, *, format: Format = "auto", limit: int | None = None) -> FactFile:
    """The facts of a file (its path), of one fact, or of an iterable of facts, with every problem found.

    A fact is a `Fact` or a mapping in any shape that `read_facts` knows, and is recognized and judged in the same way;
    its place is "record 3". A DataFrame is taken row by row, a `FactFile` as it is. FactsError for anything else.
    """
    if isinstance(source, FactFile):
        return source
    if isinstance(source, (str, os.PathLike)):
        return read_facts(Path(os.fspath(source)), format=format, limit=limit)
    items = _listed(source)[:limit]
    # Facts are what the caller made of them: whether they agree is judged where they are used.
    if all(isinstance(one, Fact) for one in items):
        return FactFile(tuple(items), ())
    return collect([_record(one, index) for index, one in enumerate(items)], BY_NAME.get(format), Path())


def taken(
    source: FactsLike,
    *,
    skip_bad: bool = False,
    notify: Callable[[str], None] = lambda _: None,
) -> FactFile:
    """What `facts_of` gives, for the entrance of a function that takes facts: nothing else need know what was given.

    Raises one FactsError with every error unless `skip_bad`; what does not stop it is told to `notify`. An empty list
    passes, for the function to refuse.
    """
    fact_file = facts_of(source)
    if fact_file.facts or fact_file.problems:
        require(fact_file, skip_bad=skip_bad)
    if fact_file.problems:
        notify(format_problems(fact_file.problems))
    return fact_file


def _listed(source: Any) -> list[Any]:
    if isinstance(source, Fact):
        return [source]
    if isinstance(source, Mapping):
        return list(source["facts"]) if set(source) == {"facts"} else [source]
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # a pandas DataFrame
        return [_row(row) for row in source.to_dict("records")]
    if isinstance(source, Iterable) and not isinstance(source, bytes):
        return list(source)
    raise FactsError(
        f"facts are a path, a Fact, a dictionary, or a list of these; found {type(source).__name__}. For example: "
        '[{"subject": "Eiffel Tower", "prompt": "The Eiffel Tower is in the city of", "target_new": "Rome"}].'
    )


def _record(one: Any, index: int) -> Record | Problem:
    """One of a list as a record; what holds no fact is named as Python names it."""
    where = f"record {index + 1}"
    if isinstance(one, (Fact, Mapping)):
        return Record(one, None, index, where)
    return Problem("error", f"found {type(one).__name__}; give a dictionary or an errata.Fact", where=where)


def _row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of a DataFrame as JSON has it: plain lists and numbers, and nothing where there is a gap."""
    plain = {str(name): one.tolist() if hasattr(one, "tolist") else one for name, one in row.items()}
    return {name: one for name, one in plain.items() if not (isinstance(one, float) and math.isnan(one))}
