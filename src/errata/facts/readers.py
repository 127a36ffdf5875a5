"""Fact files of every container: JSON Lines, JSON, CSV, Parquet, and folders that `datasets` wrote."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

from errata.errors import ConfigError, FactsError
from errata.facts.arrow_records import arrow_records, is_dataset, parquet_records
from errata.facts.csv_records import csv_records
from errata.facts.fact_file import FactFile, collect
from errata.facts.problems import Problem
from errata.facts.records import Record, json_records, jsonl_records
from errata.facts.shapes import BY_NAME

Format = Literal[
    "auto", "jsonl", "json", "csv", "parquet", "arrow", "errata", "counterfact", "zsre", "known", "easyedit",
    "knowedit", "mquake", "ripple", "wikibigedit", "unke", "fastedit", "rome", "counterfact-tracing",
]  # fmt: skip

MAX_BYTES = 1 << 30
_TEXTS: dict[str, Callable[[str], Iterator[Record | Problem]]] = {
    "jsonl": jsonl_records, "json": json_records, "csv": csv_records,
}  # fmt: skip
_TABLES: dict[str, Callable[[Path], Iterator[Record | Problem]]] = {"parquet": parquet_records, "arrow": arrow_records}
CONTAINERS = (*_TEXTS, *_TABLES)
_SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
    ".arrow": "arrow",
}  # fmt: skip
# Containers that are not read, and what their own programs can save instead.
_SAVE_AS = dict.fromkeys((".xlsx", ".xlsm", ".xls", ".ods"), "CSV") | dict.fromkeys((".yaml", ".yml"), "JSON or JSONL")
# Spreadsheets are ZIP archives, whatever their name.
_ZIP = b"PK\x03\x04"
_WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def read_facts(path: str | Path, *, format: Format = "auto", limit: int | None = None) -> FactFile:
    """Every usable fact of a file and every problem with the rest; a bad record never raises.

    A container's name as `format` says how the file is written ("auto": by its extension; "json" where a data set's
    name is given and it has none); a shape's name (counterfact, zsre, easyedit, mquake, ...) says how every record is
    to be read, which otherwise all records together decide. A path may be a folder that `datasets` saved. What has no
    home in a fact is its metadata. `limit` reads only the first records, good or bad. Of two facts in conflict the
    later one is bad. Raises FactsError where the file as a whole cannot be read, ConfigError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; it must be at least 1.")
    path = Path(path)
    container = _container(path, format)
    _check_file(path, folder=container == "arrow")
    records = _TABLES[container](path) if container in _TABLES else _TEXTS[container](_text(path))
    return collect(islice(records, limit), BY_NAME.get(format), path)


def _container(path: Path, format: str) -> str:
    names = ("auto", *CONTAINERS, *BY_NAME)
    if format not in names:
        raise FactsError(f"Unknown format {format!r} for {path}; known: {', '.join(names)}.")
    if format in CONTAINERS:
        return format
    if is_dataset(path):
        return "arrow"
    suffix = path.suffix.lower()
    if suffix in _SAVE_AS and not path.is_dir():
        raise FactsError(f"{path}: {suffix} files are not read; save it as {_SAVE_AS[suffix]}.")
    by_suffix = _SUFFIXES.get(suffix)
    if format in BY_NAME:
        return by_suffix or "json"
    if by_suffix is None:
        if path.is_dir():
            raise FactsError(
                f"{path} is a folder; a fact file was expected, or a folder that save_to_disk of datasets wrote."
            )
        raise FactsError(
            f"Cannot tell the format of {path} by its name (known: {', '.join(_SUFFIXES)}); give --format (format= in "
            f"Python): {', '.join(names[1:])}."
        )
    return by_suffix


def _check_file(path: Path, *, folder: bool) -> None:
    """Raise FactsError where there is nothing at the path that could be read whole."""
    try:
        if not path.exists():
            raise FactsError(f"No fact file at {path}.")
        if folder and path.is_dir():
            return
        if not path.is_file():
            raise FactsError(f"{path} is a folder or a device; a fact file was expected.")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise FactsError(f"{path} has {size:,} bytes; a fact file of more than {MAX_BYTES:,} is not plausible.")
    except (OSError, ValueError) as error:
        raise FactsError(f"Cannot read {str(path)!r}: {error}.") from error


def _text(path: Path) -> str:
    """The file decoded, bytes that are no UTF-8 kept as lone surrogates for the record that holds them."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise FactsError(f"Cannot read {str(path)!r}: {error}.") from error
    if data.startswith(_ZIP):
        raise FactsError(f"{path} is a spreadsheet or another archive, not text; save it as CSV.")
    if data.startswith(_WIDE_BOMS):
        raise FactsError(f"{path} is UTF-16 or UTF-32; save it as UTF-8.")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")
