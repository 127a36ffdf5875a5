"""Knowledge Neurons (Dai et al., ACL 2022): find the MLP neurons that hold a fact and rewrite what they say.

Each fact's neurons are those whose activations the probability of its old answer comes from (neuron_attribution.py), in
enough of its contexts. Each such neuron's row of the down projection then moves by strength · (e_new − e_old), e the
unembedding rows of the first tokens in which the answers differ. (The published code takes input embeddings, the same
where the two are tied; its contexts are paraphrases, which here are what an edit is tested on. It knows activations
that are positive or nearly zero; behind a gate half of them are negative, and the move must be turned round to do what
it is meant to.) e_new − e_old is meant for the residual stream: where a norm follows the MLP, the output that moves it
along is written.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from errata.core.updates import WeightUpdate
from errata.core.words import counted
from errata.edit.method import Edit, EditTask, Method
from errata.edit.methods.knowledge_neurons.fact_prompts import FactPrompts, fact_prompts
from errata.edit.methods.knowledge_neurons.neuron_attribution import Question
from errata.edit.methods.knowledge_neurons.neuron_choice import Held, Neuron, Search, collect_neurons
from errata.edit.settings.prefix_config import PrefixConfig
from errata.edit.settings.presets import FEW, GPT2_XL, SMOLLM2, preset
from errata.models import (
    LanguageModel,
    Place,
    direction_to_write,
    mlp_matrices,
    relative_norm,
    weight_of,
)


@dataclass(frozen=True, kw_only=True)
class KnowledgeNeuronsConfig(PrefixConfig):
    """Hyperparameters of Knowledge Neurons; the defaults are the published ones, but for `share` and `max_neurons`.

    layers: those that are searched.  steps: of the Riemann sum.  threshold: a neuron counts in a context when its
    attribution is above threshold · the largest of all layers.  share: it is kept when it counts in so much of the
    contexts (the fact's prompt alone and after each sampled prefix).  max_neurons: the strongest of them, for each
    fact.  (The published code moves its share until relations have 2 to 5 neurons a fact on average.)
    strength: what e_new − e_old is multiplied by.  signed: it is multiplied by the sign of the neuron's activation too;
    a guess sets it where MLPs are gated.
    """

    title: ClassVar[str] = "Knowledge Neurons"

    steps: int = 20
    threshold: float = 0.2
    share: float = 0.5
    strength: float = 2.0
    max_neurons: int = 20
    signed: bool = False

    def domain_checks(self) -> list[tuple[str, bool]]:
        return [
            (f"steps must be 1–1000, found {self.steps}", not 1 <= self.steps <= 1000),
            (f"threshold must be at least 0 and below 1, found {self.threshold}", not 0 <= self.threshold < 1),
            (f"share must be above 0 and at most 1, found {self.share}", not 0 < self.share <= 1),
            (f"strength must be positive, found {self.strength}", self.strength <= 0),
            (f"max_neurons must be at least 1, found {self.max_neurons}", self.max_neurons < 1),
            *super().domain_checks(),
        ]


def edit_neurons(task: EditTask) -> Edit:
    """Every fact's neurons, found on the model as it is; their updates summed.

    What is attributed is the true answer, or the model's own where a fact has none. Of answers of several tokens the
    first that differs counts. Facts whose new answer the model gives already are left as they are. Raises
    NumericsError, StorageError.
    """
    config: KnowledgeNeuronsConfig = task.config
    with task.stage("forward"):
        asked = fact_prompts(task)
    answered = {i for i, (said, new) in enumerate(zip(asked.said, asked.new, strict=True)) if said == new}
    same = {i for i, (old, new) in enumerate(zip(asked.old, asked.new, strict=True)) if old == new} - answered
    chosen = [i for i in range(len(task.facts)) if i not in answered | same]
    with task.stage("attribution"):
        held = _neurons(task, asked, chosen)
    neurons = dict(zip(chosen, held.neurons, strict=True))
    updates = _updates(task.lm, asked, neurons, config)
    metrics = {
        "layers": [_layer_metrics(task.lm, place, update, neurons) for place, update in updates.items()],
        "mean_neurons": sum(map(len, neurons.values())) / len(neurons) if neurons else 0.0,
        "already_known": len(answered),
        "own_answers": sum(task.facts[i].target_true is None for i in chosen),
    }
    missed = [
        {"id": task.facts[i].id, "reason": "no neuron is shared by enough contexts"} for i in chosen if not neurons[i]
    ]
    missed += [
        {"id": task.facts[i].id, "reason": "one of old and new answer begins with the other"} for i in sorted(same)
    ]
    return Edit(
        updates=updates,
        metrics=metrics,
        summary=_summary(task, metrics),
        warnings=_warnings(task.lm, missed),
        not_converged=tuple(missed),
        kept_seconds=held.kept_seconds,
    )


def _neurons(task: EditTask, asked: FactPrompts, chosen: Sequence[int]) -> Held:
    config: KnowledgeNeuronsConfig = task.config
    search = Search(
        layers=config.layers, steps=config.steps, threshold=config.threshold, share=config.share,
        max_neurons=config.max_neurons,
    )  # fmt: skip
    questions = [[Question(prompt, asked.old[i]) for prompt in asked.prompts[i]] for i in chosen]
    return collect_neurons(
        task.lm, questions, search, batch_size=task.batch_size, cache=task.cache, progress=task.progress,
        backend=task.backend,
    )  # fmt: skip


def _updates(
    lm: LanguageModel, asked: FactPrompts, held: Mapping[int, Mapping[Neuron, int]], config: KnowledgeNeuronsConfig
) -> dict[Place, WeightUpdate]:
    """ΔW of each layer: a one-hot row for each of its neurons, and the sum of what the facts write there."""
    head: Tensor = lm.lm_head.weight.detach()  # type: ignore[union-attr, operator]
    rows: dict[int, dict[int, Float64[Tensor, " d_model"]]] = defaultdict(dict)
    for i, neurons in held.items():
        value = config.strength * (head[asked.new[i]].double() - head[asked.old[i]].double())
        moves = {}
        for layer in {layer for layer, _ in neurons}:
            written = asked.written[layer][i : i + 1] if layer in asked.written else None
            moves[layer] = direction_to_write(lm, layer, written, value[None])[0].cpu()
        for (layer, neuron), sign in neurons.items():
            rows[layer][neuron] = rows[layer].get(neuron, 0) + (sign if config.signed else 1) * moves[layer]
    updates = {}
    for layer, values in sorted(rows.items()):
        order = sorted(values)
        left = torch.nn.functional.one_hot(torch.tensor(order), lm.d_mlp).double()
        updates[Place(layer, "down")] = WeightUpdate.from_factors(left, torch.stack([values[n] for n in order]))
    return updates


def _layer_metrics(
    lm: LanguageModel, place: Place, update: WeightUpdate, held: Mapping[int, Mapping[Neuron, int]]
) -> dict[str, Any]:
    neurons = {neuron for of_fact in held.values() for layer, neuron in of_fact if layer == place.layer}
    norm = relative_norm(update, weight_of(lm, place))
    return {"layer": place.layer, "neurons": len(neurons), "relative_norm": norm}


def _summary(task: EditTask, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    layers = metrics["layers"]
    norms = ", ".join(f"{one['layer']}: {one['neurons']} ({one['relative_norm']:.3f})" for one in layers)
    lines = [
        f"{metrics['mean_neurons']:.1f} neurons a fact; neurons by layer (‖ΔW‖/‖W‖): {norms or 'none'}.",
        f"Answered already and left alone: {metrics['already_known']} of {counted(len(task.facts), 'fact')}.",
    ]
    if metrics["own_answers"]:
        lines.append(
            f"Without target_true: {counted(metrics['own_answers'], 'fact')}; attributed instead: what the model says."
        )
    return tuple(lines)


def _warnings(lm: LanguageModel, missed: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    warnings = []
    if missed:
        reasons = sorted({one["reason"] for one in missed})
        warnings.append(
            f"Not written: {counted(len(missed), 'fact')} ({'; '.join(reasons)}); named in the report. A smaller share "
            "or threshold finds more neurons."
        )
    if lm.family.mlp_post_norm:
        warnings.append(
            f"{lm.name} has a norm behind each MLP, which undoes the scale that attributions integrate over: they say "
            "less than in other families."
        )
    return tuple(warnings)


def _guess(lm: LanguageModel) -> KnowledgeNeuronsConfig:
    """Every layer searched, with the published settings, which were measured on BERT."""
    return KnowledgeNeuronsConfig(layers=tuple(range(lm.num_layers)), signed="gate" in mlp_matrices(lm.family))


def _plan(config: KnowledgeNeuronsConfig) -> str:
    contexts = 1 + config.prefixes
    return (
        f"{counted(len(config.layers), 'layer')} searched, strength {config.strength:g}. To do: for each fact "
        f"{contexts} × "
        f"{config.steps} × {len(config.layers)} one-token passes (contexts × steps × layers)."
    )


KN_PRESETS = (
    preset(
        "SmolLM2-135M",
        FEW,
        SMOLLM2,
        KnowledgeNeuronsConfig(
            layers=tuple(range(10, 30)), prefixes=0, steps=10, max_neurons=5, strength=0.5, signed=True
        ),
    ),
    # As a baseline there: the prompt alone, and every neuron above the threshold.
    preset(
        "GPT-2 XL",
        "ROME's comparison",
        GPT2_XL,
        KnowledgeNeuronsConfig(layers=tuple(range(48)), prefixes=0, max_neurons=48 * 6400),
    ),
)


KNOWLEDGE_NEURONS = Method(
    name="kn",
    title="Knowledge Neurons (Dai et al. 2022)",
    writes=(
        "The columns of the few MLP neurons that hold the old answer, found by integrated gradients: the old answer's "
        "embedding is taken away and the new one's added."
    ),
    paper="Dai et al. 2022, Knowledge Neurons in Pretrained Transformers, arXiv:2104.08696",
    presets=KN_PRESETS,
    config_type=KnowledgeNeuronsConfig,
    guess=_guess,
    certain=frozenset({"threshold", "share", "strength"}),
    guessed=frozenset({"signed"}),
    plan=_plan,
    edit=edit_neurons,
    uses_prefixes=True,
)
