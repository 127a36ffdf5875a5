"""Perplexity on held-out text: what an edit does to everything else the model says."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from errata.errors import InputError
from errata.models import LanguageModel, pad_right, run_layers

_BATCH_TOKENS = 2048


@torch.no_grad()
def perplexity(lm: LanguageModel, rows: Sequence[Sequence[int]]) -> float:
    """exp of the mean NLL (nats) of every token of `rows` but each row's first; rows are token ids.

    Raises InputError where there is nothing to predict.
    """
    usable = sorted((tuple(row[: lm.max_tokens]) for row in rows if len(row) > 1), key=len)
    if not usable:
        raise InputError("Perplexity needs text of at least two tokens.")
    total, count = 0.0, 0
    batch: list[tuple[int, ...]] = []
    for row in usable:
        if batch and (len(batch) + 1) * len(row) > _BATCH_TOKENS:
            total += float(_nll(lm, batch))
            batch = []
        batch.append(row)
        count += len(row) - 1
    total += float(_nll(lm, batch))
    return float(torch.tensor(total / count, dtype=torch.float64).exp())


def _nll(lm: LanguageModel, batch: Sequence[tuple[int, ...]]) -> Float[Tensor, ""]:
    ids, mask = pad_right(batch, device=lm.device)
    hidden = run_layers(lm, ids, mask).hidden
    assert hidden is not None
    wanted = mask[:, 1:].bool()
    logits = lm.logits(hidden[:, :-1][wanted]).float()
    nll = torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted], reduction="none")
    return nll.double().sum()
