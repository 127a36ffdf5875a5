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
    lines = (json.dumps(_record(fact), ensure_ascii=False) + "\n" for fact in facts)
    atomic_write_bytes(Path(path), "".join(lines).encode())


def _record(fact: Fact) -> dict[str, object]:
    """The fields that say something, the id first."""
    record = {"id": fact.id} | asdict(fact)
    return {name: value for name, value in record.items() if value not in (None, (), False, {})}
