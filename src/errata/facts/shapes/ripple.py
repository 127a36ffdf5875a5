"""RippleEdits (Cohen et al. 2024): an edit is a whole sentence; where its subject and its answer stand must be found.

The sentences are made from some fifty templates, "The name of the <relation> of <subject> is <answer>." and its like,
and nothing but an id says who the subject is. So the subject is what stands between the opening of a template and its
ending. The fact as it was is the same sentence with another answer: the ending is then sought in what both share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from errata.facts.checks import kind, quoted, text_reasons
from errata.facts.shapes.draft import Draft, Shape, is_empty

KINDS = (
    "Relation_Specificity", "Relation_Specifity", "Logical_Generalization", "Logical_Constraints", "Subject_Aliasing",
    "Subject_Paraphrasing", "Two_hop", "Compositionality_I", "Compositionality_II", "Forgetfulness",
)  # fmt: skip
# The longer ones first: "is associated with is" also ends in "is".
_ENDINGS = (
    "is associated with is", "is a member of is", "is the capital of is", "is part of is", "plays in is", "has is",
    "won is", "is followed by", "follows", "is", "are", "was", "were",
)  # fmt: skip
_OPENINGS = (
    r"The .*?\b(?:which|held by|currency in|performed in|name of the award) ",
    r"The number of children ",
    # "place of birth of X": an "of" that belongs to the relation, not to the subject.
    r"The (?:names? of the )?(?:\w+ )*?(?:country|place|date|field|head) of \w+ of ",
    r"The (?:names? of the )?.+? of ",
    r"(?!The .* of )",
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence in its parts: what stands before the subject, the subject, the words up to the answer, the answer."""

    opening: str
    subject: str
    ending: str
    answer: str

    @property
    def stem(self) -> str:
        return f"{self.opening}{self.subject} {self.ending} "


def parted(sentence: str, other: str | None = None) -> Sentence | None:
    """The parts of a sentence, None where it is made from no template; `other` is the same with another answer."""
    shared = sentence if other is None else _shared(sentence, other)
    # With the other answer in sight the last ending counts: a film may be called "This is Us".
    width = ".+?" if other is None else ".+"
    for opening in _OPENINGS:
        for ending in _ENDINGS:
            if found := re.match(f"({opening})({width}) {ending} ", shared):
                return Sentence(found[1], found[2], ending, sentence[found.end() :])
    return None


def _shared(one: str, other: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def _read(record: Mapping[str, Any], _index: int) -> list[Draft]:
    edit = record.get("edit")
    if not isinstance(edit, Mapping):
        return [Draft({}, [f"edit is {kind(edit)}; it must be an object"])]
    original = edit.get("original_fact")
    old = original.get("prompt") if isinstance(original, Mapping) else None
    sentence = edit.get("prompt")
    draft = Draft({"relation": edit.get("relation") or None}, text_reasons("edit.prompt", sentence))
    draft.metadata |= {
        name: value for name, value in edit.items() if name not in ("prompt", "relation") and not is_empty(value)
    }
    if not draft.reasons:
        parts = parted(_bare(sentence), _bare(old) if isinstance(old, str) else None)
        if parts is None:
            draft.reasons.append(
                f"no subject is named, and none was found in {quoted(str(sentence))}; write the record as subject, "
                "prompt and target_new"
            )
        else:
            _fill(draft.fields, parts, old)
    return [draft]


def _bare(sentence: object) -> str:
    return str(sentence).strip().removesuffix(".")


def _fill(fields: dict[str, Any], parts: Sentence, old: object) -> None:
    fields |= {
        "subject": parts.subject,
        "prompt": f"{parts.opening}{{}} {parts.ending}",
        "target_new": parts.answer,
    }
    if isinstance(old, str) and (true := _bare(old).removeprefix(parts.stem)) != _bare(old):
        fields["target_true"] = true


RIPPLE = Shape(
    name="ripple",
    about="edit {prompt (a whole sentence), original_fact, relation, ...} and kinds of test queries (RippleEdits)",
    fits=lambda record: isinstance(record.get("edit"), Mapping) and "prompt" in record["edit"],
    read=_read,
    used=frozenset(("edit",)),
    kept=frozenset(("example_type", *KINDS)),
)
