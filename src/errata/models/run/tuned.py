"""Weights of the model while they are trained, as what they are when done: the model's own weights + an update."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from errata.core.updates import WeightUpdate, added
from errata.models.language_model import LanguageModel
from errata.models.run.backward import gradients
from errata.models.weights.projections import Place, projection, weights_restored, write_weight_


class Tuned:
    """Trained is the update of each matrix, in float32 whatever the model's dtype; its weight follows by `write_`.

    A float32 master copy of the weight would do the same, but a small update has more digits by itself, and what is
    trained is to the bit what the patch applies later.  originals: the model's own weights in the standard view.
    """

    def __init__(self, lm: LanguageModel, originals: Mapping[Place, Float[Tensor, "_ _"]]) -> None:
        self.lm, self.originals = lm, originals
        self.updates = {place: torch.zeros_like(weight, dtype=torch.float32) for place, weight in originals.items()}
        self._maps = [projection(lm, *place) for place in originals]
        self._by_module = {id(one.module): one.parameter for one in self._maps}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The model's parameters behind the matrices, a fused one once."""
        return list(self._by_module.values())

    def gradients(self, total: Float[Tensor, ""]) -> dict[Place, Float[Tensor, "_ _"]]:
        """∂total/∂weight of every matrix; NumericsError where one is not finite."""
        found, _ = gradients(self.lm, total, self.parameters)
        by_module = dict(zip(self._by_module, found, strict=True))
        return {one.place: one.view(by_module[id(one.module)]) for one in self._maps}

    def write_(self) -> None:
        """Set the model's weights to original + update, as a patch does."""
        for place, update in self.updates.items():
            write_weight_(self.lm, place, added(self.originals[place], WeightUpdate(dense=update)))

    def weight_updates(self) -> dict[Place, WeightUpdate]:
        """The updates as a patch keeps them."""
        return {place: WeightUpdate(dense=update.cpu().contiguous()) for place, update in self.updates.items()}


@contextmanager
def tuned(lm: LanguageModel, places: Sequence[Place]) -> Iterator[Tuned]:
    """Let gradients reach the weights at `places`, and no other parameter, for the length of a `with` block.

    At its end every weight has its exact bits and every parameter its `requires_grad` back, whatever happened.
    """
    asked = [(parameter, parameter.requires_grad) for parameter in lm.hf.parameters()]
    with weights_restored(lm, places) as originals:
        weights = Tuned(lm, originals)
        try:
            lm.hf.requires_grad_(False)
            for parameter in weights.parameters:
                parameter.requires_grad_(True)
            yield weights
        finally:
            for parameter, flag in asked:
                parameter.requires_grad_(flag)
