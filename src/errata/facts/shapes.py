"""The shapes of fact records, each turned into a `Fact`: ours, CounterFact (original, flattened), zsRE, known facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from errata.facts.checks import REQUIRED, fact_reasons, kind, neighbour_reasons, suggestion
from errata.facts.fact import Fact, Neighbour
from errata.facts.records import RepeatedKeys
from errata.facts.text import PLACEHOLDER

FIELDS = (
    "id", "subject", "prompt", "target_new", "target_true", "paraphrases", "neighbours", "relation",
    "generation_prompts", "join", "chat", "metadata",
)  # fmt: skip
ALIASES = {"case_id": "id", "neighbors": "neighbours"}

# Fields under our names, and why they cannot be used.
Shaped = tuple[dict[str, Any], list[str]]
Shape = Callable[[Mapping[str, Any], int], Shaped]


def build(shape: Shape, value: object, index: int) -> Fact | list[str]:
    """The fact that a parsed record describes, or every reason why it describes none."""
    if not isinstance(value, Mapping):
        return [f"the record is {kind(value)}; it must be an object"]
    fields, reasons = shape(value, index)
    if isinstance(value, RepeatedKeys):
        reasons += [f"field {name!r} is given more than once" for name in value.repeated]
    if isinstance(fields.get("id"), int) and not isinstance(fields["id"], bool):
        fields["id"] = str(fields["id"])
    fields["neighbours"], found = _neighbours(fields.get("neighbours", ()))
    reasons += found + fact_reasons(fields)
    if reasons:
        return reasons
    for name in ("paraphrases", "generation_prompts"):
        fields[name] = tuple(fields.get(name, ()))
    return Fact(**fields)


def own(record: Mapping[str, Any], _index: int) -> Shaped:
    """Our own field names, and the aliases `case_id` and `neighbors`. Unknown fields are refused."""
    reasons = [f"unknown field {name!r}{suggestion(name, FIELDS)}" for name in record if _ours(name) not in FIELDS]
    reasons += [
        f"{other!r} and {name!r} mean the same; give one"
        for other, name in ALIASES.items()
        if {other, name} <= set(record)
    ]
    fields, missing = _pick(record, {name: _ours(name) for name in record} | {name: name for name in REQUIRED})
    for name in ("paraphrases", "generation_prompts"):
        if isinstance(fields.get(name), str):
            fields[name] = [fields[name]]
    return fields, reasons + missing


def counterfact(record: Mapping[str, Any], index: int) -> Shaped:
    """A CounterFact record (Meng et al. 2022), as released or flattened to one paraphrase and one neighbour."""
    return _original(record, index) if "requested_rewrite" in record else _flattened(record, index)


def zsre(record: Mapping[str, Any], index: int) -> Shaped:
    """A zsRE record in the shape MEND uses. Its id is its 0-based place; the first answer is target_true.

    The unrelated question gets the "?" that the data leave out, as MEMIT's evaluation asks it. What is written is
    `alt`, as in MEND, where MEMIT writes the true answer.
    """
    names = {"subject": "subject", "src": "prompt", "alt": "target_new", "answers": "target_true"}
    fields, reasons = _pick(record, names)
    if isinstance(fields.get("target_true"), list):
        fields["target_true"] = next(iter(fields["target_true"]), None)
    fields |= _extras(record, "rephrase", "loc", "loc_ans", ending="?")
    return fields | {"id": str(index)}, reasons


def known(record: Mapping[str, Any], index: int) -> Shaped:
    """A record of known facts for causal tracing (Meng et al. 2022). Its attribute, the only answer, is target_new.

    `prompt` is what the model reads; where it goes on from the filled template, the template says where the subject is.
    Without it the template is the prompt.
    """
    fields, reasons = _pick(record, {"subject": "subject", "attribute": "target_new", "relation_id": "relation"})
    template, prompt, subject = record.get("template"), record.get("prompt"), record.get("subject")
    if "template" not in record and "prompt" not in record:
        return fields, [*reasons, "missing field 'template'"]
    fields["prompt"] = template if prompt is None else prompt
    if isinstance(template, str) and isinstance(prompt, str) and isinstance(subject, str):
        filled = template.replace(PLACEHOLDER, subject)
        if template.count(PLACEHOLDER) == 1 and prompt.startswith(filled) and PLACEHOLDER not in prompt:
            fields["prompt"] = template + prompt[len(filled) :]
    return fields | {"id": record.get("known_id", str(index))}, reasons


def recognize(record: Mapping[str, Any]) -> Shape:
    """The shape whose field names a record has; ours where no other fits."""
    names = set(record)
    if "requested_rewrite" in names or names & {"ground_truth", "rephrase_prompt", "locality_prompt"}:
        return counterfact
    if {"template", "attribute"} <= names:
        return known
    return zsre if {"src", "alt"} <= names else own


def _ours(name: str) -> str:
    return ALIASES.get(name, name)


def _pick(record: Mapping[str, Any], names: Mapping[str, str]) -> Shaped:
    """The fields under our names, null being absent where it may be, and the required ones that are missing."""
    present = {theirs: ours for theirs, ours in names.items() if theirs in record}
    fields = {
        ours: record[theirs] for theirs, ours in present.items() if record[theirs] is not None or ours in REQUIRED
    }
    missing = [theirs for theirs, ours in names.items() if ours in REQUIRED and theirs not in record]
    return fields, [f"missing field {name!r}" for name in missing]


def _original(record: Mapping[str, Any], index: int) -> Shaped:
    rewrite = record["requested_rewrite"]
    if not isinstance(rewrite, Mapping):
        return {}, [f"requested_rewrite is {kind(rewrite)}; it must be an object"]
    names = {name: name for name in ("subject", "prompt", "target_new", "target_true")} | {"relation_id": "relation"}
    fields, reasons = _pick(rewrite, names)
    for name in ("target_new", "target_true"):
        if isinstance(fields.get(name), Mapping):
            fields[name] = fields[name].get("str")
    neighbours = record.get("neighborhood_prompts") or []
    if isinstance(neighbours, list):
        neighbours = [{"prompt": prompt, "answer": fields.get("target_true")} for prompt in neighbours]
    fields |= {
        "paraphrases": record.get("paraphrase_prompts") or [],
        "neighbours": neighbours,
        "generation_prompts": record.get("generation_prompts") or [],
    }
    return fields | {"id": record.get("case_id", str(index))}, reasons


def _flattened(record: Mapping[str, Any], index: int) -> Shaped:
    names = {name: name for name in REQUIRED} | {"ground_truth": "target_true", "relation_id": "relation"}
    fields, reasons = _pick(record, names)
    fields |= _extras(record, "rephrase_prompt", "locality_prompt", "locality_ground_truth")
    return fields | {"id": record.get("case_id", str(index))}, reasons


def _extras(
    record: Mapping[str, Any], paraphrase: str, prompt: str, answer: str, *, ending: str = ""
) -> dict[str, Any]:
    """The one paraphrase and the one neighbour, its prompt with `ending`, of a flattened data set; none where empty."""
    extras = {}
    if record.get(paraphrase):
        extras["paraphrases"] = [record[paraphrase]]
    if record.get(prompt):
        asked = record[prompt]
        if isinstance(asked, str) and asked.strip() and not asked.endswith(ending):
            asked += ending
        extras["neighbours"] = [{"prompt": asked, "answer": record.get(answer) or None}]
    return extras


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
    record = {"prompt": item} if isinstance(item, str) else item
    if not isinstance(record, Mapping):
        return [f"it is {kind(item)}; it must be an object with prompt and answer"]
    unknown = [name for name in record if name not in ("prompt", "answer")]
    reasons = [f"unknown field {name!r}{suggestion(name, ('prompt', 'answer'))}" for name in unknown]
    prompt, answer = record.get("prompt"), record.get("answer")
    reasons += neighbour_reasons(prompt, answer) if "prompt" in record else ["missing field 'prompt'"]
    return reasons or Neighbour(prompt=str(prompt), answer=answer)
