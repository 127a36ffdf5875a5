"""A weight update kept as factors while they are smaller than the matrix."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class WeightUpdate:
    """ΔW (d_in × d_out) = leftᵀ · right, a rank or more for each fact; or `dense` where factors would be larger.

    Stored in float32: these numbers are the edit, and every application of them adds the same bits.
    """

    left: Float[Tensor, "rank d_in"] | None = None
    right: Float[Tensor, "rank d_out"] | None = None
    dense: Float[Tensor, "d_in d_out"] | None = None

    @classmethod
    def from_factors(cls, left: Float[Tensor, "rank d_in"], right: Float[Tensor, "rank d_out"]) -> "WeightUpdate":
        """Keep the factors, or their product once rank > d_in·d_out/(d_in + d_out)."""
        d_in, d_out = left.shape[1], right.shape[1]
        if left.shape[0] * (d_in + d_out) > d_in * d_out:
            return cls(dense=(left.double().T @ right.double()).float())
        return cls(left=left.float(), right=right.float())

    def matrix(self, device: torch.device | str = "cpu") -> Float[Tensor, "d_in d_out"]:
        """ΔW in float32 on `device`."""
        if self.dense is not None:
            return self.dense.to(device)
        assert self.left is not None
        assert self.right is not None
        return self.left.to(device).T @ self.right.to(device)

    def scaled(self, factor: float) -> "WeightUpdate":
        """factor · ΔW."""
        if self.dense is not None:
            return WeightUpdate(dense=factor * self.dense)
        assert self.right is not None
        return WeightUpdate(left=self.left, right=factor * self.right)

    def plus(self, other: "WeightUpdate") -> "WeightUpdate":
        """The sum of both: factors side by side while they are smaller than the matrix."""
        if self.left is not None and other.left is not None:
            assert self.right is not None
            assert other.right is not None
            return WeightUpdate.from_factors(torch.cat([self.left, other.left]), torch.cat([self.right, other.right]))
        return WeightUpdate(dense=self.matrix() + other.matrix())

    def is_finite(self) -> bool:
        """Whether every number in it is finite."""
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors().values())

    def cpu(self) -> "WeightUpdate":
        """The same update in main memory, where patches keep it."""
        return WeightUpdate(**{name: tensor.cpu() for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that make it up, by name."""
        named = {"left": self.left, "right": self.right, "dense": self.dense}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


@torch.no_grad()
def added(weight: Float[Tensor, "d_in d_out"], update: WeightUpdate) -> Float[Tensor, "d_in d_out"]:
    """weight + ΔW: added in float32 (float64 where the weight has it) and rounded once to the weight's dtype."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return (weight.to(wide) + update.matrix(weight.device)).to(weight.dtype)


@torch.no_grad()
def add_(weight: Float[Tensor, "d_in d_out"], update: WeightUpdate) -> None:
    """weight += ΔW in place, as `added` adds."""
    weight.copy_(added(weight, update))
