"""Forward pass shifting (Katz et al. 2024, section 7): an edit from one forward pass, no gradient.

W2 ← W2 + Σ_facts lr · kᵀv: k is the down projection's input at the last token of the bare prompt, v the unembedding row
of the target's first token. (The paper's code takes the input embedding, the same where the two are tied.) v is meant
for the residual stream: where a norm follows the MLP, the output that moves it along v is written instead. Options
give each fact a rate of its own (shift_rates.py), as if it were edited alone; of several facts the sum is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from errata.core.updates import WeightUpdate
from errata.core.words import counted
from errata.edit.method import Edit, EditTask, Method
from errata.edit.methods.shift.shift_rates import LADDER, Rates, Writing, choose_rates
from errata.edit.settings.method_config import MethodConfig
from errata.edit.settings.presets import GPT2_XL, SINGLE, SMOLLM2, preset
from errata.edit.values.first_open import first_open
from errata.edit.values.prompt_rows import rewriting_rows
from errata.facts import Fact
from errata.models import (
    LanguageModel,
    Place,
    direction_to_write,
    pad_right,
    relative_norm,
    run_layers,
    weight_of,
)
from errata.models.run.packing import packs

_AT_ONCE = 2048  # tokens of a forward
_DEPTH = 35 / 48  # the published layer of GPT2-xl


@dataclass(frozen=True, kw_only=True)
class ShiftConfig(MethodConfig):
    """Hyperparameters of forward pass shifting; the defaults are the published form.

    layers: one layer.  learning_rate: lr of every fact; with a margin, of those that it finds no rate for.
    key: at the prompt's "last" token, or at the "subject"'s last token.
    value: "target", e_t; or "contrastive", e_t − Σ_k p_k e_k, which takes away from what the model says instead.
    whitened: k becomes C⁻¹k, scaled so that the fact's own key gets what it got before and others get less.
    margin: above 0, each fact gets the rate at which, to first order, the target's logit exceeds the largest other one
    by so much.  line_search: of rates around the given one (or the margin's), each fact gets the smallest that makes
    the target its answer, by the margin if there is one.
    moment_tokens, seed: of the second moment C, where it is used.
    """

    title: ClassVar[str] = "Shift"
    one_layer: ClassVar[bool] = True

    learning_rate: float = 0.24
    key: Literal["last", "subject"] = "last"
    value: Literal["target", "contrastive"] = "target"
    whitened: bool = False
    margin: float = 0.0
    line_search: bool = False
    moment_tokens: int = 100_000
    seed: int = 0

    def domain_checks(self) -> list[tuple[str, bool]]:
        return [
            (f"learning_rate must be positive, found {self.learning_rate}", self.learning_rate <= 0),
            (f"margin must be ≥ 0 (0 switches it off), found {self.margin}", self.margin < 0),
        ]

    @property
    def chooses_rates(self) -> bool:
        """Whether facts may have different rates."""
        return self.margin > 0 or self.line_search


@dataclass(frozen=True)
class _Reading:
    """What one forward of every bare prompt shows; the prompts end before the token that is to be moved."""

    prompts: list[tuple[int, ...]]
    keys: Float[Tensor, "fact d_mlp"]
    hidden: Float[Tensor, "fact d_head"]
    targets: Int[Tensor, " fact"]


def edit_shift(task: EditTask) -> Edit:
    """One rank-one update a fact, summed; facts whose target already is the model's answer are left out.

    Raises NumericsError.
    """
    config: ShiftConfig = task.config
    lm, (layer,) = task.lm, config.layers
    with task.stage("forward"):
        reading = _read(task, layer)
        logits = lm.logits(reading.hidden)[:, : lm.num_tokens].float()
    open_facts = (logits.argmax(1) != reading.targets).nonzero().flatten()
    writing = _writing(task, reading, logits, open_facts)
    with task.stage("rates"):
        rates = choose_rates(
            lm, writing, learning_rate=config.learning_rate, margin=config.margin, line_search=config.line_search,
            progress=task.progress,
        )  # fmt: skip
    update = WeightUpdate.from_factors(writing.keys.cpu(), rates.rates[:, None] * writing.values.double().cpu())
    norm = relative_norm(update, weight_of(lm, Place(layer, "down")))
    metrics: dict[str, Any] = {
        "layers": [{"layer": layer, "relative_norm": norm}],
        "already_known": len(task.facts) - len(open_facts),
    }
    if config.chooses_rates and len(open_facts):
        metrics["rates"] = _spread(rates.rates)
    return Edit(
        updates={Place(layer, "down"): update} if len(open_facts) else {},
        metrics=metrics,
        summary=tuple(_summary(metrics, len(task.facts))),
        warnings=(*_warn_of_last_layer(lm, config), *_warn_of_rates(config, rates), *_warn_of_size(norm)),
        not_converged=tuple(_missed([task.facts[i] for i in open_facts.tolist()], rates)),
        keys={layer: reading.keys.float().cpu()},
    )


def _writing(
    task: EditTask, reading: _Reading, logits: Float[Tensor, "fact token"], chosen: Int[Tensor, " chosen"]
) -> Writing:
    """What the chosen facts write at a rate of 1."""
    config: ShiftConfig = task.config
    (layer,) = config.layers
    keys, targets = reading.keys[chosen].float(), reading.targets[chosen]
    written = task.lm.down(layer)(reading.keys[chosen]).detach()
    head: Tensor = task.lm.lm_head.weight  # type: ignore[union-attr, assignment]
    values = head[targets].float()
    if config.value == "contrastive":
        values = values - logits[chosen].softmax(1) @ head[: logits.shape[1]].float()
    values = direction_to_write(task.lm, layer, written, values.double()).float()
    if config.whitened:
        keys = _whitened(keys, task.second_moments().cholesky(layer).factor)
    return Writing(layer, [reading.prompts[i] for i in chosen.tolist()], targets, keys, values)


@torch.no_grad()
def _read(task: EditTask, layer: int) -> _Reading:
    """Keys and final states of the bare prompts, cut before the target's first token that the model does not say by
    itself, in packed batches."""
    lm, config = task.lm, task.config
    rows = rewriting_rows(lm, task.facts, ("",))
    begin = first_open(lm, rows)
    prompts = [row.ids[: row.read[n] + 1] for row, n in zip(rows, begin, strict=True)]
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
    targets = torch.tensor([row.targets[n] for row, n in zip(rows, begin, strict=True)], device=lm.device)
    in_order = range(len(rows))
    return _Reading(
        prompts, torch.stack([keys[i] for i in in_order]), torch.stack([hidden[i] for i in in_order]), targets
    )


def _whitened(keys: Float[Tensor, "fact d_mlp"], factor: Float64[Tensor, "d_mlp d_mlp"]) -> Float[Tensor, "fact d_mlp"]:
    """C⁻¹k · (k·k)/(kᵀC⁻¹k), from C's Cholesky factor: the response of k itself stays what it was. In float64."""
    k = keys.double()
    solved = torch.cholesky_solve(k.T, factor.to(k.device)).T
    return (solved * ((k * k).sum(1) / (k * solved).sum(1))[:, None]).float()


def _spread(rates: Float64[Tensor, " fact"]) -> dict[str, float]:
    return {"smallest": float(rates.min()), "median": float(rates.median()), "largest": float(rates.max())}


def _summary(metrics: Mapping[str, Any], facts: int) -> list[str]:
    (layer,) = metrics["layers"]
    lines = [
        f"‖ΔW‖/‖W‖ at layer {layer['layer']}: {layer['relative_norm']:.3f}. Answered "
        f"already and left alone: {metrics['already_known']} of {counted(facts, 'fact')}."
    ]
    if rates := metrics.get("rates"):
        lines.append(f"Rates: {rates['smallest']:.3g} to {rates['largest']:.3g}, median {rates['median']:.3g}.")
    return lines


def _missed(facts: Sequence[Fact], rates: Rates) -> list[dict[str, Any]]:
    """Facts that did not get what was asked for; the line search has the last word."""
    rows = zip(facts, rates.rates.tolist(), rates.backwards.tolist(), rates.unanswered.tolist(), strict=True)
    return [
        {"id": fact.id, "rate": rate, "reason": "no rate on the ladder is enough" if unanswered else "no rate helps"}
        for fact, rate, backwards, unanswered in rows
        if unanswered or (backwards and not rates.searched)
    ]


def _warn_of_rates(config: ShiftConfig, rates: Rates) -> list[str]:
    warnings = []
    backwards, unanswered = int(rates.backwards.sum()), int(rates.unanswered.sum())
    if backwards:
        warnings.append(
            f"To first order, {counted(backwards, 'fact')} would move away from the target: written with learning_rate="
            f"{config.learning_rate:g} instead of a rate for the margin. Another layer may suit better."
        )
    if unanswered:
        warnings.append(
            f"Not answered as asked at any rate of the line search: {counted(unanswered, 'fact')}, written with the "
            "largest; named in the report. Another layer, or a larger learning_rate, may help."
        )
    return warnings


def _warn_of_size(norm: float) -> list[str]:
    """A rate for a margin has no bound: where the slope is nearly flat it is enormous."""
    if norm <= 1:
        return []
    return [
        f"The update is out of proportion: ‖ΔW‖/‖W‖ = {norm:.3g}. Other facts will suffer; lower the rates or the "
        "margin, edit fewer facts at once, or choose another layer."
    ]


def _warn_of_last_layer(lm: LanguageModel, config: ShiftConfig) -> list[str]:
    if config.key == "last" or config.layers[0] < lm.num_layers - 1:
        return []
    return [
        f"key=subject at {lm.name}'s last layer, {config.layers[0]}: no attention above it carries what is written "
        "at a subject to where the answer is read. Choose a lower layer or key=last."
    ]


def _guess(lm: LanguageModel) -> ShiftConfig:
    """The published layer's relative depth; a margin instead of the published rate, which is of GPT2-xl's scale."""
    layer = min(lm.num_layers - 1, round(_DEPTH * lm.num_layers))
    return ShiftConfig(layers=(layer,), margin=0.5, value="contrastive")


def _plan(config: ShiftConfig) -> str:
    moments = "second moments, " if config.whitened else ""
    rate = f"a margin of {config.margin:g}" if config.margin else f"rate {config.learning_rate:g}"
    backward = ", one backward pass" if config.margin else ""
    search = f", the upper layers {len(LADDER)} times" if config.line_search else ""
    return f"layer {config.layers[0]}, {rate}. To do: {moments}for each fact one forward pass{backward}{search}."


SHIFT_PRESETS = (
    preset("SmolLM2-135M", SINGLE, SMOLLM2, ShiftConfig(layers=(26,), margin=0.5, value="contrastive")),
    preset("GPT-2 XL", "Katz et al. 2024", GPT2_XL, ShiftConfig(layers=(35,), learning_rate=0.24)),
)


SHIFT = Method(
    name="shift",
    title="forward pass shifting (Katz et al. 2024)",
    writes="One MLP output matrix: the target's embedding at the prompt's key, without any gradient.",
    paper="Katz et al. 2024, Backward Lens, arXiv:2402.12865",
    presets=SHIFT_PRESETS,
    config_type=ShiftConfig,
    guess=_guess,
    certain=frozenset({"layers", "learning_rate"}),
    guessed=frozenset({"margin", "value"}),
    together=frozenset({"learning_rate", "margin", "line_search"}),
    plan=_plan,
    edit=edit_shift,
    uses_moments=lambda config: config.whitened,
)
