"""Facts written back to JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from errata.facts.fact import Fact
from errata.store.atomic import atomic_write_bytes


def write_facts(path: str | Path, facts: Iterable[Fact]) -> None:
    """One JSON object a line, which `read_facts` turns back into equal facts; the file appears whole or not at all.

    Raises StorageError where it cannot be written.
    """
    atomic_write_bytes(Path(path), b"".join(_line(_record(fact)) for fact in facts))


def _line(record: dict[str, object]) -> bytes:
    try:
        return (json.dumps(record, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # metadata may hold half of a surrogate pair, which only an escape can say
        return (json.dumps(record) + "\n").encode()


def _record(fact: Fact) -> dict[str, object]:
    """The fields that say something, the id first."""
    record = {"id": fact.id} | asdict(fact)
    return {name: value for name, value in record.items() if value not in (None, (), False, {})}
