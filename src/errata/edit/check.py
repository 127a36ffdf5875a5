"""What can be wrong with facts for one particular model, found before any long work."""

from collections import defaultdict
from collections.abc import Sequence

import torch

from errata.core.words import counted
from errata.edit.values.prompt_rows import PromptRow, rewriting_rows
from errata.errors import InputError
from errata.facts import Fact, Problem
from errata.models import MERGED, LanguageModel, encode_targets, pad_right, run_layers, token_reason
from errata.models.run.packing import packs

# Tokens of a forward: more are no faster on a CPU.
_AT_ONCE = 2048
# Of five facts about a made-up firm SmolLM2 says four where the answers are names, and none where they are a number, a
# date, two addresses and a name.
_CROWD = 5


def check_facts(lm: LanguageModel, facts: Sequence[Fact], *, longest_prefix: int = 0) -> list[Problem]:
    """Errors and warnings about facts as this model and tokenizer see them.

    Errors: a prompt and target longer than the context (`longest_prefix` tokens kept free for context prefixes); a
    token that holds both subject and target; a special token in a target. Warnings: an answer that changes the prompt's
    last token; keys that collide token by token; subjects with many facts; a target that already is the model's greedy
    answer.
    """
    problems: list[Problem] = []
    rows: dict[int, PromptRow] = {}
    for i, fact in enumerate(facts):
        try:
            (row,) = rewriting_rows(lm, [fact], ("",))
        except InputError as error:
            problems.append(Problem("error", str(error), fact_id=fact.id))
            continue
        length = len(row.ids) + 1 + longest_prefix
        if length > lm.max_tokens:
            reason = f"prompt, target and context prefix are {length:,} tokens; {lm.name} reads {lm.max_tokens:,}"
            problems.append(Problem("error", reason, fact_id=fact.id))
            continue
        if reason := token_reason(lm, row.ids, row.targets):
            problems.append(Problem("error", reason, fact_id=fact.id))
            continue
        rows[i] = row
    problems += _merging(lm, [facts[i] for i in rows])
    return problems + _colliding(facts, rows) + _crowded([facts[i] for i in rows]) + _already_known(lm, facts, rows)


def _merging(lm: LanguageModel, facts: Sequence[Fact]) -> list[Problem]:
    rows = encode_targets(lm.tokenizer, [fact.wanted for fact in facts])
    return [
        Problem("warning", MERGED, fact_id=fact.id) for fact, (row, _) in zip(facts, rows, strict=True) if row.merged
    ]


def _colliding(facts: Sequence[Fact], rows: dict[int, PromptRow]) -> list[Problem]:
    by_key: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, row in rows.items():
        by_key[row.ids[: row.edited + 1]].append(i)
    problems = []
    for group in by_key.values():
        for i in group[1:]:
            reason = (
                f"has the same key as {facts[group[0]].text!r}: the tokens up to the subject are equal, and a key does "
                "not see what follows; the two are averaged"
            )
            problems.append(Problem("warning", reason, fact_id=facts[i].id))
    return problems


def _crowded(facts: Sequence[Fact]) -> list[Problem]:
    """One warning for all subjects with so many facts that what is written for one is read for the others."""
    by_subject: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_subject[fact.subject].append(fact)
    crowded = sorted((group for group in by_subject.values() if len(group) >= _CROWD), key=len, reverse=True)
    if not crowded:
        return []
    worst, rest = crowded[0], len(crowded) - 1
    others = f" (and {_CROWD} or more of {counted(rest, 'other subject')})" if rest else ""
    reason = (
        f"{len(worst)} facts are about {worst[0].subject!r}{others}: their keys lie close, so that what is written for "
        "one is read for the others too, and a small model may say few of them; edit them in smaller runs where the "
        "verdict says so"
    )
    return [Problem("warning", reason, fact_id=worst[0].id)]


def _already_known(lm: LanguageModel, facts: Sequence[Fact], rows: dict[int, PromptRow]) -> list[Problem]:
    already = [i for i, is_known in zip(rows, answered(lm, list(rows.values())), strict=True) if is_known]
    return [
        Problem(
            "warning",
            f"the model already answers {facts[i].target_new!r}; the edit only strengthens it",
            fact_id=facts[i].id,
        )
        for i in already
    ]


@torch.no_grad()
def answered(lm: LanguageModel, rows: Sequence[PromptRow]) -> list[bool]:
    """Of each row whether its targets are the model's first choices, one after another: what greedy decoding says."""
    says_targets = [False] * len(rows)
    for members in packs([len(row.ids) for row in rows], most_tokens=_AT_ONCE):
        chosen = [rows[i] for i in members]
        ids, mask = pad_right([row.ids for row in chosen], device=lm.embed_device)
        hidden = run_layers(lm, ids, mask).hidden
        assert hidden is not None
        reads = [(n, position) for n, row in enumerate(chosen) for position in row.read]
        places = torch.tensor(reads, device=lm.head_device).T
        best = iter(lm.logits(hidden[places[0], places[1]]).argmax(-1).tolist())
        for i, row in zip(members, chosen, strict=True):
            says_targets[i] = tuple(next(best) for _ in row.read) == row.targets
    return says_targets
