"""Documents from text, JSON Lines and Parquet files, one at a time, with the line of whatever cannot be used."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from errata.errors import CorpusError

# Bounds of memory, in characters. A longer paragraph becomes several documents.
MAX_LINE = 64 << 20
MAX_PARAGRAPH = 1 << 16
_PARQUET_ROWS = 64

_SURROGATE = re.compile("[\ud800-\udfff]")
_WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_PACKED = {".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".7z"}


@dataclass(frozen=True)
class CorpusFile:
    """A file as it was found: its documents are refused when it has changed since."""

    path: Path
    size: int
    modified_ns: int

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()


@dataclass(frozen=True)
class Reader:
    """How one format yields its documents; `field` is ignored by formats without fields."""

    format: str
    documents: Callable[[Path, str], Iterator[str]]
    has_fields: bool = True


def find_files(source: str | Path) -> list[CorpusFile]:
    """The file at `source`, or the files of known formats in that folder, by name. Raises CorpusError."""
    if "://" in str(source):
        raise CorpusError(f"The corpus {str(source)!r} is an address; download it and give the file.")
    if not str(source):
        raise CorpusError("An empty path was given as the corpus; give a file or a folder.")
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return [_found(file) for file in _folder(path)]
        if not path.exists():
            raise CorpusError(f"No corpus at {str(source)!r}: no such file or folder.")
        _check_format(path)
        return [_found(path)]
    except (OSError, ValueError) as error:
        raise CorpusError(f"Cannot read the corpus at {str(source)!r}: {error}.") from error


def file_documents(file: CorpusFile, field: str) -> Iterator[str]:
    """Every document of a file that is not blank. Raises CorpusError."""
    try:
        if _found(file.path) != file:
            raise CorpusError(f"{file.path} has changed since it was opened; open the corpus again.")
        yield from READERS[file.suffix].documents(file.path, field)
    except OSError as error:
        raise CorpusError(f"Cannot read the corpus file {file.path}: {error.strerror or error}.") from error


def check_text(text: str, where: str) -> None:
    """Raise CorpusError for text that no tokenizer takes."""
    if found := _SURROGATE.search(text):
        raise CorpusError(
            f"{where} holds {found[0]!r}, half of a surrogate pair, which is no Unicode text. Correct it."
        )


def _found(path: Path) -> CorpusFile:
    state = path.stat()
    if not path.is_file():
        raise CorpusError(f"{path} is neither a file nor a folder; a corpus was expected.")
    return CorpusFile(path, state.st_size, state.st_mtime_ns)


def _folder(folder: Path) -> list[Path]:
    def give_up(error: OSError) -> NoReturn:
        raise error

    files = []
    for parent, folders, names in os.walk(folder, onerror=give_up):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    known = sorted((file for file in files if file.suffix.lower() in READERS), key=lambda file: file.parts)
    if not known:
        raise CorpusError(f"The folder {folder} holds no corpus file; known formats: {', '.join(READERS)}.")
    return known


def _check_format(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in READERS:
        return
    if suffix in _PACKED:
        raise CorpusError(f"{path} is packed ({suffix}); unpack it and give the file or folder that comes out.")
    if suffix in (".json", ".csv", ".tsv"):
        raise CorpusError(f"{path} cannot be streamed; save it as JSON Lines, an object with the text on each line.")
    raise CorpusError(f"Cannot tell the format of {path} by its name; known: {', '.join(READERS)}.")


def _lines(path: Path, limit: int) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1; one longer than `limit` characters comes in pieces that share its number."""
    with path.open("rb") as file:
        if file.read(4).startswith(_WIDE_BOMS):
            raise CorpusError(f"{path} is UTF-16 or UTF-32; save it as UTF-8.")
    # Bytes that are no UTF-8 become lone surrogates: decoding strictly would not tell the line.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        number = 1
        while line := file.readline(limit):
            if _SURROGATE.search(line):
                raise CorpusError(f"{path}, line {number}: not UTF-8. Save the file as UTF-8.")
            if "\0" in line:
                raise CorpusError(f"{path}, line {number}: holds a NUL, so it is no text file.")
            yield number, line
            number += line.endswith("\n")


def _paragraphs(path: Path, _field: str) -> Iterator[str]:
    paragraph = ""
    for _, line in _lines(path, MAX_PARAGRAPH):
        if line.strip() and len(paragraph) + len(line) <= MAX_PARAGRAPH:
            paragraph += line
            continue
        if paragraph.strip():
            yield paragraph.strip()
        paragraph = line
    if paragraph.strip():
        yield paragraph.strip()


def _json_lines(path: Path, field: str) -> Iterator[str]:
    for number, line in _lines(path, MAX_LINE):
        where = f"{path}, line {number}"
        if len(line) >= MAX_LINE:
            raise CorpusError(f"{where}: longer than {MAX_LINE:,} characters. Split that document.")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where}: not JSON ({error}). Each line of JSON Lines holds one object.") from error
        text = _field_of(row, field, where)
        if text.strip():
            check_text(text, where)
            yield text


def _field_of(row: object, field: str, where: str) -> str:
    """The row's text; "" for null."""
    if not isinstance(row, dict):
        raise CorpusError(f"{where}: {type(row).__name__} where an object with the field {field!r} was expected.")
    if field not in row:
        fields = ", ".join(map(repr, list(row)[:10])) or "none"
        raise CorpusError(f"{where}: no field {field!r}; it has {fields}. Name the one that holds the text.")
    if row[field] is not None and not isinstance(row[field], str):
        raise CorpusError(f"{where}: the field {field!r} holds {type(row[field]).__name__}; a string was expected.")
    return row[field] or ""


def _parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check_column(file.schema_arrow, field, path)
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=[field]):
                for text in batch.column(0).to_pylist():
                    if text and text.strip():
                        yield text
    # Damaged pages surface as OSError, text that is no UTF-8 as ValueError.
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorpusError(f"{path} is not a Parquet file that can be read: {error}.") from error


def _check_column(schema: Any, field: str, path: Path) -> None:
    import pyarrow as pa

    if schema.names.count(field) != 1:
        found = ", ".join(map(repr, schema.names[:10])) or "none"
        raise CorpusError(f"{path}: no column {field!r}; it has {found}. Name the one that holds the text.")
    kind = schema.field(field).type
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)):
        raise CorpusError(f"{path}: the column {field!r} holds {kind}; strings were expected.")


READERS = {
    ".txt": Reader("paragraphs", _paragraphs, has_fields=False),
    ".text": Reader("paragraphs", _paragraphs, has_fields=False),
    ".md": Reader("paragraphs", _paragraphs, has_fields=False),
    ".jsonl": Reader("jsonl", _json_lines),
    ".ndjson": Reader("jsonl", _json_lines),
    ".parquet": Reader("parquet", _parquet),
}
