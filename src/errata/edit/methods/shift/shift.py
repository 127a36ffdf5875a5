"""Forward pass shifting (Katz et al. 2024, section 7): an edit from one forward pass, no gradient.

W2 ← W2 + Σ_facts lr · kᵀv: k is the down projection's input at the last token of the bare prompt, v the unembedding row
of the target's first token. (The paper's code takes the input embedding, the same where the two are tied.) v is meant
for the residual stream: where a norm follows the MLP, the output that moves it along v is written instead. Options
give each fact a rate of its own (shift_rates.py), as if it were edited alone; of several facts the sum is written.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float64
from torch import Tensor

from errata.core.updates import WeightUpdate
from errata.core.words import counted
from errata.edit.method import Edit, EditTask, Method
from errata.edit.methods.shift.prompt_reading import read_prompts, writing_of
from errata.edit.methods.shift.shift_config import ShiftConfig
from errata.edit.methods.shift.shift_rates import LADDER, Rates, choose_rates
from errata.edit.settings.presets import GPT2_XL, SINGLE, SMOLLM2, preset
from errata.facts import Fact
from errata.models import (
    LanguageModel,
    Place,
    relative_norm,
    weight_of,
)

_DEPTH = 35 / 48  # the published layer of GPT2-xl


def edit_shift(task: EditTask) -> Edit:
    """One rank-one update a fact, summed; facts whose target already is the model's answer are left out.

    Raises NumericsError.
    """
    config: ShiftConfig = task.config
    lm, (layer,) = task.lm, config.layers
    with task.stage("forward"):
        reading = read_prompts(task, layer)
        logits = lm.logits(reading.hidden)[:, : lm.num_tokens].float()
    open_facts = (logits.argmax(1) != reading.targets).nonzero().flatten()
    writing = writing_of(task, reading, logits, open_facts)
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
