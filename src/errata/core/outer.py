"""A weight gradient as what it is: a sum of outer products, one for each token position, never the dense matrix.

G = Σ_i x_iᵀδ_i = XᵀΔ (Katz et al. 2024, section 4): everything asked of G comes from X and Δ, in float64 where numbers
are summed or decomposed.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from errata.core.updates import WeightUpdate


@dataclass(frozen=True, eq=False)
class OuterSum:
    """G = XᵀΔ by its factors: a row of `inputs` (x_i) and a row of `vjps` (δ_i) for each position."""

    inputs: Float[Tensor, "pos d_in"]
    vjps: Float[Tensor, "pos d_out"]

    def dense(self) -> Float[Tensor, "d_in d_out"]:
        """G itself."""
        return self.inputs.T @ self.vjps

    def nonzero(self) -> "OuterSum":
        """The same without the positions where δ is zero."""
        used = self.vjps.any(dim=1)
        return OuterSum(self.inputs[used], self.vjps[used])

    def bias_gradient(self) -> Float[Tensor, " d_out"]:
        """Σ δ_i, the gradient of the bias that is added to x·W."""
        return self.vjps.double().sum(0).to(self.vjps.dtype)

    @cached_property
    def gram(self) -> Float64[Tensor, "pos pos"]:
        """⟨x_iᵀδ_i, x_jᵀδ_j⟩ = (x_i·x_j)(δ_i·δ_j); its sum is ‖G‖²."""
        return _products(self.inputs, self.inputs) * _products(self.vjps, self.vjps)

    @property
    def norm(self) -> float:
        """‖G‖ (Frobenius)."""
        return float(self.gram.sum().clamp_min(0).sqrt())

    def inner(self, other: "OuterSum") -> float:
        """⟨G, G'⟩ = Σ (XX'ᵀ ⊙ ΔΔ'ᵀ)."""
        return float((_products(self.inputs, other.inputs) * _products(self.vjps, other.vjps)).sum())

    def cosine(self, other: "OuterSum") -> float:
        """Cosine of the two gradients as vectors; NaN where one of them is zero."""
        norms = self.norm * other.norm
        return self.inner(other) / norms if norms else float("nan")

    def shares(self) -> Float64[Tensor, " pos"]:
        """Each position's share of ‖G‖², ⟨x_iᵀδ_i, G⟩/‖G‖²: they sum to 1; one that others cancel is negative."""
        rows = self.gram.sum(1)
        total = rows.sum()
        return rows / total if float(total) > 0 else torch.zeros_like(rows)

    @cached_property
    def singular_values(self) -> Float64[Tensor, " rank"]:
        """Singular values of G, descending, without forming it: SVD of the core of two thin QR decompositions.

        Not eigenvalues of a Gram matrix: those square the conditioning and lose half of the digits.
        """
        core = _triangle(self.inputs) @ _triangle(self.vjps).T
        return torch.linalg.svdvals(core)

    def tolerance(self) -> float:
        """Below this a singular value is rounding: σ₁ · max(d_in, d_out) · ε of the factors as they are held.

        A model in half precision gives factors held in float32: what its own rounding adds counts as rank.
        """
        largest = float(self.singular_values.amax()) if self.singular_values.numel() else 0.0
        width = max(self.inputs.shape[1], self.vjps.shape[1])
        return largest * width * torch.finfo(self.vjps.dtype).eps

    def rank(self, tolerance: float | None = None) -> int:
        """How many singular values exceed `tolerance` (absolute; default: `tolerance()`)."""
        limit = self.tolerance() if tolerance is None else tolerance
        return int((self.singular_values > limit).sum())

    def stable_rank(self) -> float:
        """‖G‖²/σ₁², at most the rank; 0 for a zero gradient."""
        squares = self.singular_values.square()
        largest = float(squares.amax()) if squares.numel() else 0.0
        return float(squares.sum()) / largest if largest else 0.0

    def neuron_norms(self, *, by_input: bool) -> Float[Tensor, " neuron"]:
        """Norms of G's rows (`by_input`: one for each input feature) or of its columns."""
        own, other = (self.inputs, self.vjps) if by_input else (self.vjps, self.inputs)
        gram = _products(other, other)
        own = own.double()
        return ((gram @ own) * own).sum(0).clamp_min(0).sqrt().float()


@dataclass(eq=False)
class GradientSum:
    """A gradient that grows by more positions: its factors while they are smaller than the matrix, then the matrix.

    G is held in float64 once it is dense, so that a sum of thousands of facts loses nothing.
    in_one_product: parts wait until they outgrow the matrix and are multiplied together; else each is multiplied by
    itself. The two differ in their last bits, and each edit keeps those it always had.
    """

    parts: list[OuterSum] = field(default_factory=list)
    matrix: Float64[Tensor, "d_in d_out"] | None = None
    in_one_product: bool = False

    def add_(self, part: OuterSum) -> None:
        """G += XᵀΔ."""
        self.parts.append(part)
        d_in, d_out = part.inputs.shape[1], part.vjps.shape[1]
        rank = sum(len(one.vjps) for one in self.parts)
        outgrown = rank * (d_in + d_out) > d_in * d_out
        if outgrown or (self.matrix is not None and not self.in_one_product):
            self.matrix, self.parts = self.dense(), []

    def dense(self) -> Float64[Tensor, "d_in d_out"]:
        """G itself."""
        if not self.parts:
            assert self.matrix is not None, "a sum of no gradient"
            return self.matrix
        total = self._product(self._joined()) if self.in_one_product else sum(map(self._product, self.parts), start=0.0)
        assert isinstance(total, Tensor)
        return total if self.matrix is None else self.matrix + total

    def factors(self) -> OuterSum | None:
        """X and Δ of all positions; None where G is dense."""
        return self._joined() if self.matrix is None else None

    def update(self, factor: float) -> WeightUpdate:
        """factor · G, as an update of the weight."""
        if (held := self.factors()) is not None:
            return WeightUpdate.from_factors(held.inputs, factor * held.vjps)
        return WeightUpdate(dense=(factor * self.dense()).float())

    def _product(self, part: OuterSum) -> Float64[Tensor, "d_in d_out"]:
        return part.inputs.double().T @ part.vjps.double()

    def _joined(self) -> OuterSum:
        return OuterSum(torch.cat([one.inputs for one in self.parts]), torch.cat([one.vjps for one in self.parts]))


def _products(a: Tensor, b: Tensor) -> Float64[Tensor, "rows others"]:
    return a.double() @ b.double().T


def _triangle(factor: Float[Tensor, "pos d"]) -> Float64[Tensor, "rows pos"]:
    """R of the QR decomposition of the transposed factor: its rows are min(d, pos)."""
    return torch.linalg.qr(factor.double().T, mode="r").R
