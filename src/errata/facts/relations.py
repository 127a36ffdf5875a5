"""The LRE relations data (Hernandez et al. 2024) as counterfactual edits: each subject gets another object's place.

A file is a list of {name, type, prompt_templates, prompt_templates_zs, samples: [{subject, object}]}; `{}` stands for
the subject. The type is factual, commonsense, linguistic or bias. Blanks around subjects and objects are dropped, and
so is a sample that has nothing else.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from errata.errors import FactsError
from errata.facts.fact import Fact, Neighbour

_NEIGHBOURS = 3


@dataclass(frozen=True)
class Relation:
    """One relation: its prompts, the first being the one that is edited, and what is true."""

    name: str
    type: str
    templates: tuple[str, ...]
    samples: tuple[tuple[str, str], ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """Every distinct object, sorted."""
        return tuple(sorted({object for _, object in self.samples}))

    def true_of(self, subject: str) -> set[str]:
        """Every object of a subject."""
        return self._true.get(subject, set())

    @cached_property
    def _true(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for subject, object in self.samples:
            found[subject].add(object)
        return dict(found)


@dataclass(frozen=True)
class RelationEdits:
    """Counterfactual facts, of all types in turn, and each relation's type."""

    facts: tuple[Fact, ...]
    types: dict[str, str] = field(default_factory=dict)


def read_relations(path: str | Path) -> tuple[Relation, ...]:
    """The relations of a file; FactsError naming the first one that cannot be used."""
    path = Path(path)
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FactsError(f"{path} cannot be read as relations ({error}).") from error
    if not isinstance(records, list) or not records:
        raise FactsError(f"{path} holds no list of relations; see the LRE data for the format.")
    return tuple(_relation(record, f"{path}, relation {number}") for number, record in enumerate(records, 1))


def relation_edits(relations: Sequence[Relation], *, limit: int, seed: int = 0) -> RelationEdits:
    """At most `limit` counterfactual facts: a new object from the same relation, the other prompts as paraphrases.

    Types take turns, and within each its relations, so that a few facts cover all of them. Neighbours are other
    subjects, each once, those with the same true object first, with their own object as the answer. A relation whose
    subjects all have one object is left out. Everything is drawn from `seed`.
    """
    by_type: dict[str, list[Iterator[Fact]]] = {}
    for relation in relations:
        if len(relation.objects) > 1:
            by_type.setdefault(relation.type, []).append(_edits(relation, seed))
    turns = [_interleaved(by_type[name]) for name in sorted(by_type)]
    facts: list[Fact] = []
    for fact in _interleaved(turns):
        if len(facts) == limit:
            break
        facts.append(fact)
    return RelationEdits(tuple(facts), {relation.name: relation.type for relation in relations})


def _edits(relation: Relation, seed: int) -> Iterator[Fact]:
    draw = random.Random(f"{seed} {relation.name}")
    samples = list(dict.fromkeys(relation.samples))
    draw.shuffle(samples)
    done: set[str] = set()
    for subject, true in samples:
        others = [one for one in relation.objects if one not in relation.true_of(subject)]
        if subject in done or not others:
            continue
        done.add(subject)
        new = draw.choice(others)
        yield Fact(
            subject=subject,
            prompt=relation.templates[0],
            target_new=new,
            target_true=true,
            paraphrases=tuple(dict.fromkeys(relation.templates[1:])),
            neighbours=tuple(_neighbours(relation, subject, true, new, draw)),
            relation=relation.name,
        )


def _neighbours(relation: Relation, subject: str, true: str, new: str, draw: random.Random) -> Iterator[Neighbour]:
    # One that has the new object, if only among others, would be right to give it.
    samples = [(one, object) for one, object in relation.samples if one != subject and new not in relation.true_of(one)]
    draw.shuffle(samples)
    samples.sort(key=lambda sample: sample[1] != true)
    # A subject with several objects comes several times; the first one counts.
    answers: dict[str, str] = {}
    for one, object in samples:
        answers.setdefault(one, object)
    for one, object in islice(answers.items(), _NEIGHBOURS):
        yield Neighbour(prompt=relation.templates[0].replace("{}", one), answer=object)


def _interleaved(parts: Sequence[Iterator[Fact]]) -> Iterator[Fact]:
    rounds = zip_longest(*parts)
    return (fact for fact in chain.from_iterable(rounds) if fact is not None)


def _relation(record: Any, where: str) -> Relation:
    try:
        templates = [*record["prompt_templates"], *record.get("prompt_templates_zs", ())]
        named = ((str(sample["subject"]).strip(), str(sample["object"]).strip()) for sample in record["samples"])
        samples = tuple((subject, object) for subject, object in named if subject and object)
        name, kind = str(record["name"]), str(record["type"])
    except (KeyError, TypeError, AttributeError) as error:
        raise FactsError(
            f"{where} is not {{name, type, prompt_templates, samples: [{{subject, object}}]}} ({error!r})."
        ) from error
    bad = [template for template in templates if not isinstance(template, str) or template.count("{}") != 1]
    if not templates or bad:
        raise FactsError(
            f"{where} ({name}): every prompt needs one {{}} for the subject, found {(bad or ['none'])[0]!r}."
        )
    return Relation(name, kind, tuple(dict.fromkeys(templates)), samples)
