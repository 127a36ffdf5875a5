"""Tables as records: Parquet files, Arrow files, and the folders that `save_to_disk` of datasets writes."""

from __future__ import annotations

import json
import math
import os.path
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errata.errors import FactsError
from errata.facts.records import Record

if TYPE_CHECKING:
    import pyarrow as pa

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def is_dataset(path: Path) -> bool:
    """Whether `save_to_disk` of datasets wrote this folder."""
    # os.path: no error for a path that cannot exist; whoever reads it says what is wrong with it.
    return any(os.path.isfile(path / name) for name in (_STATE, _SPLITS))


def parquet_records(path: Path) -> Iterator[Record]:
    """The rows of a Parquet file."""
    import pyarrow.parquet as pq

    with _readable(path, "Parquet"), pq.ParquetFile(path) as table:
        yield from _records(table.iter_batches())


def arrow_records(path: Path) -> Iterator[Record]:
    """The rows of an Arrow file, or of all the Arrow files of a saved data set in its order."""
    import pyarrow as pa

    files = _data_files(_only_split(path)) if path.is_dir() else [path]
    with _readable(path, "Arrow"):
        yield from _records(batch for file in files for batch in _batches(pa, file))


def _batches(pa: Any, file: Path) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(file)) as source:
        try:
            reader = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:  # datasets writes streams; others write Arrow files with an index at their end
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            yield from reader


def _records(batches: Iterator[pa.RecordBatch]) -> Iterator[Record]:
    rows = (row for batch in batches for row in batch.to_pylist())
    for index, row in enumerate(rows):
        yield Record(_plain(row), None, index, f"row {index + 1}")


def _plain(value: Any) -> Any:
    """A value as JSON has it. A table gives every object the names of all others, so null is an absent name."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items() if one is not None and one == one}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Decimal):
        return str(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def _only_split(path: Path) -> Path:
    """The folder of the one data set in `path`; FactsError that names the splits where there are several."""
    if not (path / _SPLITS).is_file():
        return path
    splits = _read_json(path / _SPLITS).get("splits")
    names = [str(name) for name in splits] if isinstance(splits, list) else []
    if len(names) != 1:
        raise FactsError(
            f"{path} holds the splits {', '.join(names) or '(none)'}; give the folder of one"
            + (f": {path / names[0]}." if names else ".")
        )
    return path / Path(names[0]).name


def _data_files(folder: Path) -> list[Path]:
    state = _read_json(folder / _STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise FactsError(
            f"{folder} holds a selection of rows by index; save it again after flatten_indices() of datasets."
        )
    listed = state.get("_data_files")
    names = [one.get("filename") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    files = [folder / Path(str(name)).name for name in names]
    if not files or any(not file.is_file() for file in files):
        missing = next((file.name for file in files if not file.is_file()), "any data file")
        raise FactsError(f"{folder} is not whole: {_STATE} is there, but not {missing}.")
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FactsError(f"Cannot read {path}: {error}.") from error
    return stored if isinstance(stored, dict) else {}


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """FactsError for a file that pyarrow refuses."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise FactsError(f"{path} cannot be read as {what}: {str(error).splitlines()[0]}") from error
