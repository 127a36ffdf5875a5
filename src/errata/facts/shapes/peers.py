"""Records that other editors' benchmarks ask many questions with: MQuAKE-CF, WikiBigEdit, UnKE, KnowEdit's WikiBio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from errata.facts.checks import kind
from errata.facts.shapes.data_sets import add_questions, rewrite
from errata.facts.shapes.draft import Draft, Shape, pick, texts
from errata.facts.shapes.flat import FLAT

_CASE = frozenset((
    "questions", "answer", "answer_alias", "answer_extended", "new_answer", "new_answer_alias", "new_answer_extended",
    "single_hops", "new_single_hops", "orig",
))  # fmt: skip


def _mquake(record: Mapping[str, Any], index: int) -> list[Draft]:
    """A case of MQuAKE-CF (Zhong et al. 2023): one fact a rewrite; the case, with its questions, is metadata of each.

    The ids are the case's, numbered where it has several rewrites. A rewrite's question is its paraphrase.
    """
    rewrites = record.get("requested_rewrite")
    if not isinstance(rewrites, list) or not rewrites:
        found = "is an empty list" if rewrites == [] else f"is {kind(rewrites)}"
        return [Draft({}, [f"requested_rewrite {found}; it must be a list of rewrites"])]
    case = record.get("case_id", index)
    drafts = []
    for number, one in enumerate(rewrites, 1):
        draft = rewrite(one)
        draft.fields["id"] = str(case) if len(rewrites) == 1 else f"{case}-{number}"
        draft.fields["paraphrases"] = texts(draft.metadata.pop("question", None))
        draft.metadata["case_id"] = case
        drafts.append(draft)
    return drafts


def _wikibigedit(record: Mapping[str, Any], _index: int) -> list[Draft]:
    """A record of WikiBigEdit: the updated question and its answer; persona and multi-hop questions are metadata."""
    draft = pick(record, {"subject": "subject", "update": "prompt", "ans": "target_new"})
    add_questions(record, draft)
    return [draft]


def _unke(record: Mapping[str, Any], _index: int) -> list[Draft]:
    """A record of UnKE, which names no subject: the whole question stands for it."""
    draft = pick(record, {"question": "prompt", "answer": "target_new", "id": "id"})
    question = draft.fields.get("prompt")
    draft.fields["subject"] = question.strip() if isinstance(question, str) else question
    draft.fields["paraphrases"] = texts(record.get("para_question"))
    return [draft]


_WIKI_BIO = {"concept": "subject", "text": "prompt", "labels": "target_new"}


def _wiki_bio(record: Mapping[str, Any], index: int) -> list[Draft]:
    return FLAT.read({_WIKI_BIO.get(name, name): value for name, value in record.items()}, index)


MQUAKE = Shape(
    name="mquake",
    about="requested_rewrite [{subject, prompt with {}, target_new, target_true, question}], questions, new_answer",
    fits=lambda record: isinstance(record.get("requested_rewrite"), list),
    read=_mquake,
    used=frozenset(("case_id", "requested_rewrite")),
    kept=_CASE,
)
WIKIBIGEDIT = Shape(
    name="wikibigedit",
    about="subject, update, ans; rephrase, loc, loc_ans, personas, mhop, mhop_ans",
    fits=lambda record: {"update", "ans"} <= set(record),
    read=_wikibigedit,
    used=frozenset(("subject", "update", "ans", "rephrase", "loc", "loc_ans")),
    kept=frozenset(("tag", "personas", "mhop", "mhop_ans", "subject_id", "relation", "relation_id", "object")),
)
UNKE = Shape(
    name="unke",
    about="question, answer; para_question, sub_question, sub_answer",
    fits=lambda record: (
        {"question", "answer"} <= set(record) and not {"para_question", "sub_question", "sub_answer"}.isdisjoint(record)
    ),
    read=_unke,
    used=frozenset(("id", "question", "answer", "para_question")),
    kept=frozenset(("sub_question", "sub_answer")),
    note="UnKE names no subject, so the whole question stands for it. ft, ft-l, ft-w, sgd, adam, mend, shift and kn "
    "need none; memit, rome and their kin look a subject up and then write at the question's last token",
)
WIKI_BIO = Shape(
    name="knowedit-wikibio",
    about="concept, text, labels; locality",
    fits=lambda record: set(_WIKI_BIO) <= set(record),
    read=_wiki_bio,
    used=(FLAT.used - set(_WIKI_BIO.values())) | set(_WIKI_BIO),
    kept=FLAT.kept,
)
