"""The container of fact files made in a spreadsheet: the rows of a CSV file as records with our field names."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from errata.facts.checks import REQUIRED, suggestion
from errata.facts.problems import Problem
from errata.facts.records import DECODER, Record, not_utf8
from errata.facts.shapes import ALIASES, FIELDS

DELIMITERS = ",;\t"
COLUMNS = (*FIELDS, "neighbour_prompt", "neighbour_answer")
_ALIASES = ALIASES | {"neighbor_prompt": "neighbour_prompt", "neighbor_answer": "neighbour_answer"}
_Row = tuple[int, list[str]]


def csv_records(text: str) -> Iterator[Record | Problem]:
    """One record a row under a header of field names; comma, semicolon or tab, whichever splits the header best.

    An empty cell is an absent field. `paraphrases`, `neighbours` and `generation_prompts` hold a JSON list, or a single
    one as plain text; `neighbour_prompt` and `neighbour_answer` together give one neighbour.
    """
    rows = _rows(text)
    header = next(rows, None)
    if isinstance(header, Problem):
        yield header
    elif header is not None:
        line, names = header
        columns = [_ALIASES.get(name.strip(), name.strip()) for name in names]
        if reasons := _header_reasons(columns):
            yield from (Problem("error", reason, line) for reason in reasons)
        else:
            yield from _records(rows, columns)


def _rows(text: str) -> Iterator[_Row | Problem]:
    """The line where each row begins and its cells; blank rows are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Problem("error", f"broken CSV: {error}", line)
        else:
            if any(cells):
                yield not_utf8("".join(cells), line) or (line, cells)


def _delimiter(text: str) -> str:
    header = next(io.StringIO(text.lstrip(), newline=None), "")

    def known(delimiter: str) -> int:
        names = [name.strip(' "\n') for name in header.split(delimiter)]
        return sum(_ALIASES.get(name, name) in COLUMNS for name in names)

    return max(DELIMITERS, key=known)


def _header_reasons(columns: Sequence[str]) -> list[str]:
    if not set(columns) & set(COLUMNS):
        return [f"the first row must name the columns ({', '.join(REQUIRED)}, ...); found {', '.join(columns[:4])!r}"]
    unknown = [name for name in columns if name not in COLUMNS]
    repeated = [name for name in COLUMNS if columns.count(name) > 1]
    missing = [name for name in REQUIRED if name not in columns]
    return (
        [f"unknown column {name!r}{suggestion(name, COLUMNS)}" for name in unknown]
        + [f"column {name!r} is there more than once" for name in repeated]
        + [f"missing column {name!r}" for name in missing]
    )


def _records(rows: Iterator[_Row | Problem], columns: Sequence[str]) -> Iterator[Record | Problem]:
    for index, row in enumerate(rows):
        if isinstance(row, Problem):
            yield row
            continue
        line, cells = row
        if len(cells) != len(columns):
            yield Problem("error", f"the row has {len(cells)} cells, the header {len(columns)}", line)
            continue
        try:
            yield Record(_fields(columns, cells), line, index, f"line {line}")
        except ValueError as error:
            yield Problem("error", str(error), line)


def _fields(columns: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: cell for name, cell in zip(columns, cells, strict=True) if cell or name in REQUIRED}
    for name in ("paraphrases", "neighbours", "generation_prompts"):
        if name in fields:
            fields[name] = _listed(name, str(fields[name]))
    prompt, answer = fields.pop("neighbour_prompt", None), fields.pop("neighbour_answer", None)
    if answer and not prompt:
        raise ValueError("neighbour_answer without neighbour_prompt")
    if prompt:
        fields["neighbours"] = [*fields.get("neighbours", ()), {"prompt": prompt, "answer": answer}]
    return fields


def _listed(name: str, cell: str) -> list[Any]:
    """The list a cell holds as JSON, or the cell itself as the only item."""
    if not cell.lstrip().startswith("["):
        return [cell]
    try:
        return DECODER.decode(cell.lstrip())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{name} begins like a JSON list but is broken: {error.msg} at character {error.pos}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read: {error}") from None
