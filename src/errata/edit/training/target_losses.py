"""The facts' targets as a loss: which tokens the model reads, and the NLL of the target's tokens behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from errata.edit.values.prompt_rows import rewriting_rows
from errata.facts import Fact
from errata.models import LanguageModel, widened

# "first": the target's first token.  "target": all of them, each after the ones before it (teacher forcing).
# "prompt_last": all of them at the prompt's last position, where only the first one belongs.
Scoring = Literal["first", "target", "prompt_last"]


@dataclass(frozen=True)
class ScoredRow:
    """One fact: the model reads `ids`, and its next-token logits at positions `read` are scored by `targets`."""

    ids: tuple[int, ...]
    read: tuple[int, ...]
    targets: tuple[int, ...]


def scored_rows(lm: LanguageModel, facts: Sequence[Fact], scoring: Scoring) -> list[ScoredRow]:
    """The bare prompt of every fact, followed by as much of its target as the scoring reads behind."""
    found = []
    for row in rewriting_rows(lm, facts, ("",)):
        last = row.read[0]
        if scoring == "target":
            found.append(ScoredRow(row.ids, row.read, row.targets))
        elif scoring == "first":
            found.append(ScoredRow(row.ids[: last + 1], (last,), row.targets[:1]))
        else:
            found.append(ScoredRow(row.ids[: last + 1], (last,) * len(row.targets), row.targets))
    return found


def summed_nll(
    lm: LanguageModel, hidden: Float[Tensor, "row pos d_head"], rows: Sequence[ScoredRow]
) -> Float[Tensor, " row"]:
    """Σ over its target tokens of each row's NLL (nats), from the backbone's output; logits only where one is read."""
    reads = [(i, at, target) for i, row in enumerate(rows) for at, target in zip(row.read, row.targets, strict=True)]
    which, at, targets = torch.tensor(reads, device=hidden.device).T
    nll = torch.nn.functional.cross_entropy(widened(lm.logits(hidden[which, at])), targets, reduction="none")
    return nll.new_zeros(len(rows)).index_add(0, which, nll)
