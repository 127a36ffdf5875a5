"""The data sets of editing and tracing as published: CounterFact, zsRE, known facts, and CounterFact for tracing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from errata.facts.checks import kind
from errata.facts.shapes.draft import (
    Draft,
    Shape,
    add_answer,
    first_answer,
    is_empty,
    paired,
    pick,
    says_more,
    texts,
    unsaid,
)
from errata.facts.shapes.flat import FLAT
from errata.facts.text import PLACEHOLDER

REWRITE = {
    "subject": "subject", "prompt": "prompt", "target_new": "target_new", "target_true": "target_true",
    "relation_id": "relation",
}  # fmt: skip


def rewrite(request: object) -> Draft:
    """What a requested rewrite says: CounterFact's and MQuAKE's. Ids of the answers and other fields are metadata."""
    if not isinstance(request, Mapping):
        return Draft({}, [f"requested_rewrite is {kind(request)}; it must be an object"])
    draft = pick(request, REWRITE)
    for name in ("target_new", "target_true"):
        if name in draft.fields:
            add_answer(draft, name, draft.fields[name])
    draft.metadata |= {name: value for name, value in request.items() if name not in REWRITE and not is_empty(value)}
    return draft


def _counterfact(record: Mapping[str, Any], index: int) -> list[Draft]:
    """A CounterFact record (Meng et al. 2022), as released or flattened to one paraphrase and one neighbour."""
    drafts = _released(record) if "requested_rewrite" in record else FLAT.read(record, index)
    for draft in drafts:
        draft.fields["id"] = record.get("case_id", str(index))
    return drafts


def _released(record: Mapping[str, Any]) -> list[Draft]:
    draft = rewrite(record["requested_rewrite"])
    neighbours = record.get("neighborhood_prompts") or []
    if isinstance(neighbours, list):
        neighbours = [{"prompt": prompt, "answer": draft.fields.get("target_true")} for prompt in neighbours]
    draft.fields |= {
        "paraphrases": record.get("paraphrase_prompts") or [],
        "neighbours": neighbours,
        "generation_prompts": record.get("generation_prompts") or [],
    }
    return [draft]


def _zsre(record: Mapping[str, Any], index: int) -> list[Draft]:
    """A zsRE record in the shape MEND uses. Its id is its 0-based place; the first answer is target_true.

    The unrelated question gets the "?" that the data leave out, as MEMIT's evaluation asks it. What is written is
    `alt`, as in MEND, where MEMIT writes the true answer.
    """
    draft = pick(record, {"subject": "subject", "src": "prompt", "alt": "target_new"})
    true = first_answer(record.get("answers"))
    draft.fields |= {} if true is None else {"target_true": true}
    draft.fields["id"] = str(index)
    add_questions(record, draft, ending="?")
    if says_more(record.get("answers")):
        draft.metadata["answers"] = record["answers"]
    return [draft]


def add_questions(record: Mapping[str, Any], draft: Draft, *, ending: str = "") -> None:
    """Add the rephrased and the unrelated question, the latter with `ending`, of zsRE and its kin; none where empty."""
    draft.fields["paraphrases"] = texts(record.get("rephrase"))
    neighbours = []
    for question, answer in paired(record.get("loc"), record.get("loc_ans")):
        whole = isinstance(question, str) and question.strip() and not question.endswith(ending)
        neighbours.append({"prompt": question + ending if whole else question, "answer": answer})
    draft.fields["neighbours"] = neighbours
    if unsaid(record.get("loc_ans"), [one["answer"] for one in neighbours]):
        draft.metadata["loc_ans"] = record["loc_ans"]


def _known(record: Mapping[str, Any], index: int) -> list[Draft]:
    """A record of known facts for causal tracing (Meng et al. 2022). Its attribute, the only answer, is target_new.

    `prompt` is what the model reads; where it goes on from the filled template, the template says where the subject is.
    Without it the template is the prompt.
    """
    draft = pick(record, {"subject": "subject", "attribute": "target_new", "relation_id": "relation"})
    template, prompt = record.get("template"), record.get("prompt")
    if "template" not in record and "prompt" not in record:
        draft.reasons.append("missing field 'template'")
        return [draft]
    draft.fields["prompt"] = template if prompt is None else placed(template, prompt, record.get("subject"))
    if template is not None and draft.fields["prompt"] == prompt != template:
        draft.metadata["template"] = template
    draft.fields["id"] = record.get("known_id", str(index))
    return [draft]


def placed(template: object, prompt: object, subject: object) -> object:
    """The prompt with `{}` where the template has the subject; the prompt itself where the two do not agree."""
    if isinstance(template, str) and isinstance(prompt, str) and isinstance(subject, str):
        filled = template.replace(PLACEHOLDER, subject)
        if template.count(PLACEHOLDER) == 1 and prompt.startswith(filled) and PLACEHOLDER not in prompt:
            return template + prompt[len(filled) :]
    return prompt


def _tracing(record: Mapping[str, Any], _index: int) -> list[Draft]:
    """A record of counterfact-tracing: `target_false` is written, as in CounterFact, without its leading space."""
    names = {"subject": "subject", "prompt": "prompt", "target_false": "target_new", "target_true": "target_true"}
    draft = pick(record, names | {"relation_id": "relation"})
    if "prompt" in record:
        draft.fields["prompt"] = placed(record.get("relation"), record["prompt"], record.get("subject"))
    for name in ("target_new", "target_true"):
        if isinstance(value := draft.fields.get(name), str) and value.strip():
            draft.fields[name] = value.lstrip(" ")
    return [draft]


COUNTERFACT = Shape(
    name="counterfact",
    about='requested_rewrite {subject, prompt with {}, target_new {"str"}, target_true {"str"}}, paraphrase_prompts',
    fits=lambda record: "requested_rewrite" in record and not isinstance(record["requested_rewrite"], list),
    read=_counterfact,
    used=FLAT.used | {"requested_rewrite"},
    kept=FLAT.kept,
)
ZSRE = Shape(
    name="zsre",
    about="subject, src, alt; answers, rephrase, loc, loc_ans",
    fits=lambda record: {"src", "alt"} <= set(record),
    read=_zsre,
    used=frozenset(("subject", "src", "alt", "answers", "rephrase", "loc", "loc_ans")),
    kept=frozenset(("pred", "cond", "portability", "locality")),
)
KNOWN = Shape(
    name="known",
    about="subject, attribute, template; prompt",
    fits=lambda record: {"template", "attribute"} <= set(record),
    read=_known,
    used=frozenset(("subject", "attribute", "relation_id", "template", "prompt", "known_id")),
    kept=frozenset(("prediction",)),
)
TRACING = Shape(
    name="counterfact-tracing",
    about="subject, prompt, target_true, target_false",
    fits=lambda record: {"target_true", "target_false"} <= set(record) and not isinstance(record["target_true"], dict),
    read=_tracing,
    used=frozenset(("subject", "prompt", "target_false", "target_true", "relation_id")),
    kept=frozenset(("relation", "relation_prefix", "relation_suffix", "target_true_id", "target_false_id")),
)
