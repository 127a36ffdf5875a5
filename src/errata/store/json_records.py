"""Results of single steps of a long run, each a small JSON file with its own digest: whole, or as if it were absent."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.store import atomic_write_text, digest


def read_record(path: Path) -> Any:
    """A kept record, plain JSON; None where there is none, or none that was written whole."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return held["record"] if held["digest"] == digest(held["record"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(path: Path, record: Any) -> Any:
    """Keep a record; returns it as it will be read back. Raises StorageError."""
    record = json.loads(json.dumps(record, allow_nan=False))
    held = {"digest": digest(record), "record": record}
    atomic_write_text(path, json.dumps(held, separators=(",", ":"), allow_nan=False))
    return record


@dataclass(frozen=True)
class Records:
    """Records in a folder, one file for each key (a SHA-256 in hex), its name beginning with `prefix`."""

    folder: Path
    prefix: str = ""
    digits: int = 24

    def path(self, key: str) -> Path:
        """The file of this key, if it is there."""
        return self.folder / f"{self.prefix}{key[: self.digits]}.json"

    def load(self, key: str) -> Any:
        """The record, or None where there is none that is intact."""
        return read_record(self.path(key))

    def save(self, key: str, record: Any) -> Any:
        """Keep a record; returns it as it will be read back. Raises StorageError."""
        return write_record(self.path(key), record)


def recorded(path: Path, work: Callable[[], Any]) -> Any:
    """The record that an earlier run kept, or what `work` makes now, kept."""
    kept = read_record(path)
    return write_record(path, work()) if kept is None else kept
