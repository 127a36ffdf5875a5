"""Which facts a model knows: its likeliest next token is the answer's first."""

from collections.abc import Sequence

import torch

from errata.models import LanguageModel, pad_right, run_layers
from errata.models.run.packing import batches_in_order
from errata.tracing.prompts import Traced


@torch.no_grad()
def own_answers(lm: LanguageModel, prompts: Sequence[Traced], *, batch_tokens: int) -> list[int]:
    """The model's own next token after each prompt, several of them run together."""
    lengths = [len(one.ids) for one in prompts]
    answers = [0] * len(prompts)
    for batch in batches_in_order(
        sorted(range(len(prompts)), key=lengths.__getitem__), lengths.__getitem__, batch_tokens
    ):
        ids, mask = pad_right([prompts[i].ids for i in batch], device=lm.embed_device)
        hidden = run_layers(lm, ids, mask).hidden
        assert hidden is not None
        logits = lm.logits(hidden[torch.arange(len(batch), device=hidden.device), mask.sum(1).to(hidden.device) - 1])
        for i, token in zip(batch, logits[:, : lm.num_tokens].argmax(1).tolist(), strict=True):
            answers[i] = token
    return answers
