"""MEMIT's layer loop: spread the wanted change over the edited layers, one ridge solve each.

Meng et al. (2023), algorithm 1. Layer i of N takes 1/(N − i) of what is still missing at the last layer, measured on
the model as edited so far. The model itself is left exactly as it was found; the result is the updates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from errata.core.linalg import ridge_adjoint
from errata.core.progress import SILENT, ProgressSink
from errata.core.updates import WeightUpdate, add_
from errata.edit.config import MemitConfig
from errata.edit.keys import KeyFrontier
from errata.edit.rows import key_rows
from errata.errors import NumericsError
from errata.facts import Fact
from errata.models import LanguageModel


@dataclass(frozen=True)
class LayerEdit:
    """One edited layer: its update, the facts' keys there, and how far the facts were from their targets before it.

    residual: mean ‖z − h^L‖ over the facts before this layer's update.  relative_norm: ‖ΔW‖/‖W‖ (Frobenius).
    jitter: what the solve added to the diagonal, relative to its mean.
    """

    layer: int
    update: WeightUpdate
    keys: Float[Tensor, "fact d_mlp"]
    residual: float
    relative_norm: float
    form: str
    jitter: float


@dataclass(frozen=True)
class MemitSolution:
    """The layers' edits, and what is left of each fact's residual after all of them (‖z − h^L‖, and at the start)."""

    layers: tuple[LayerEdit, ...]
    start_residual: Float[Tensor, " fact"]
    end_residual: Float[Tensor, " fact"]


def solve(
    lm: LanguageModel,
    facts: Sequence[Fact],
    values: Float[Tensor, "fact d_model"],
    moments: Mapping[int, Float64[Tensor, "d_mlp d_mlp"]],
    config: MemitConfig,
    prefixes: Sequence[str],
    progress: ProgressSink = SILENT,
) -> MemitSolution:
    """Weight updates that make layer L's output at each subject equal its target value, for all facts at once."""
    value_layer = config.layers[-1]
    frontier = KeyFrontier(lm, key_rows(lm, facts, prefixes), len(facts))
    target = values.to(lm.device).double()
    edits: list[LayerEdit] = []
    start = torch.zeros(len(facts))
    with lm.weights_restored(config.layers), progress.stage("layers", len(config.layers), "layers") as advance:
        for i, layer in enumerate(config.layers):
            keys, states = frontier.advance(layer, value_layer)
            residuals = target - states.double()
            start = residuals.norm(dim=1).float().cpu() if i == 0 else start
            share = residuals / (len(config.layers) - i) / lm.residual_scale
            edits.append(
                _edit_layer(lm, layer, keys, share, moments[layer], config, float(residuals.norm(dim=1).mean()))
            )
            advance(1)
        end = (target - frontier.states(value_layer).double()).norm(dim=1).float().cpu()
    return MemitSolution(tuple(edits), start, end)


def _edit_layer(
    lm: LanguageModel,
    layer: int,
    keys: Float[Tensor, "fact d_mlp"],
    residuals: Float64[Tensor, "fact d_model"],
    second_moment: Float64[Tensor, "d_mlp d_mlp"],
    config: MemitConfig,
    residual: float,
) -> LayerEdit:
    """Solve for one layer and write its update into the model, so that the next layer sees it."""
    ridge = ridge_adjoint(keys.double(), second_moment.to(keys.device), prior_weight=config.prior_weight)
    update = WeightUpdate.from_factors(ridge.adjoint.cpu(), residuals.cpu())
    weight = lm.down_weight(layer)
    matrix = update.matrix(weight.device)
    if not torch.isfinite(matrix).all():
        raise NumericsError(f"Layer {layer}'s update is not finite; raise prior_weight or use more moment_tokens.")
    relative = float(matrix.norm() / weight.float().norm())
    add_(weight, update)
    return LayerEdit(layer, update, keys.float().cpu(), residual, relative, ridge.form, ridge.jitter)
