"""The prompts behind one edit as token rows: each context with the target, and the essence row of the KL term."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.errors import InputError
from errata.facts import Fact
from errata.models import LanguageModel, encode, encode_targets, shared_length

ESSENCE = "{} is a"


@dataclass(frozen=True)
class PromptRow:
    """One prompt of one fact. `ids` is what the model reads; position `edited` is the subject's last token.

    `read` are the positions whose next-token logits predict `targets`. The essence row has no targets; it ends at the
    subject's last token, because nothing after it can reach that position's logits.
    """

    fact: int
    context: int
    ids: tuple[int, ...]
    edited: int
    read: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()


def states_at(states: Float[Tensor, "row pos d"], positions: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:
    """Each row's state at its position, on the states' device."""
    rows = torch.arange(len(states), device=states.device)
    return states[rows, positions.to(states.device)]


def rewriting_rows(lm: LanguageModel, facts: Sequence[Fact], prefixes: Sequence[str]) -> list[PromptRow]:
    """For every fact, prompt + new target after each prefix; context 0 must be the empty prefix (the bare prompt).

    Raises InputError where one token holds the end of a subject and the start of the target.
    """
    assert prefixes[0] == "", "context 0 is the bare prompt"
    assert not any(fact.chat for fact in facts), "a fact that is a chat is put through the template first (in_chat)"
    places = [(i, c) for i in range(len(facts)) for c in range(len(prefixes))]
    pairs = [facts[i].asked(facts[i].after(prefixes[c]), facts[i].target_new) for i, c in places]
    rows = []
    for (i, c), (target, encoding) in zip(places, encode_targets(lm.tokenizer, pairs), strict=True):
        start, end = (len(prefixes[c]) + at for at in facts[i].subject_span)
        edited = encoding.tokens_over(start, end)[1]
        if edited >= target.start:
            raise InputError(
                f"Fact {facts[i].id!r}: one token holds the end of the subject and the start of the target; "
                "put a word or a space between them."
            )
        read = range(target.start - 1, len(target.ids) - 1)
        rows.append(PromptRow(i, c, target.ids[:-1], edited, tuple(read), target.target_ids))
    return rows


def essence_rows(lm: LanguageModel, facts: Sequence[Fact], context: int) -> list[PromptRow]:
    """ "{subject} is a" for every fact, cut after the subject's last token; filed under context number `context`."""
    encodings = encode(lm.tokenizer, [ESSENCE.replace("{}", fact.subject) for fact in facts])
    rows = []
    for i, (fact, encoding) in enumerate(zip(facts, encodings, strict=True)):
        edited = encoding.tokens_over(0, len(fact.subject))[1]
        rows.append(PromptRow(i, context, encoding.ids[: edited + 1], edited))
    return rows


def key_rows(lm: LanguageModel, facts: Sequence[Fact], prefixes: Sequence[str]) -> list[PromptRow]:
    """For every fact and prefix, the tokens up to the subject's last one: all that a key depends on."""
    rows = rewriting_rows(lm, facts, prefixes)
    return [PromptRow(row.fact, row.context, row.ids[: row.edited + 1], row.edited) for row in rows]


def shared_lengths(rows: Sequence[PromptRow]) -> dict[int, int]:
    """For each context, how many leading tokens all its rows share before their edited tokens."""
    prefixes: dict[int, tuple[int, ...]] = {}
    for row in rows:
        before = row.ids[: row.edited]
        prefix = prefixes.get(row.context, before)
        prefixes[row.context] = prefix[: shared_length(prefix, before)]
    return {context: len(ids) for context, ids in prefixes.items()}
