"""What a shape makes of a record before it is judged, and the small readings that shapes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from errata.facts.checks import REQUIRED
from errata.facts.names import missing_reason

# EasyEdit's own stand-in for a true answer that a record does not give.
_NO_ANSWER = "<|endoftext|>"


@dataclass(slots=True)
class Draft:
    """One fact under our names, why it cannot be used, and what of its record has no home in a fact."""

    fields: dict[str, Any]
    reasons: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One shape of records: `fits` says whether a record has it, `read` gives the facts of one.

    used: names that go into the fact.  kept: names that belong to the shape and go to metadata; any other name is
    unknown to it.  note: what is said once of a file of this shape.
    """

    name: str
    about: str
    fits: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], int], list[Draft]]
    used: frozenset[str]
    kept: frozenset[str] = frozenset()
    note: str = ""

    @property
    def names(self) -> frozenset[str]:
        return self.used | self.kept


def is_empty(value: object) -> bool:
    """Whether an optional field says nothing: null, empty text, list or object."""
    return value is None or (isinstance(value, (str, list, tuple, Mapping)) and not value)


def pick(record: Mapping[str, Any], names: Mapping[str, str]) -> Draft:
    """The fields under our names, empty ones being absent where they may be, and the required ones that are missing."""
    present = {theirs: ours for theirs, ours in names.items() if theirs in record}
    fields = {
        ours: record[theirs]
        for theirs, ours in present.items()
        if ours in REQUIRED or (record[theirs] is not None and record[theirs] != "")
    }
    missing = [theirs for theirs, ours in names.items() if ours in REQUIRED and theirs not in record]
    return Draft(fields, [missing_reason(name, record) for name in missing])


def answer_text(value: object) -> object:
    """The text of an answer given as {"str": ...} or {"value": ...}; anything else as it is."""
    return value.get("str", value.get("value", value)) if isinstance(value, Mapping) else value


def add_answer(draft: Draft, name: str, given: object) -> None:
    """Put an answer under a name of ours; what an answer object says beside the text, its id for one, is metadata."""
    draft.fields[name] = answer_text(given)
    if isinstance(given, Mapping):
        rest = {f"{name}_{more}": value for more, value in given.items() if more not in ("str", "value")}
        draft.metadata |= {more: value for more, value in rest.items() if not is_empty(value)}


def first_answer(value: object) -> object:
    """The first answer of text, an answer object, or lists of them at any depth; None where none is given."""
    if isinstance(value, (list, tuple)):
        return next((answer for one in value if (answer := first_answer(one)) is not None), None)
    answer = answer_text(value)
    return None if is_empty(answer) or answer == _NO_ANSWER else answer


def says_more(value: object) -> bool:
    """Whether a field of answers says more than its first one."""
    return isinstance(value, (list, tuple)) and (len(value) > 1 or any(says_more(one) for one in value))


def unsaid(value: object, said: Sequence[object]) -> bool:
    """Whether answers hold one that was not said elsewhere, so that they must be kept whole."""
    if isinstance(value, (list, tuple)):
        return any(unsaid(one, said) for one in value)
    return not is_empty(value) and answer_text(value) not in said


def texts(value: object) -> list[Any]:
    """The items of a list, or the one text; empty ones are absent."""
    items = value if isinstance(value, (list, tuple)) else [value]
    return [one for one in items if not is_empty(one)]


def asked(value: object) -> Iterator[dict[str, Any]]:
    """Every prompt with an answer in nested kinds of questions, as neighbours; those without an answer are left out.

    EasyEdit's {kind: {"prompt": text or list, "ground_truth": the same}} and KnowEdit's {kind: [{...}, ...]}.
    """
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from asked(one)
    elif isinstance(value, Mapping) and "prompt" not in value:
        for one in value.values():
            yield from asked(one)
    elif isinstance(value, Mapping):
        for prompt, answer in paired(value["prompt"], value.get("ground_truth")):
            if answer is not None:
                yield {"prompt": prompt, "answer": answer}


def paired(prompts: object, answers: object) -> Iterator[tuple[Any, Any]]:
    """Each prompt with its first answer: one prompt with any, or lists of the same length."""
    if not isinstance(prompts, (list, tuple)):
        prompts, answers = [prompts], [answers]
    listed = answers if isinstance(answers, (list, tuple)) and len(answers) == len(prompts) else [None] * len(prompts)
    for prompt, answer in zip(prompts, listed, strict=True):
        if not is_empty(prompt):
            yield prompt, first_answer(answer)
