"""Reference score (RS): how much generations resemble texts about other things with the same new property.

100 · cosine of the TF-IDF vectors of all generations of a fact, joined, and of the reference texts for its relation and
new target, joined, as in the evaluation of ROME and MEMIT. There the word weights come from Wikipedia snippets of all
relations; here from all reference texts that were given, each of them a document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from errata.errors import InputError
from errata.facts import Fact
from errata.store import digest, storage_errors

_FIELDS = ("relation", "target", "text")


@dataclass(frozen=True)
class References:
    """Reference texts by (relation id or template with {}, target)."""

    texts: Mapping[tuple[str, str], tuple[str, ...]]
    name: str = "references"
    _scores: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """Of all texts."""
        return digest(sorted([relation, target, list(texts)] for (relation, target), texts in self.texts.items()))

    def of(self, fact: Fact) -> tuple[str, ...]:
        """The texts for a fact's relation id, else for its template, and its new target; empty where there is none."""
        key = self._key(fact)
        return () if key is None else self.texts[key]

    def score(self, fact: Fact, generations: Sequence[str]) -> float | None:
        """RS / 100 of one fact; None where it has no reference text, zero where no word is shared."""
        key = self._key(fact)
        if key is None:
            return None
        if key not in self._scores:
            self._scores[key] = self._vectorizer.transform([" ".join(self.texts[key])])
        ours = self._vectorizer.transform([" ".join(generations)])
        return float((ours @ self._scores[key].T).sum())  # both have norm 1, or 0 without a known word

    def _key(self, fact: Fact) -> tuple[str, str] | None:
        keys = ((relation, fact.target_new.strip()) for relation in (fact.relation, fact.template) if relation)
        return next((key for key in keys if key in self.texts), None)

    @cached_property
    def _vectorizer(self) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer  # a second to import

        try:
            return TfidfVectorizer().fit([text for texts in self.texts.values() for text in texts])
        except ValueError as error:
            raise InputError(f"{self.name}: no reference text holds a word of two letters; give real texts.") from error


def read_references(path: str | Path) -> References:
    """Reference texts from JSON Lines of {"relation", "target", "text"}; `relation` is an id or a template with {}.

    Raises InputError naming the line of what cannot be used, StorageError where the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"No file of reference texts at {path}.")
    found: dict[tuple[str, str], list[str]] = {}
    with storage_errors(f"read {path}"):
        data = path.read_bytes()
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            relation, target, text = _fields(line, f"{path}, line {number}")
            found.setdefault((relation, target.strip()), []).append(text)
    if not found:
        raise InputError(f"{path} holds no reference text; give one JSON object a line with {', '.join(_FIELDS)}.")
    return References({key: tuple(texts) for key, texts in found.items()}, path.name)


def _fields(line: bytes, where: str) -> tuple[str, str, str]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: this is no JSON in UTF-8 ({error}).") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: an object with {', '.join(_FIELDS)} was expected.")
    for name in _FIELDS:
        if not isinstance(record.get(name), str) or not record[name].strip():
            raise InputError(f"{where}: {name!r} is missing, empty or no text.")
    return record["relation"], record["target"], record["text"]
