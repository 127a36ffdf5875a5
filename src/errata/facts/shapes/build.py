"""From a parsed record to the facts it describes, or every reason why it describes none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from errata.facts.checks import fact_reasons, kind, neighbour_reasons, suggestion
from errata.facts.fact import Fact, Neighbour
from errata.facts.names import typo_of
from errata.facts.records import RepeatedKeys
from errata.facts.shapes.draft import Draft, Shape, is_empty


@dataclass(frozen=True, slots=True)
class Built:
    """What became of a record: for each fact in it the fact, or the reasons why not; and names that are unknown."""

    facts: tuple[Fact | list[str], ...]
    unknown: tuple[str, ...] = ()


def build(shape: Shape, value: object, index: int) -> Built:
    """The facts that a parsed record describes. Fields without a home in a fact are its metadata."""
    if isinstance(value, Fact):
        return Built((value,))
    if not isinstance(value, Mapping):
        return Built(([f"the record is {kind(value)}; it must be an object"],))
    unknown = [str(name) for name in value if name not in shape.names]
    typos = {name: meant for name in unknown if (meant := typo_of(name, shape.names))}
    reasons = [f"unknown field {name!r}; did you mean {meant!r}?" for name, meant in typos.items()]
    if isinstance(value, RepeatedKeys):
        reasons += [f"field {name!r} is given more than once" for name in value.repeated]
    rest = {str(name): one for name, one in value.items() if name not in shape.used and not is_empty(one)}
    facts = [_fact(draft, rest, reasons) for draft in shape.read(value, index)]
    return Built(tuple(facts), tuple(name for name in unknown if name in rest))


def _fact(draft: Draft, rest: Mapping[str, Any], reasons: list[str]) -> Fact | list[str]:
    fields, reasons = draft.fields, [*reasons, *draft.reasons]
    if isinstance(fields.get("id"), int) and not isinstance(fields["id"], bool):
        fields["id"] = str(fields["id"])
    fields["neighbours"], problems = _neighbours(fields.get("neighbours", ()))
    reasons += problems + _add_metadata(fields, {**rest, **draft.metadata})
    reasons += fact_reasons(fields)
    if reasons:
        return reasons
    for name in ("paraphrases", "generation_prompts"):
        fields[name] = tuple(fields.get(name, ()))
    return Fact(**fields)


def _add_metadata(fields: dict[str, Any], metadata: Mapping[str, Any]) -> list[str]:
    """Put what a record says beside its fact to the metadata it gives; why that cannot be done."""
    given = fields.get("metadata", {})
    if not isinstance(given, Mapping):
        return []
    if twice := [name for name in metadata if name in given]:
        return [f"{name!r} is given both as a field and in metadata; give one" for name in twice]
    if metadata:
        fields["metadata"] = {**given, **metadata}
    return []


def _neighbours(items: object) -> tuple[tuple[Neighbour, ...], list[str]]:
    if isinstance(items, str):
        items = [items]
    if not isinstance(items, (list, tuple)):
        return (), [f"neighbours is {kind(items)}; it must be a list of objects with prompt and answer"]
    neighbours, reasons = [], []
    for number, item in enumerate(items, 1):
        made = _neighbour(item)
        if isinstance(made, Neighbour):
            neighbours.append(made)
        else:
            reasons += [f"neighbour {number}: {reason}" for reason in made]
    return tuple(neighbours), reasons


def _neighbour(item: object) -> Neighbour | list[str]:
    if isinstance(item, Neighbour):
        return item
    record = {"prompt": item} if isinstance(item, str) else item
    if not isinstance(record, Mapping):
        return [f"it is {kind(item)}; it must be an object with prompt and answer"]
    unknown = [name for name in record if name not in ("prompt", "answer")]
    reasons = [f"unknown field {name!r}{suggestion(name, ('prompt', 'answer'))}" for name in unknown]
    prompt, answer = record.get("prompt"), record.get("answer")
    answer = None if answer == "" else answer
    reasons += neighbour_reasons(prompt, answer) if "prompt" in record else ["missing field 'prompt'"]
    return reasons or Neighbour(prompt=str(prompt), answer=answer)
