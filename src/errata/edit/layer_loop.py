"""MEMIT's layer loop: spread the wanted change over the edited layers, one ridge solve each.

Meng et al. (2023), algorithm 1. Layer i of N takes 1/(N − i) of what is still missing at the last layer, measured on
the model as edited so far. The model itself is left exactly as it was found; the result is the updates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from errata.core.linalg import Cholesky, Ridge, cholesky, ridge_adjoint
from errata.core.progress import SILENT, ProgressSink
from errata.core.updates import WeightUpdate, add_
from errata.edit.config import MemitConfig
from errata.edit.keys import KeyFrontier
from errata.edit.rows import key_rows
from errata.errors import NumericsError
from errata.facts import Fact
from errata.models import LanguageModel, Place, weights_restored


@dataclass(frozen=True)
class LayerEdit:
    """One edited layer: its update, the facts' keys when it was first written, and how far they were from the targets.

    residual: mean ‖z − h^L‖ over the facts before this layer's first update.  relative_norm: ‖ΔW‖/‖W‖ (Frobenius).
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
    """Weight updates that make layer L's output at each subject equal its target value, for all facts at once.

    `config.passes` > 1 goes beyond the published method: the whole loop runs again over what is still missing. One pass
    leaves a tenth of the residual on SmolLM2 however small λ is, since the key that is written is a mean over contexts
    and not the bare prompt's own. Where the keys differ from one pass to the next, the update's rank grows with them.
    """
    layers, value_layer = config.layers, config.layers[-1]
    rows = key_rows(lm, facts, prefixes)
    target = values.to(lm.device).double()
    work: dict[int, _LayerWork] = {}
    start = torch.zeros(len(facts))
    edited = [Place(layer, "down") for layer in layers]
    with weights_restored(lm, edited), progress.stage("layers", config.passes * len(layers), "layers") as advance:
        for _ in range(config.passes):
            frontier = KeyFrontier(lm, rows, len(facts))
            for i, layer in enumerate(layers):
                keys, states = frontier.advance(layer, value_layer)
                missing = target - states.double()
                if layer not in work:
                    start = missing.norm(dim=1).float().cpu() if i == 0 else start
                    work[layer] = _LayerWork(lm, layer, keys, float(missing.norm(dim=1).mean()))
                work[layer].write_(keys, missing / (len(layers) - i), moments[layer], config.prior_weight)
                advance(1)
        end = (target - frontier.states(value_layer).double()).norm(dim=1).float().cpu()
        return MemitSolution(tuple(work[layer].edit() for layer in layers), start, end)


class _LayerWork:
    """A layer while it is edited: the adjoints solved so far and the residuals written with each."""

    def __init__(self, lm: LanguageModel, layer: int, keys: Float[Tensor, "fact d_mlp"], residual: float) -> None:
        self.layer, self.first_keys, self.residual = layer, keys, residual
        self.residual_scale = lm.residual_scale
        self.weight = lm.down_weight(layer)
        self.original = self.weight.clone()
        self.last_keys: Tensor | None = None
        self.moment_cholesky: Cholesky | None = None
        self.solved: list[Ridge] = []
        self.given: list[Tensor] = []

    def write_(
        self,
        keys: Float[Tensor, "fact d_mlp"],
        residuals: Float64[Tensor, "fact d_model"],
        second_moment: Float64[Tensor, "d_mlp d_mlp"],
        prior_weight: float,
    ) -> None:
        """Write `residuals`, with all that was given before, into the model, so that the next layer sees it."""
        residuals = residuals.cpu() / self.residual_scale
        if self.last_keys is not None and torch.equal(keys, self.last_keys):  # nothing below this layer is edited
            self.given[-1] = self.given[-1] + residuals
        else:
            moment = second_moment.to(keys.device)
            if self.moment_cholesky is None and keys.shape[0] < keys.shape[1]:  # the dual form, and later passes too
                self.moment_cholesky = cholesky(moment)
            self.solved.append(
                ridge_adjoint(keys.double(), moment, prior_weight=prior_weight, moment_cholesky=self.moment_cholesky)
            )
            self.given.append(residuals)
        self.last_keys = keys
        update = self._update()
        if not all(torch.isfinite(tensor).all() for tensor in update.tensors().values()):
            raise NumericsError(f"Layer {self.layer}'s update is not finite; raise prior_weight or moment_tokens.")
        # On the original bits, as the patch will do it: in half precision two additions round differently from one.
        with torch.no_grad():
            self.weight.copy_(self.original)
        add_(self.weight, update)

    def edit(self) -> LayerEdit:
        update = self._update()
        return LayerEdit(
            layer=self.layer,
            update=update,
            keys=self.first_keys.float().cpu(),
            residual=self.residual,
            relative_norm=float(update.matrix().norm()) / float(self.original.float().norm()),
            form=self.solved[0].form,
            jitter=max(ridge.jitter for ridge in self.solved),
        )

    def _update(self) -> WeightUpdate:
        return WeightUpdate.from_factors(
            torch.cat([ridge.adjoint.cpu() for ridge in self.solved]), torch.cat(self.given)
        )
