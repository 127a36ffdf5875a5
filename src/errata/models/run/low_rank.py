"""Weights moved by low-rank updates without touching them: x·(W + LᵀR) = x·W + (xLᵀ)R, differentiable in L and R.

Each row of a batch can have an update of its own, so that many edited models run as one batch.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from errata.models.language_model import LanguageModel
from errata.models.run.backward import widened
from errata.models.run.hooks import After, by_row, hooked
from errata.models.weights.projections import Place, Projection, projection

RowFactors = tuple[Float[Tensor, "batch rank d_in"], Float[Tensor, "batch rank d_out"]]


@contextmanager
def rows_updated(lm: LanguageModel, factors: Mapping[Place, RowFactors]) -> Iterator[None]:
    """For each row of a batch, its own update LᵀR (d_in × d_out) on the matrices at `factors`' places.

    Unused ranks are rows of zeros. The product is taken in float32 and rounded once to the model's dtype. Equal to
    weights that really are replaced: tests/models/test_low_rank.py, every family.
    """
    parts: dict[int, list[tuple[Projection, RowFactors]]] = {}
    for place, pair in factors.items():
        one = projection(lm, *place)
        parts.setdefault(id(one.module), []).append((one, pair))
    # Gate and up may be two parts of one module: one hook for both.
    with hooked([After(of_module[0][0].module, partial(_updated, of_module)) for of_module in parts.values()]):
        yield


def _updated(parts: list[tuple[Projection, RowFactors]], entering: Tensor, output: Tensor) -> Tensor:
    batch = len(parts[0][1][0])
    read, wide = widened(by_row(entering, batch)), widened(by_row(output, batch))
    for one, (left, right) in parts:
        moved = torch.bmm(torch.bmm(read, left.to(read).mT), right.to(read))
        wide = wide + moved if one.columns is None else _added(wide, one.columns, moved)
    return wide.to(output.dtype).reshape(output.shape)


def _added(outputs: Tensor, columns: slice | Tensor, moved: Tensor) -> Tensor:
    """Outputs of a fused map with `moved` added to one part of them."""
    whole = torch.zeros_like(outputs)
    whole[..., columns] = moved
    return outputs + whole
