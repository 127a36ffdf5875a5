"""The layer loop of MEMIT and its kin: spread the wanted change over the edited layers, one solve each.

Meng et al. (2023), algorithm 1. Layer i of N takes 1/(N − i) of what is still missing at the last layer, measured on
the model as edited so far. Methods differ in the rule that solves a layer. The model itself is left exactly as it was
found; the result is the updates.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from errata.core.linalg import Ridge
from errata.core.progress import SILENT, ProgressSink
from errata.core.updates import WeightUpdate, add_
from errata.edit.values.keys import KeyFrontier
from errata.edit.values.prompt_rows import key_rows
from errata.errors import NumericsError
from errata.facts import Fact
from errata.models import LanguageModel, Place, Writing, contributed, relative_norm, to_write, weights_restored

# From a layer and its keys (fact × d_mlp, float64) to the factor A of ΔW = AᵀR.
Rule = Callable[[int, Float64[Tensor, "fact d_mlp"]], Ridge]


@dataclass(frozen=True)
class LayerEdit:
    """One edited layer: its update, the facts' keys when it was first written, and how far they were from the targets.

    residual: mean ‖z − h^L‖ over the facts before this layer's first update.  relative_norm: ‖ΔW‖/‖W‖ (Frobenius).
    lost: of what this layer was last asked to give the stream, the share that none of its outputs can (after a norm).
    jitter: what the solve added to the diagonal, relative to its mean.  moment_jitter: of it, what a singular second
    moment needed.
    """

    layer: int
    update: WeightUpdate
    keys: Float[Tensor, "fact d_mlp"]
    residual: float
    relative_norm: float
    form: str
    jitter: float
    moment_jitter: float
    lost: float = 0.0


@dataclass(frozen=True)
class Solution:
    """The layers' edits, and what is left of each fact's residual after all of them (‖z − h^L‖, and at the start)."""

    layers: tuple[LayerEdit, ...]
    start_residual: Float[Tensor, " fact"]
    end_residual: Float[Tensor, " fact"]


def solve(
    lm: LanguageModel,
    facts: Sequence[Fact],
    values: Float[Tensor, "fact d_model"],
    rule: Rule,
    layers: Sequence[int],
    prefixes: Sequence[str],
    *,
    passes: int = 1,
    enough: float = 0.0,
    spread: Literal["even", "root"] = "even",
    reads: Literal["block", "mlp"] = "block",
    progress: ProgressSink = SILENT,
) -> Solution:
    """Weight updates that make the last layer's output at each subject equal its target value, for all facts at once.

    `values` are of what `reads` names: the residual stream after the last layer, or what its MLP writes (before a norm
    behind it). `spread`: layer i of N takes 1/(N − i) of what the stream misses ("even") or 1/√(N − i) ("root", PMET);
    what its matrix must write for that, models/weights/written.py says.
    `passes` > 1 goes beyond the published methods: the whole loop runs again over what is still missing. One pass
    leaves a tenth of the residual on SmolLM2 however small λ is, since the key that is written is a mean over contexts
    and not the bare prompt's own. Where the keys differ from one pass to the next, the update's rank grows with them.
    They end early where less than `enough` of the residual (mean over the facts) is left.
    """
    rows, edited = key_rows(lm, facts, prefixes), [Place(layer, "down") for layer in layers]
    loop = _LayerLoop(lm, layers, values.to(lm.device_of(layers[-1])), spread, reads)
    runs, end = _runs(layers, len(prefixes)), loop.start
    with weights_restored(lm, edited), progress.stage("layers", passes * sum(runs), "layer runs") as advance:
        for _ in range(passes):
            # Anew from the embeddings: every edited layer has changed what enters those above it.
            frontier = KeyFrontier(lm, rows, len(facts), reads=reads)
            for i in range(len(layers)):
                loop.write_(i, frontier, rule)
                advance(runs[i])
            end = loop.distances(frontier)
            if float(end.mean()) < enough * float(loop.start.mean()):
                break
        return Solution(tuple(loop.work[layer].edit() for layer in layers), loop.start, end)


def _runs(layers: Sequence[int], contexts: int) -> list[int]:
    """What each layer takes its time for: every context runs up to it, and the bare prompts on to the last one."""
    steps = zip([0, *layers], layers, strict=False)
    return [contexts * (layer - below + 1) + layers[-1] - layer + 1 for below, layer in steps]


@dataclass
class _LayerLoop:
    """What is to be reached at the last of the layers, and the work on each of them so far."""

    lm: LanguageModel
    layers: Sequence[int]
    target: Float[Tensor, "fact d_model"]
    spread: Literal["even", "root"]
    reads: Literal["block", "mlp"]
    work: dict[int, "_LayerWork"] = field(default_factory=dict)
    start: Float[Tensor, " fact"] = field(default_factory=lambda: torch.zeros(0))

    def write_(self, i: int, frontier: KeyFrontier, rule: Rule) -> None:
        """Write its share of what is missing into the i-th of the layers."""
        layer = self.layers[i]
        keys, states = frontier.advance(layer, self.layers[-1])
        missing = self._missing(states)
        if layer not in self.work:
            self.start = missing.norm(dim=1).float().cpu() if i == 0 else self.start
            self.work[layer] = _LayerWork(self.lm, layer, keys, float(missing.norm(dim=1).mean()))
        left = len(self.layers) - i
        share = left if self.spread == "even" else math.sqrt(left)
        wanted = (missing / share).to(self.lm.device_of(layer))
        self.work[layer].write_(keys, to_write(self.lm, layer, frontier.written(), wanted), rule)

    def distances(self, frontier: KeyFrontier) -> Float[Tensor, " fact"]:
        """How far each fact is from its target value, on the model as it is now."""
        return self._missing(frontier.states(self.layers[-1])).norm(dim=1).float().cpu()

    def _missing(self, states: Float[Tensor, "fact d_model"]) -> Float64[Tensor, "fact d_model"]:
        """What the stream is still to get; of what an MLP writes, the difference of its contributions.

        float64: the better the edit lands, the more of the two cancels.
        """
        if self.reads == "block":
            return self.target.double() - states.double()
        layer = self.layers[-1]
        return contributed(self.lm, layer, self.target) - contributed(self.lm, layer, states)


class _LayerWork:
    """A layer while it is edited: the adjoints solved so far and the residuals written with each."""

    def __init__(self, lm: LanguageModel, layer: int, keys: Float[Tensor, "fact d_mlp"], residual: float) -> None:
        self.layer, self.first_keys, self.residual = layer, keys, residual
        self.weight = lm.down_weight(layer)
        self.original = self.weight.clone()
        self.last_keys: Tensor | None = None
        self.solved: list[Ridge] = []
        self.given: list[Tensor] = []
        self.lost = 0.0

    def write_(self, keys: Float[Tensor, "fact d_mlp"], writing: Writing, rule: Rule) -> None:
        """Write what is wanted, with all that was given before, into the model, so that the next layer sees it."""
        residuals = writing.residual.cpu()
        self.lost = float(writing.lost.mean())
        if self.last_keys is not None and torch.equal(keys, self.last_keys):  # nothing below this layer is edited
            self.given[-1] = self.given[-1] + residuals
        else:
            self.solved.append(rule(self.layer, keys.double()))
            self.given.append(residuals)
        self.last_keys = keys
        update = self._update()
        if not update.is_finite():
            raise NumericsError(
                f"Layer {self.layer}'s update is not finite; strengthen the prior or raise moment_tokens."
            )
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
            relative_norm=relative_norm(update, self.original),
            lost=self.lost,
            form=self.solved[0].form,
            jitter=max(ridge.jitter for ridge in self.solved),
            moment_jitter=max(ridge.moment_jitter for ridge in self.solved),
        )

    def _update(self) -> WeightUpdate:
        return WeightUpdate.from_factors(
            torch.cat([ridge.adjoint.cpu() for ridge in self.solved]), torch.cat(self.given)
        )
