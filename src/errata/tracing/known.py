"""Which facts a model knows: its likeliest next token is the answer's first."""

from collections.abc import Sequence

import torch

from errata.models import LanguageModel, pad_right, run_layers
from errata.tracing.prompts import Traced


@torch.no_grad()
def own_answers(lm: LanguageModel, prompts: Sequence[Traced], *, batch_tokens: int) -> list[int]:
    """The model's own next token after each prompt, several of them run together."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    found = [0] * len(prompts)
    while order:
        # Sorted by length, so that the longest of a batch is its last.
        count = 1
        while count < len(order) and (count + 1) * len(prompts[order[count]].ids) <= batch_tokens:
            count += 1
        batch, order = order[:count], order[count:]
        ids, mask = pad_right([prompts[i].ids for i in batch], device=lm.device)
        hidden = run_layers(lm, ids, mask).hidden
        assert hidden is not None
        logits = lm.logits(hidden[torch.arange(len(batch), device=lm.device), mask.sum(1) - 1])
        for i, token in zip(batch, logits[:, : lm.num_tokens].argmax(1).tolist(), strict=True):
            found[i] = token
    return found
