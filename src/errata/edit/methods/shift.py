"""Forward pass shifting (Katz et al. 2024, section 7): an edit from one forward pass, no gradient.

W2 ← W2 + lr · Σ_facts kᵀv: k is the down projection's input at the last token of the bare prompt, v the unembedding row
of the target's first token. (The paper's code takes the input embedding, the same where the two are tied.)
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.core.linalg import cholesky
from errata.core.updates import WeightUpdate
from errata.edit.method import Edit, EditTask, Method
from errata.edit.method_config import MethodConfig
from errata.edit.packing import packs
from errata.edit.rows import rewriting_rows
from errata.models import LanguageModel, Place, pad_right, run_layers, weight_of

_AT_ONCE = 2048  # tokens of a forward
_DEPTH = 35 / 48  # the published layer of GPT2-xl


@dataclass(frozen=True, kw_only=True)
class ShiftConfig(MethodConfig):
    """Hyperparameters of forward pass shifting; the defaults are the published form.

    layers: one layer.  learning_rate: lr.  key: at the prompt's "last" token, or at the "subject"'s last token.
    value: "target", e_t; or "contrastive", e_t − Σ_k p_k e_k, which takes away from what the model says instead.
    whitened: k becomes C⁻¹k, scaled so that the fact's own key gets what it got before and others get less.
    moment_tokens, seed: of the second moment C, where it is used.
    """

    title: ClassVar[str] = "Shift"
    one_layer: ClassVar[bool] = True

    learning_rate: float = 0.24
    key: Literal["last", "subject"] = "last"
    value: Literal["target", "contrastive"] = "target"
    whitened: bool = False
    moment_tokens: int = 100_000
    seed: int = 0

    def domain_checks(self) -> list[tuple[str, bool]]:
        return [(f"learning_rate must be positive, found {self.learning_rate}", self.learning_rate <= 0)]


@dataclass(frozen=True)
class _Reading:
    """What one forward of every bare prompt shows."""

    keys: Float[Tensor, "fact d_mlp"]
    hidden: Float[Tensor, "fact d_head"]
    targets: Int[Tensor, " fact"]


def edit_shift(task: EditTask) -> Edit:
    """One rank-one update a fact, summed; facts whose target already is the model's answer are left out."""
    config: ShiftConfig = task.config
    lm, (layer,) = task.lm, config.layers
    with task.stage("forward"):
        reading = _read(task, layer)
        logits = lm.logits(reading.hidden)[:, : lm.num_tokens].float()
    open_facts = (logits.argmax(1) != reading.targets).nonzero().flatten()
    keys, targets = reading.keys[open_facts].float(), reading.targets[open_facts]
    head: Tensor = lm.lm_head.weight  # type: ignore[union-attr, assignment]
    values = head[targets].float()
    if config.value == "contrastive":
        values = values - logits[open_facts].softmax(1) @ head[: logits.shape[1]].float()
    if config.whitened:
        keys = _whitened(keys, task.second_moments()[layer])
    update = WeightUpdate.from_factors(keys.cpu(), config.learning_rate * values.cpu())
    place = Place(layer, "down")
    norm = float(update.matrix().norm()) / float(weight_of(lm, place).float().norm())
    skipped = len(task.facts) - len(open_facts)
    return Edit(
        updates={place: update} if len(open_facts) else {},
        metrics={"layers": [{"layer": layer, "relative_norm": norm}], "already_known": skipped},
        summary=(
            f"‖ΔW‖/‖W‖ at layer {layer}: {norm:.3f}. {skipped} of {len(task.facts)} facts were answered already and "
            "left as they are.",
        ),
        keys={layer: reading.keys.float().cpu()},
    )


@torch.no_grad()
def _read(task: EditTask, layer: int) -> _Reading:
    """Keys and final states of the bare prompts, cut before the target, in packed batches."""
    lm, config = task.lm, task.config
    rows = rewriting_rows(lm, task.facts, ("",))
    prompts = [row.ids[: row.read[0] + 1] for row in rows]
    at = [row.edited if config.key == "subject" else len(prompt) - 1 for row, prompt in zip(rows, prompts, strict=True)]
    keys: dict[int, Tensor] = {}
    hidden: dict[int, Tensor] = {}
    with task.progress.stage("forward", len(rows), "facts") as advance:
        for members in packs([len(prompt) for prompt in prompts], most_tokens=_AT_ONCE):
            ids, mask = pad_right([prompts[i] for i in members], device=lm.device)
            run = run_layers(lm, ids, mask, tap_down=[layer])
            assert run.hidden is not None
            for row, i in enumerate(members):
                keys[i] = run.down_inputs[layer][row, at[i]]
                hidden[i] = run.hidden[row, len(prompts[i]) - 1]
            advance(len(members))
    targets = torch.tensor([row.targets[0] for row in rows], device=lm.device)
    return _Reading(
        torch.stack([keys[i] for i in range(len(rows))]), torch.stack([hidden[i] for i in range(len(rows))]), targets
    )


def _whitened(keys: Float[Tensor, "fact d_mlp"], second_moment: Tensor) -> Float[Tensor, "fact d_mlp"]:
    """C⁻¹k · (k·k)/(kᵀC⁻¹k): the response of k itself stays what it was. In float64."""
    k = keys.double()
    solved = torch.cholesky_solve(k.T, cholesky(second_moment.to(k.device)).factor).T
    return (solved * ((k * k).sum(1) / (k * solved).sum(1))[:, None]).float()


def _guess(lm: LanguageModel) -> ShiftConfig:
    """The published layer's relative depth and the published rate."""
    return ShiftConfig(layers=(min(lm.num_layers - 1, round(_DEPTH * lm.num_layers)),))


def _plan(config: ShiftConfig) -> str:
    moments = "second moments, " if config.whitened else ""
    return f"layer {config.layers[0]}, rate {config.learning_rate:g}. To do: {moments}one forward pass a fact."


SHIFT = Method(
    name="shift",
    title="forward pass shifting (Katz et al. 2024)",
    config_type=ShiftConfig,
    guess=_guess,
    certain=frozenset({"layers", "learning_rate"}),
    plan=_plan,
    edit=edit_shift,
    uses_moments=lambda config: config.whitened,
)
