"""Steps of gradient descent on a weight: one of SGD by its factors, one of Adam, and Adam over many.

W ← W − lr·G of a gradient G = XᵀΔ keeps its rank; Adam's first step, W ← W − lr·G/(|G| + ε), does not.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from errata.core.outer import OuterSum
from errata.core.updates import WeightUpdate

# Adam's published defaults (Kingma & Ba 2015), which torch and every code of a baseline here keep.
ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8


def sgd_step(gradient: OuterSum, lr: float) -> WeightUpdate:
    """−lr·XᵀΔ by its factors; positions where δ is zero are left out."""
    used = gradient.vjps.any(dim=1)
    return WeightUpdate.from_factors(gradient.inputs[used], -lr * gradient.vjps[used])


def adam_first_step(gradient: Float[Tensor, "d_in d_out"], lr: float) -> WeightUpdate:
    """−lr·G/(|G| + ε): Adam's first step, where the corrections of both moments' bias take them to G and G²."""
    return WeightUpdate(dense=(-lr * gradient / (gradient.abs() + ADAM_EPSILON)).float())


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1) on tensors of any shape, in place and in their dtype."""

    def __init__(self, values: Sequence[Float[Tensor, "..."]], lr: float) -> None:
        self.values, self.lr, self.steps = values, lr, 0
        self.means = [torch.zeros_like(value) for value in values]
        self.squares = [torch.zeros_like(value) for value in values]

    @torch.no_grad()
    def step_(self, gradients: Sequence[Float[Tensor, "..."]]) -> None:
        """One step of every tensor down its gradient."""
        self.steps += 1
        beta1, beta2 = ADAM_BETAS
        mean_left, square_left = 1 - beta1**self.steps, 1 - beta2**self.steps
        for value, mean, square, gradient in zip(self.values, self.means, self.squares, gradients, strict=True):
            mean.mul_(beta1).add_(gradient, alpha=1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            denominator = (square / square_left).sqrt_().add_(ADAM_EPSILON)
            value.addcdiv_(mean, denominator, value=-self.lr / mean_left)
