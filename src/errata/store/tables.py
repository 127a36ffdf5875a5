"""Tables as files, Parquet and CSV; long ones in parts, each kept under a digest of all that it depends on."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.store import atomic_file, storage_errors

Row = dict[str, Any]


@dataclass(frozen=True)
class Parts:
    """Rows in a folder, one file for each key (a SHA-256 in hex). A damaged part is reported, and counts as absent."""

    folder: Path
    notify: Callable[[str], None]

    def path(self, key: str) -> Path:
        """Where the part of this key lies, if it is there."""
        return self.folder / key[:2] / f"{key}.parquet"

    def load(self, key: str, columns: Mapping[str, str]) -> list[Row] | None:
        """The rows, or None where there are none that are intact."""
        from pyarrow import ArrowException, parquet

        path = self.path(key)
        if not path.exists():
            return None
        try:
            with parquet.ParquetFile(path, page_checksum_verification=True) as file:
                rows = file.read().to_pylist()
                whole = (file.schema_arrow.metadata or {}).get(b"key") == key.encode()
                whole = whole and file.schema_arrow.names == list(columns)
        except (OSError, ValueError, ArrowException):
            whole, rows = False, []
        if not whole:
            self.notify(f"{path} is damaged; it is made again.")
            with suppress(OSError):
                path.unlink()
            return None
        return rows

    def save(self, key: str, rows: Sequence[Row], columns: Mapping[str, str]) -> None:
        """Write a part at once. Raises StorageError."""
        write_parquet(self.path(key), [rows], columns, {"key": key})


@dataclass(frozen=True)
class TableStore:
    """Parts that are tables of the same columns."""

    parts: Parts
    columns: Mapping[str, str]

    def load(self, key: str) -> list[Row] | None:
        """The rows, or None where there are none that are intact."""
        return self.parts.load(key, self.columns)

    def save(self, key: str, rows: Sequence[Row]) -> None:
        """Write a part at once. Raises StorageError."""
        self.parts.save(key, rows, self.columns)


def write_parquet(
    path: Path,
    chunks: Iterable[Sequence[Row]],
    columns: Mapping[str, str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write rows as they come, a row group for each chunk: never more than one of them in memory. StorageError."""
    import pyarrow
    from pyarrow import parquet

    fields = [(name, pyarrow.type_for_alias(kind)) for name, kind in columns.items()]
    schema = pyarrow.schema(fields, metadata=dict(metadata) if metadata else None)
    with (
        atomic_file(path) as staging,
        storage_errors(f"write {path}"),
        parquet.ParquetWriter(staging, schema, write_page_checksum=True) as writer,
    ):
        for rows in chunks:
            writer.write_table(pyarrow.Table.from_pylist(list(rows), schema))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Records as a Parquet file, its columns and their types those of the records. Raises StorageError."""
    import pyarrow
    from pyarrow import parquet

    with storage_errors(str(path)), atomic_file(path) as staging:
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), staging)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Records as a CSV file, the columns those of the first one. Raises StorageError."""
    with atomic_file(path) as staging, staging.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), extrasaction="raise")
        writer.writeheader()
        writer.writerows(rows)
