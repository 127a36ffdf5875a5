"""A fact file to start from: three facts that the embedded model takes, with everything a record can say explained."""

from __future__ import annotations

import csv
import io
from importlib.resources import files
from pathlib import Path

from errata.errors import FactsError
from errata.facts.records import Record, jsonl_records
from errata.store.atomic import atomic_write_text

_SUFFIXES = (".jsonl", ".ndjson", ".csv")
_COLUMNS = (
    "id", "subject", "prompt", "target_new", "target_true", "paraphrases", "neighbour_prompt", "neighbour_answer",
)  # fmt: skip


def write_example(path: Path) -> int:
    """Write the example to `path`, JSON Lines or CSV by its name, and say how many facts it holds.

    Raises FactsError for another extension or where something is already, StorageError where it cannot be written.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise FactsError(f"{path}: the name must end in .jsonl (with comments) or .csv (for a spreadsheet).")
    if path.exists() or path.is_symlink():
        raise FactsError(f"{path} is there already and is not overwritten. Give another name.")
    text = (files("errata") / "data" / "example_facts.jsonl").read_text(encoding="utf-8")
    records = [record.value for record in jsonl_records(text) if isinstance(record, Record)]
    atomic_write_text(path, _table(records) if path.suffix.lower() == ".csv" else text)
    return len(records)


def _table(records: list) -> str:
    """The records as the rows of a CSV file, a paraphrase and a neighbour each."""
    made = io.StringIO()
    rows = csv.DictWriter(made, _COLUMNS, lineterminator="\n", extrasaction="ignore")
    rows.writeheader()
    for record in records:
        (neighbour,) = record.get("neighbours", [{}])
        (paraphrase,) = record.get("paraphrases", [""])
        asked = {f"neighbour_{name}": text for name, text in neighbour.items()}
        rows.writerow(record | asked | {"paraphrases": paraphrase})
    return made.getvalue()
