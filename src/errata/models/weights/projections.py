"""The linear maps of a block in one standard view, z = x·W + b with W as d_in × d_out, fused ones taken apart.

Names: `gate`, `up`, `down` of the MLP (`gate` only where it is gated) and `q`, `k`, `v`, `o` of attention.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from errata.core.updates import WeightUpdate, added
from errata.errors import InputError
from errata.models.families.rows import Family
from errata.models.language_model import LanguageModel

MLP_MATRICES = ("gate", "up", "down")
ATTENTION_MATRICES = ("q", "k", "v", "o")
# What a block's MLP or attention adds to the residual stream leaves through these; the others read the stream.
WRITING = frozenset({"down", "o"})


class Place(NamedTuple):
    """One matrix of one layer: Place(7, "down")."""

    layer: int
    matrix: str

    def __str__(self) -> str:
        return f"{self.matrix} of layer {self.layer}"


@dataclass(frozen=True)
class Projection:
    """One linear map. `columns` are its outputs among those of `module`; None where they are all of them."""

    place: Place
    module: nn.Module
    in_first: bool
    columns: slice | Tensor | None

    @property
    def weight(self) -> Float[Tensor, "d_in d_out"]:
        """The weight, sharing storage with the model's parameter; a copy where a head's columns lie apart."""
        return self.view(self.parameter.detach())

    @property
    def parameter(self) -> nn.Parameter:
        """The module's own weight, as it is stored, with the other maps of a fused one."""
        return self.module.weight  # type: ignore[union-attr, return-value]

    def view(self, stored: Float[Tensor, "_ _"]) -> Float[Tensor, "d_in d_out"]:
        """This map's part of a tensor that is stored as the module's weight is (the weight, or its gradient)."""
        whole = stored if self.in_first else stored.T
        return whole if self.columns is None else whole[:, self.columns]

    @torch.no_grad()
    def write_(self, weight: Float[Tensor, "d_in d_out"]) -> None:
        """Put `weight` in the place of this map's own, rounded to the model's dtype; the rest of a fused one stays."""
        stored = self.parameter.detach()
        whole = stored if self.in_first else stored.T
        whole[:, slice(None) if self.columns is None else self.columns] = weight.to(whole)

    @property
    def bias(self) -> Float[Tensor, " d_out"] | None:
        """The bias, or None."""
        bias = getattr(self.module, "bias", None)
        return bias if bias is None or self.columns is None else bias[self.columns]

    def part(self, outputs: Float[Tensor, "*rows d_module"]) -> Float[Tensor, "*rows d_out"]:
        """This map's part of what its module gave."""
        return outputs if self.columns is None else outputs[..., self.columns]


def mlp_matrices(family: Family) -> tuple[str, ...]:
    """The matrices of this family's MLPs, in the order they are used."""
    return MLP_MATRICES if family.gate or family.gate_up else MLP_MATRICES[1:]


def matrices(family: Family) -> tuple[str, ...]:
    """All matrices of this family's blocks."""
    return mlp_matrices(family) + ATTENTION_MATRICES


def projection(lm: LanguageModel, layer: int, matrix: str) -> Projection:
    """The linear map `matrix` of `layer`; InputError where the model has no such one."""
    known = matrices(lm.family)
    if matrix not in known:
        raise InputError(f"{lm.name} has no matrix {matrix!r} in its blocks; it has {', '.join(known)}.")
    if not 0 <= layer < lm.num_layers:
        raise InputError(f"layer {layer}: {lm.name} has {lm.num_layers} layers, 0–{lm.num_layers - 1}.")
    path, columns = _path_and_columns(lm, matrix)
    module = lm.layers[layer].get_submodule(path)
    return Projection(Place(layer, matrix), module, lm.family.in_first, columns)


def weight_of(lm: LanguageModel, place: Place) -> Float[Tensor, "d_in d_out"]:
    """The weight at `place`, to read: a fused map's is a copy where its columns lie apart (write_weight_ writes)."""
    return projection(lm, *place).weight


def relative_norm(update: WeightUpdate, weight: Float[Tensor, "d_in d_out"]) -> float:
    """‖ΔW‖/‖W‖ (Frobenius), how far an update moves a weight; squares summed in float64. Infinite where W is zero."""
    moved, whole = (
        float(torch.linalg.vector_norm(one, dtype=torch.float64)) for one in (update.matrix(), weight.detach())
    )
    return moved / whole if whole else math.inf if moved else 0.0


def write_weight_(lm: LanguageModel, place: Place, weight: Float[Tensor, "d_in d_out"]) -> None:
    """Make `weight` the one at `place`, rounded to the model's dtype; any matrix of a block, fused or not."""
    projection(lm, *place).write_(weight)


def add_to_weight_(lm: LanguageModel, place: Place, update: WeightUpdate) -> None:
    """The weight at `place` += ΔW: added in float32 and rounded once to the model's dtype."""
    one = projection(lm, *place)
    one.write_(added(one.weight, update))


@contextmanager
def weights_restored(lm: LanguageModel, places: Iterable[Place]) -> Iterator[Mapping[Place, Float[Tensor, "_ _"]]]:
    """Give the weights at `places` their exact bits back at the end, whatever happened; yields those bits."""
    originals = {place: weight_of(lm, place).clone() for place in places}
    try:
        yield originals
    finally:
        for place, original in originals.items():
            write_weight_(lm, place, original)


@contextmanager
def updates_applied(lm: LanguageModel, updates: Mapping[Place, WeightUpdate]) -> Iterator[None]:
    """The model with `updates` added to its weights, for the length of a `with` block."""
    with weights_restored(lm, updates):
        for place, update in updates.items():
            add_to_weight_(lm, place, update)
        yield


def _path_and_columns(lm: LanguageModel, matrix: str) -> tuple[str, slice | Tensor | None]:
    row = lm.family
    if matrix in ("gate", "up") and row.gate_up:
        return row.gate_up, slice(0, lm.d_mlp) if matrix == "gate" else slice(lm.d_mlp, None)
    if matrix in MLP_MATRICES:
        return str(getattr(row, matrix)), None
    if matrix == "o" or not row.qkv:
        return f"{row.attention}.{getattr(row, matrix)}", None
    path = f"{row.attention}.{row.qkv}"
    return path, _fused_columns(lm, path, matrix)


def _fused_columns(lm: LanguageModel, path: str, matrix: str) -> slice | Tensor:
    """Which outputs of a fused map are queries, keys or values: one after another, or in a group for each key head."""
    config = lm.hf.config
    weight: Tensor = lm.layers[0].get_submodule(path).weight  # type: ignore[union-attr, assignment]
    width = weight.shape[1] if lm.family.in_first else weight.shape[0]
    heads: int = config.num_attention_heads
    d_head = getattr(config, "head_dim", None) or lm.d_model // heads
    key_heads = (width // d_head - heads) // 2
    if not lm.family.qkv_grouped:
        ends = (heads * d_head, (heads + key_heads) * d_head, width)
        at = "qkv".index(matrix)
        return slice(ends[at - 1] if at else 0, ends[at])
    order = torch.arange(width, device=weight.device).reshape(key_heads, -1, d_head)
    chosen = {"q": order[:, :-2], "k": order[:, -2], "v": order[:, -1]}[matrix]
    return chosen.reshape(-1)
