"""The container of fact files made in a spreadsheet or by pandas: the rows of a CSV file as records."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

from errata.facts.checks import REQUIRED
from errata.facts.csv_cells import parsed
from errata.facts.names import ALIASES, missing_reason, typo_of
from errata.facts.problems import Problem
from errata.facts.records import Record, not_utf8
from errata.facts.shapes import FLAT, SHAPES, recognize

DELIMITERS = ",;\t"
_ALIASES = ALIASES | {"neighbor_prompt": "neighbour_prompt", "neighbor_answer": "neighbour_answer"}
_OURS = FLAT.names | {"neighbour_prompt", "neighbour_answer", *_ALIASES}


def _folded(name: str) -> str:
    """A column's name as it is looked up: headers are typed by hand, so "Target New" is target_new."""
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


_BY_FOLDED = {_folded(name): name for shape in SHAPES for name in shape.names}
_BY_FOLDED |= {_folded(name): name for name in _OURS}
_NUMBERED = re.compile(r"|Unnamed: \d+")
_Row = tuple[int, list[str]]


def csv_records(text: str) -> Iterator[Record | Problem]:
    """One record a row under a header of field names; comma, semicolon or tab, whichever splits the header best.

    An empty cell is an absent field. `paraphrases`, `neighbours` and `generation_prompts` hold a JSON list, or a single
    one as plain text; `neighbour_prompt` and `neighbour_answer` together give one neighbour; `chat` is true or false,
    `metadata` a JSON object, `join` what it holds, or JSON text ("" for nothing). A column without a name that numbers
    the rows, as pandas writes its index, is left out.
    """
    rows = list(_rows(text))
    if not rows:
        return
    header, *rest = rows
    if isinstance(header, Problem):
        yield header
        return
    line, names = header
    columns = [_BY_FOLDED.get(_folded(name), name.strip()) for name in names]
    kept = [place for place, name in enumerate(columns) if not _numbers_rows(name, place, len(columns), rest)]
    if reasons := _header_reasons([columns[place] for place in kept]):
        yield from (Problem("error", reason, line) for reason in reasons)
    else:
        yield from _records(rest, columns, kept)


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
        return sum(_folded(name.strip(' "\n')) in _BY_FOLDED for name in header.split(delimiter))

    return max(DELIMITERS, key=known)


def _numbers_rows(name: str, place: int, width: int, rows: Sequence[_Row | Problem]) -> bool:
    """Whether a column without a name of its own holds nothing but a number for each row, or nothing at all."""
    if not _NUMBERED.fullmatch(name):
        return False
    cells = [row[1][place] for row in rows if not isinstance(row, Problem) and len(row[1]) == width]
    numbers = [cell for cell in cells if cell.isascii() and cell.isdigit()]
    return not any(cells) or (len(numbers) == len(cells) and len(set(numbers)) == len(cells))


def _header_reasons(columns: Sequence[str]) -> list[str]:
    if not any(name in _BY_FOLDED.values() for name in columns):
        return [f"the first row must name the columns ({', '.join(REQUIRED)}, ...); found {', '.join(columns[:4])!r}"]
    same = [_ALIASES.get(name, name) for name in columns]
    reasons = [f"column {name!r} is there more than once" for name in dict.fromkeys(same) if same.count(name) > 1]
    reasons += [
        f"column {place} has no name; name it or delete it" for place, name in enumerate(columns, 1) if not name
    ]
    shape = recognize(dict.fromkeys(columns, ""))
    if shape not in (None, FLAT):
        return reasons
    typos = {name: meant for name in columns if (meant := typo_of(name, _OURS))}
    if {"target", "target_new"} <= set(columns):
        typos["target"] = "target_true"
    required = [name for name in REQUIRED if name != "target_new" or "target" not in columns]
    missing = [name for name in required if name not in columns and name not in typos.values()]
    absent = [missing_reason(name, columns, what="column") for name in missing]
    others = [name for name in columns if name and name not in _BY_FOLDED.values() and name not in typos]
    if absent and others:
        absent[-1] += f"; the file has: {', '.join(others[:8])}" + ", ..." * (len(others) > 8)
    return [f"unknown column {name!r}; did you mean {meant!r}?" for name, meant in typos.items()] + reasons + absent


def _records(rows: Sequence[_Row | Problem], columns: Sequence[str], kept: Sequence[int]) -> Iterator[Record | Problem]:
    for index, row in enumerate(rows):
        if isinstance(row, Problem):
            yield row
            continue
        line, cells = row
        if len(cells) != len(columns):
            yield Problem("error", f"the row has {len(cells)} cells, the header {len(columns)}", line)
            continue
        try:
            fields = _fields([columns[place] for place in kept], [cells[place] for place in kept])
            yield Record(fields, line, index, f"line {line}")
        except ValueError as error:
            yield Problem("error", str(error), line)


def _fields(columns: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        name: parsed(name, cell) for name, cell in zip(columns, cells, strict=True) if cell or name in REQUIRED
    }
    prompt, answer = (
        fields.pop(name, None) or fields.pop(name.replace("our", "or"), None)
        for name in ("neighbour_prompt", "neighbour_answer")
    )
    if answer and not prompt:
        raise ValueError("neighbour_answer without neighbour_prompt")
    if prompt:
        name = "neighbors" if "neighbors" in fields else "neighbours"
        fields[name] = [*fields.get(name, ()), {"prompt": prompt, "answer": answer}]
    return fields
