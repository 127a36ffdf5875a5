"""Steps of gradient descent: one of SGD by a gradient's factors, one of Adam, and Adam over many.

W ← W − lr·G of a gradient G = XᵀΔ keeps its rank; Adam's first step, W ← W − lr·G/(|G| + ε), does not.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.core.outer import OuterSum
from errata.core.updates import WeightUpdate

# Adam's published defaults (Kingma & Ba 2015), which torch and every code of a baseline here keep.
ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8


def sgd_step(gradient: OuterSum, lr: float) -> WeightUpdate:
    """−lr·XᵀΔ by its factors; positions where δ is zero are left out."""
    used = gradient.nonzero()
    return WeightUpdate.from_factors(used.inputs, -lr * used.vjps)


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
        mean_left, square_left = (1 - beta**self.steps for beta in ADAM_BETAS)
        for value, mean, square, gradient in zip(self.values, self.means, self.squares, gradients, strict=True):
            _observe_(mean, square, gradient, ADAM_BETAS)
            denominator = (square / square_left).sqrt_().add_(ADAM_EPSILON)
            value.addcdiv_(mean, denominator, value=-self.lr / mean_left)


class RowAdam:
    """Adam on the rows of one tensor, each with a unit of its own; rows that are done take no more steps.

    Its denominator is √square/√correction, as torch's is, where `Adam` takes √(square/correction): equal but for the
    last bits, and what was optimised with either is kept in caches.
    """

    def __init__(self, value: Float[Tensor, "row ..."], betas: tuple[float, float] = ADAM_BETAS) -> None:
        self.value, self.betas, self.steps = value, betas, 0
        self.mean, self.square = torch.zeros_like(value), torch.zeros_like(value)

    def step_(
        self,
        gradient: Float[Tensor, "active ..."],
        active: Int[Tensor, " active"],
        *,
        lr: float,
        unit: Float[Tensor, "active ..."],
    ) -> None:
        """One step of the active rows down their gradient, `lr` units in size."""
        self.steps += 1
        mean, square = self.mean[active], self.square[active]
        _observe_(mean, square, gradient, self.betas)
        self.mean[active], self.square[active] = mean, square
        mean_left, square_left = (1 - beta**self.steps for beta in self.betas)
        denominator = (square.sqrt() / square_left**0.5).add_(ADAM_EPSILON)
        self.value[active] -= lr / mean_left * (mean / denominator) * unit


def _observe_(mean: Tensor, square: Tensor, gradient: Tensor, betas: tuple[float, float]) -> None:
    """Let both moments take the gradient in."""
    beta1, beta2 = betas
    mean.mul_(beta1).add_(gradient, alpha=1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
