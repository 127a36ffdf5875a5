"""Results of single steps of a long run, each a small JSON file with its own digest: whole, or as if it were absent."""

import json
from pathlib import Path
from typing import Any

from errata.store import atomic_write_text, digest


def read_record(path: Path) -> dict[str, Any] | None:
    """A kept record; None where there is none, or none that was written whole."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(held, dict) and isinstance(held.get("record"), dict)
    return held["record"] if whole and held.get("digest") == digest(held["record"]) else None


def write_record(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Keep a record; returns it as it will be read back."""
    record = json.loads(json.dumps(record, allow_nan=False))
    held = {"digest": digest(record), "record": record}
    atomic_write_text(path, json.dumps(held, separators=(",", ":"), allow_nan=False))
    return record
