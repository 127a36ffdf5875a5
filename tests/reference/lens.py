"""The direct way to a Backward Lens: every weight asks for its gradient, one prompt at a time, one vector at a time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from errata.models import LanguageModel, Place, projection


def dense_gradients(
    lm: LanguageModel, ids: list[int], loss: Callable[[Tensor], Tensor], places: list[Place]
) -> tuple[float, dict[Place, Tensor], dict[Place, Tensor | None]]:
    """The loss, and the gradients of the weights (as d_in × d_out) and biases at `places`, by plain backpropagation.

    `loss` sees the logits of the whole prompt, [pos, vocab].
    """
    parameters = [p for place in places for p in projection(lm, *place).module.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
        parameter.grad = None
    try:
        with torch.enable_grad():
            logits = lm.hf(input_ids=torch.tensor([ids], device=lm.device), use_cache=False).logits[0]
            value = loss(logits)
            value.backward()
        weights, biases = {}, {}
        for place in places:
            one = projection(lm, *place)
            stored: Any = one.module.weight.grad  # type: ignore[union-attr]
            weight = (stored if one.in_first else stored.T).clone()
            bias = getattr(one.module, "bias", None)
            columns = slice(None) if one.columns is None else one.columns
            weights[place] = weight[:, columns]
            biases[place] = None if bias is None else bias.grad.clone()[columns]
        return float(value.detach()), weights, biases
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


def read(lm: LanguageModel, vector: Tensor) -> Tensor:
    """LL(v): the logits of one vector through the model's own final norm and head, as in the paper."""
    norm = lm.backbone.get_submodule(lm.family.ln_final)
    with torch.no_grad():
        return lm.logits(norm(vector[None].to(lm.dtype)))[0].float()


def rank(logits: Tensor, token: int) -> int:
    """0-based place of a token: how many are likelier."""
    return sum(1 for value in logits.tolist() if value > float(logits[token]))
