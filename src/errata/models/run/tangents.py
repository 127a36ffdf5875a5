"""First-order effects by forward-mode differentiation, through the model's own functions whatever they are."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from errata.models.language_model import LanguageModel
from errata.models.run.backward import widened
from errata.models.run.hooks import After, hooked
from errata.models.weights.projections import Place, Projection, projection


@contextmanager
def outputs_moved_by_tangents(lm: LanguageModel, shifts: Mapping[Place, Float[Tensor, "pos d_out"]]) -> Iterator[None]:
    """Give what the maps at `shifts`' places write those tangents; `tangent_of` reads in here what follows from them.

    No value changes: only what runs as one row of a batch says how it would move, to first order.
    """
    parts: dict[int, list[tuple[Projection, Tensor]]] = {}
    for place, shift in shifts.items():
        one = projection(lm, *place)
        parts.setdefault(id(one.module), []).append((one, shift))
    # Gate and up may be two parts of one module: one hook for both.
    hooks = [After(of_module[0][0].module, partial(_with_tangent, of_module)) for of_module in parts.values()]
    with forward_ad.dual_level(), hooked(hooks):
        yield


def tangent_of(tensor: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """How a tensor moves to first order; it must depend on what was given a tangent."""
    tangent = forward_ad.unpack_dual(tensor).tangent
    assert tangent is not None, "the tensor does not depend on what was given a tangent"
    return widened(tangent.detach())


def _with_tangent(parts: list[tuple[Projection, Tensor]], _entering: Tensor, output: Tensor) -> Tensor:
    tangent = torch.zeros_like(output)
    for one, shift in parts:
        columns = slice(None) if one.columns is None else one.columns
        tangent[..., columns] = shift.reshape(*output.shape[:-1], -1).to(output)
    return forward_ad.make_dual(output, tangent)
