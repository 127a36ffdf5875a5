"""One fact an object: our own names, and those of EasyEdit, KnowEdit, ROME, MEMIT and FastEdit, in any mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from errata.facts.names import ALIASES, FIELDS
from errata.facts.shapes.draft import (
    Draft,
    Shape,
    add_answer,
    asked,
    first_answer,
    paired,
    pick,
    says_more,
    texts,
    unsaid,
)

_REPHRASED = ("rephrase_prompt", "rephrase_prompts", "rephrase", "paraphrase_prompts", "queries")
_LOCAL = ("locality", "locality_inputs")
_LOCAL_PROMPTS = ("locality_prompt", "locality_prompts", "neighborhood_prompts")
_ANSWERS = ("target", "target_true", "ground_truth", "relation_id", "locality_ground_truth")


def fits(record: Mapping[str, Any]) -> bool:
    """Whether at least two of the three things that a fact needs are there under names of ours or theirs."""
    names = set(record)
    target = bool(names & {"target_new", "target"})
    return ("subject" in names) + ("prompt" in names) + target >= 2


def read(record: Mapping[str, Any], _index: int) -> list[Draft]:
    """The one fact of a record. `target` (FastEdit) is target_new where that is absent; answers may be {"str": ...}.

    `ground_truth` is target_true, the first where it is a list. Locality questions with an answer become neighbours.
    """
    draft = pick(record, _our_names(record))
    draft.reasons += [
        f"{other!r} and {name!r} mean the same; give one"
        for other, name in ALIASES.items()
        if {other, name} <= set(record)
    ]
    if {"target", "target_new"} <= set(record):
        draft.reasons.append(
            "'target' stands beside 'target_new'; give the new answer as target_new, the true as target_true"
        )
    fields = draft.fields
    for name in ("target_new", "target_true"):
        if name in fields:
            add_answer(draft, name, fields[name])
    # "" says that nothing stands between prompt and answer: here alone an empty text is not an absent one.
    if record.get("join") == "":
        fields["join"] = ""
    _add_true_answer(record, draft)
    _add_prompts(record, draft)
    whole = (*_LOCAL, *(("relation_id",) if "relation" in record else ()))
    draft.metadata |= {name: record[name] for name in whole if record.get(name)}
    return [draft]


def _our_names(record: Mapping[str, Any]) -> dict[str, str]:
    names = {name: ALIASES.get(name, name) for name in record if ALIASES.get(name, name) in FIELDS}
    names |= {name: name for name in ("subject", "prompt")}
    target = "target" if "target" in record and "target_new" not in record else "target_new"
    names[target] = "target_new"
    return names if "relation" in record else names | {"relation_id": "relation"}


def _add_true_answer(record: Mapping[str, Any], draft: Draft) -> None:
    given = record.get("ground_truth")
    first = first_answer(given)
    if first is not None:
        true = draft.fields.setdefault("target_true", first)
        if true != first and not (isinstance(given, (list, tuple)) and true in given):
            draft.reasons.append(f"target_true is {true!r} and ground_truth {first!r}, which mean the same; give one")
    if says_more(given):
        draft.metadata["ground_truth"] = given


def _add_prompts(record: Mapping[str, Any], draft: Draft) -> None:
    fields = draft.fields
    for name in ("paraphrases", "generation_prompts"):
        if isinstance(fields.get(name), str):
            fields[name] = [fields[name]]
    own = fields.get("paraphrases", [])
    if isinstance(own, (list, tuple)):
        theirs = [text for name in _REPHRASED for text in texts(record.get(name))]
        new = [text for place, text in enumerate(theirs) if text not in own and text not in theirs[:place]]
        fields["paraphrases"] = [*own, *new]
    questions = [question for name in _LOCAL for question in asked(record.get(name))]
    for name in _LOCAL_PROMPTS:
        pairs = paired(record.get(name), record.get("locality_ground_truth"))
        questions += [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]
    if unsaid(answers := record.get("locality_ground_truth"), [one["answer"] for one in questions]):
        draft.metadata["locality_ground_truth"] = answers
    neighbours = fields.get("neighbours", [])
    if questions:
        fields["neighbours"] = [*(neighbours if isinstance(neighbours, (list, tuple)) else [neighbours]), *questions]


FLAT = Shape(
    name="errata",
    about="subject, prompt, target_new; target_true, paraphrases, neighbours, ... (errata); or with ground_truth, "
    'rephrase_prompt, locality, portability (easyedit, knowedit); with target_new {"str": ...} (rome); with target and '
    "queries (fastedit)",
    fits=fits,
    read=read,
    used=frozenset((*FIELDS, *ALIASES, *_REPHRASED, *_LOCAL, *_LOCAL_PROMPTS, *_ANSWERS)),
    kept=frozenset(("portability", "portability_inputs", "attribute_prompts", "pararel_idx", "pred", "cond")),
)
