"""Second moments the slow way: one document at a time, whole forwards, every product in float64."""

from collections.abc import Sequence

import torch
from torch import Tensor

from errata.models import LanguageModel


def second_moments(
    lm: LanguageModel, layers: Sequence[int], documents: Sequence[Sequence[int]], tokens: int
) -> dict[int, Tensor]:
    """Mean of k kᵀ over the first `tokens` tokens of documents given as ids."""
    sums = {layer: torch.zeros(lm.d_mlp, lm.d_mlp, dtype=torch.float64) for layer in layers}
    left = tokens
    for ids in documents:
        if not left:
            break
        keys = down_inputs(lm, layers, ids)
        count = min(left, len(ids))
        for layer in layers:
            rows = keys[layer][:count].double()
            sums[layer] += rows.T @ rows
        left -= count
    return {layer: total / (tokens - left) for layer, total in sums.items()}


@torch.no_grad()
def down_inputs(lm: LanguageModel, layers: Sequence[int], ids: Sequence[int]) -> dict[int, Tensor]:
    """What enters the down projections of `layers` in a forward of the unmodified transformers model."""
    seen: dict[int, Tensor] = {}

    def keep(layer: int):
        def hook(_module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen[layer] = arguments[0].reshape(len(ids), -1)

        return hook

    hooks = [lm.down(layer).register_forward_pre_hook(keep(layer)) for layer in layers]
    try:
        lm.hf(torch.tensor([list(ids)], device=lm.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
