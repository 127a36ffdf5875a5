"""A gradient neuron by neuron, against the vectors that span it (Katz et al. 2024, section 4 and appendix)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from errata.core.outer import OuterSum
from errata.errors import InputError
from errata.lens.modes import Reader


@dataclass(frozen=True, eq=False)
class NeuronTable:
    """Neurons of one gradient, those of the greatest norm first.

    neuron: its number.  norm: of its gradient, Σ_i c_i s_i over the spanning vectors s_i (δ_i for what writes to the
    residual stream, x_i for what reads it).  nearest: the position whose spanning vector has the greatest |cosine| with
    it; cosine: signed.  top_overlap, bottom_overlap: how many of the top (bottom) `top` tokens it shares with that
    vector, turned round where the cosine is negative; 0 to 1.  explained_by_one, explained_by_two: share of its squared
    norm in the span of that vector, and of it with the one that adds most.
    """

    neuron: Int[Tensor, " neuron"]
    norm: Float[Tensor, " neuron"]
    nearest: Int[Tensor, " neuron"]
    cosine: Float[Tensor, " neuron"]
    top_overlap: Float[Tensor, " neuron"]
    bottom_overlap: Float[Tensor, " neuron"]
    explained_by_one: Float[Tensor, " neuron"]
    explained_by_two: Float[Tensor, " neuron"]
    top: int

    def rows(self) -> Iterator[dict[str, Any]]:
        """One plain record a neuron."""
        names = (
            "neuron", "norm", "nearest", "cosine", "top_overlap", "bottom_overlap", "explained_by_one",
            "explained_by_two",
        )  # fmt: skip
        columns = [getattr(self, name).tolist() for name in names]
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))


@torch.no_grad()
def neuron_table(
    reader: Reader, factors: OuterSum, *, writes: bool, chosen: slice | list[int], top: int
) -> NeuronTable:
    """Compare the neurons of a gradient with its spanning vectors. Cosines come from the factors' products alone.

    Raises InputError where `chosen` names places beyond the neurons that are not zero.
    """
    spanning, weights = (factors.vjps, factors.inputs) if writes else (factors.inputs, factors.vjps)
    norms = factors.neuron_norms(by_input=writes)
    order = norms.argsort(descending=True, stable=True)
    order = order[norms[order] > 0]
    if isinstance(chosen, list) and chosen and not 0 <= min(chosen) <= max(chosen) < len(order):
        raise InputError(f"among={chosen[:5]} …: this gradient has {len(order)} neurons that are not zero.")
    order = order[chosen]
    s, c = spanning.double(), weights[:, order].double().T
    lengths = s.norm(dim=1)
    cosines = (c @ (s @ s.T)) / (norms[order].double()[:, None] * lengths).clamp_min(1e-300)
    cosines[:, lengths == 0] = 0
    nearest = cosines.abs().argmax(1)
    one, two = _explained(c, s @ s.T, norms[order].double())
    signed = cosines.gather(1, nearest[:, None])[:, 0].float()
    k = min(top, reader.lm.num_tokens)
    upper, lower = reader.extreme_ids((c @ s).float(), k)
    turn = torch.where(signed < 0, -1.0, 1.0)
    shared = {}  # spanning vectors are few: read each, both ways round, once
    for direction in (1.0, -1.0):
        shared[direction] = reader.extreme_ids(direction * spanning, k)
    overlaps = []
    for own, side in ((upper, 0), (lower, 1)):
        other = (
            torch.stack([shared[float(t)][side][int(i)] for t, i in zip(turn, nearest, strict=True)])
            if len(order)
            else own
        )
        overlaps.append(_overlap(own, other, reader.lm.num_tokens) / k)
    return NeuronTable(
        order.cpu(), norms[order].cpu(), nearest.cpu(), signed.cpu(), overlaps[0], overlaps[1], one.cpu(), two.cpu(), k
    )


def _explained(
    c: Float64[Tensor, "neuron pos"], gram: Float64[Tensor, "pos pos"], norms: Float64[Tensor, " neuron"]
) -> tuple[Float[Tensor, " neuron"], Float[Tensor, " neuron"]]:
    """Share of each neuron's squared norm that the best spanning vector holds, and with the best second one."""
    if not len(c):
        return torch.zeros(0), torch.zeros(0)
    tiny = 1e-12 * gram.diagonal().amax()
    dots, own = c @ gram, gram.diagonal().clone()
    gain = torch.where(own > tiny, dots.square() / own.clamp_min(tiny), torch.zeros(()).to(own))
    first = gain.argmax(1)
    best = gain.gather(1, first[:, None])[:, 0]
    # What is left of every spanning vector, and of its product with the neuron, once the first is projected out.
    across = gram[first]
    share = dots.gather(1, first[:, None]) / own[first].clamp_min(tiny)[:, None]
    left = own[None] - across.square() / own[first].clamp_min(tiny)[:, None]
    second = torch.where(left > tiny, (dots - share * across).square() / left.clamp_min(tiny), torch.zeros(()).to(own))
    total = norms.square()
    both = best + second.amax(1)
    return (best / total).clamp(0, 1).float(), (both / total).clamp(0, 1).float()


def _overlap(a: Int[Tensor, "row k"], b: Int[Tensor, "row k"], vocabulary: int) -> Float[Tensor, " row"]:
    """How many ids two rows share."""
    found = []
    for own, other in zip(a, b, strict=True):
        seen = torch.zeros(vocabulary, dtype=torch.bool)
        seen[other] = True
        found.append(seen[own].sum().float())
    return torch.stack(found) if found else torch.zeros(0)
