"""Perplexity on held-out text: what an edit does to everything else the model says."""

from collections.abc import Sequence

import torch

from errata.evaluate.text_states import blocks, hidden_states, log_probs, next_tokens, usable_rows
from errata.models import LanguageModel


@torch.no_grad()
def perplexity(lm: LanguageModel, rows: Sequence[Sequence[int]]) -> float:
    """exp of the mean NLL (nats) of every token of `rows` but each row's first; rows are token ids.

    The same number as Drift's, but no error where it is infinite or no number. Raises InputError where there is nothing
    to predict.
    """
    total, count = 0.0, 0
    for batch, hidden in hidden_states(lm, usable_rows(lm, rows, what="Perplexity")):
        targets = next_tokens(batch).to(lm.head_device)[:, None]
        for cut in blocks(lm, len(targets)):
            total -= float(log_probs(lm, hidden[cut]).gather(1, targets[cut]).sum())
        count += len(targets)
    return float(torch.tensor(total / count, dtype=torch.float64).exp())
