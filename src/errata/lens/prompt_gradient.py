"""The gradient of one prompt in numbers: factors of every matrix, and the norms, ranks and cosines they have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from errata.core.outer import OuterSum
from errata.errors import InputError
from errata.lens.losses import Example
from errata.models import LanguageModel, Place, matrices, projection


@dataclass(frozen=True, eq=False, repr=False)
class PromptGradient:
    """One prompt's gradient. Layers and positions are 0-based; positions count the prompt's own tokens.

    factors: inputs and VJPs of every matrix.
    """

    lm: LanguageModel
    example: Example
    factors: Mapping[Place, OuterSum]

    @property
    def num_layers(self) -> int:
        return self.lm.num_layers

    @property
    def matrices(self) -> tuple[str, ...]:
        """The matrices that were tapped."""
        return tuple(name for name in matrices(self.lm.family) if Place(0, name) in self.factors)

    def of(self, layer: int, matrix: str) -> OuterSum:
        """The factors of one matrix; InputError where it was not tapped or does not exist."""
        if Place(layer, matrix) not in self.factors:
            projection(self.lm, layer, matrix)  # a clearer error where there is no such matrix at all
            raise InputError(
                f"{matrix!r} was not tapped; ask for it: backward_lens(..., matrices={[*self.matrices, matrix]})."
            )
        return self.factors[Place(layer, matrix)]

    def gradient(self, layer: int, matrix: str) -> Float[Tensor, "d_in d_out"]:
        """The dense weight gradient XᵀΔ, as d_in × d_out."""
        return self.of(layer, matrix).dense()

    def bias_gradient(self, layer: int, matrix: str) -> Float[Tensor, " d_out"]:
        """The gradient of the bias, Σ δ_i (whether the model has that bias or not)."""
        return self.of(layer, matrix).bias_gradient()

    def rank(self, layer: int, matrix: str, tolerance: float | None = None) -> int:
        """Rank of the gradient: at most the number of positions whose δ is not zero (Lemma 4.1)."""
        return self.of(layer, matrix).rank(tolerance)

    def singular_values(self, layer: int, matrix: str) -> Float64[Tensor, " rank"]:
        """Singular values of the gradient, descending, in float64, from the factors."""
        return self.of(layer, matrix).singular_values

    def stable_rank(self, layer: int, matrix: str) -> float:
        """‖G‖²/σ₁²."""
        return self.of(layer, matrix).stable_rank()

    def norms(self, matrix: str, of: str = "vjp") -> Float[Tensor, "layer pos"]:
        """‖δ_i‖ (`of="vjp"`) or ‖x_i‖ (`of="input"`) at every layer and position."""
        return self.vectors(matrix, of).norm(dim=2).cpu()

    def gradient_norms(self, matrix: str) -> Float64[Tensor, " layer"]:
        """‖G‖ of every layer."""
        return torch.tensor([one.norm for one in self._by_layer(matrix)], dtype=torch.float64)

    def share(self, matrix: str) -> Float[Tensor, "layer pos"]:
        """Each position's share of ‖G‖² at every layer; a layer's shares sum to 1, one against the rest is negative."""
        return torch.stack([one.shares().float().cpu() for one in self._by_layer(matrix)])

    def cosine(
        self, matrix: str = "down", *, of: str = "vjp", position: int | None = -1
    ) -> Float64[Tensor, "layer layer"]:
        """Cosine between layers: of δ or x at `position` (None: mean over positions), or of the whole gradients.

        NaN where a vector is zero.
        """
        if of == "gradient":
            own = self._by_layer(matrix)
            return torch.tensor([[a.cosine(b) for b in own] for a in own], dtype=torch.float64)
        vectors = self.vectors(matrix, of).double()
        if position is not None:
            vectors = vectors[:, self._position(position)][:, None]
        unit = vectors / vectors.norm(dim=2, keepdim=True)
        return torch.einsum("apd,bpd->pab", unit, unit).nanmean(0).cpu()

    def vectors(self, matrix: str, of: str) -> Float[Tensor, "layer pos d"]:
        """δ (`of="vjp"`) or x (`of="input"`) of one matrix at every layer and position; InputError for another `of`."""
        if of not in ("vjp", "input"):
            raise InputError(f"of={of!r}: choose 'vjp' or 'input'.")
        return torch.stack([one.vjps if of == "vjp" else one.inputs for one in self._by_layer(matrix)])

    def _by_layer(self, matrix: str) -> list[OuterSum]:
        return [self.of(layer, matrix) for layer in range(self.num_layers)]

    def chosen_layers(self, layers: Sequence[int] | None) -> Sequence[int]:
        """These layers, or all; InputError for one that the model does not have."""
        chosen = range(self.num_layers) if layers is None else layers
        for layer in chosen:
            if not 0 <= layer < self.num_layers:
                raise InputError(
                    f"layer {layer}: {self.lm.name} has {self.num_layers} layers, 0–{self.num_layers - 1}."
                )
        return chosen

    def _position(self, position: int) -> int:
        n = len(self.example.ids)
        if not -n <= position < n:
            raise InputError(f"position {position}: the prompt has {n} tokens, 0–{n - 1}.")
        return position % n
