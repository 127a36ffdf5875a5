"""The facts' targets as a loss: which tokens the model reads, and the NLL of the target's tokens behind them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from errata.edit.values.prompt_rows import PromptRow, rewriting_rows
from errata.facts import Fact
from errata.models import LanguageModel, widened

# "first": the target's first token.  "target": all of them, each after the ones before it (teacher forcing).
# "prompt_last": all of them at the prompt's last position, where only the first one belongs.
Scoring = Literal["first", "target", "prompt_last"]


def scored_rows(lm: LanguageModel, facts: Sequence[Fact], scoring: Scoring) -> list[PromptRow]:
    """The bare prompt of every fact, followed by as much of its target as the scoring reads behind."""
    return [_scored(row, scoring) for row in rewriting_rows(lm, facts, ("",))]


def _scored(row: PromptRow, scoring: Scoring) -> PromptRow:
    if scoring == "target":
        return row
    last = row.read[0]
    targets = row.targets[:1] if scoring == "first" else row.targets
    return replace(row, ids=row.ids[: last + 1], read=(last,) * len(targets), targets=targets)


def summed_nll(
    lm: LanguageModel, hidden: Float[Tensor, "row pos d_head"], rows: Sequence[PromptRow]
) -> Float[Tensor, " row"]:
    """Σ over its target tokens of each row's NLL (nats), from the backbone's output; logits only where one is read."""
    reads = [(i, at, target) for i, row in enumerate(rows) for at, target in zip(row.read, row.targets, strict=True)]
    which, at, targets = torch.tensor(reads, device=hidden.device).T
    nll = torch.nn.functional.cross_entropy(widened(lm.logits(hidden[which, at])), targets, reduction="none")
    return nll.new_zeros(len(rows)).index_add(0, which, nll)
