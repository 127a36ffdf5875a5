"""One step of gradient descent, the baseline of forward pass shifting (Katz et al. 2024, section 7 and figure 26).

sgd: W ← W − lr·G, G the gradient of the sum of the facts' losses, kept by its factors.  adam: the first step of Adam,
W ← W − lr·G/(|G| + ε), which is dense.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from errata.core.outer import GradientSum, OuterSum
from errata.core.steps import adam_first_step
from errata.core.updates import WeightUpdate
from errata.edit.method import Edit, EditTask, Method
from errata.edit.settings.method_config import MethodConfig
from errata.edit.settings.presets import SINGLE, SMOLLM2, preset
from errata.edit.training.target_losses import scored_rows, summed_nll
from errata.edit.values.prompt_rows import PromptRow
from errata.models import LanguageModel, Place, mlp_matrices, pad_right, relative_norm, run_backward, weight_of, widened
from errata.models.run.packing import packs

_AT_ONCE = 1024  # tokens of a forward and a backward, which keeps what every block computed
_DEPTH = 35 / 48  # the paper's layer of GPT2-xl
# Adam's rate in units of the weights' own size. With it, and with SgdConfig's rate, about half of a dozen facts flip on
# SmolLM2 at this depth; what each of them needs differs tenfold.
_ADAM_RATE = 0.03


@dataclass(frozen=True, kw_only=True)
class SgdConfig(MethodConfig):
    """Hyperparameters of a single step.

    layers: one or several.  matrices: which of each layer take the step: "down", the MLP's output projection, or "mlp".
    learning_rate: of the step.
    loss: of each fact, "first", the NLL of the target's first token (the paper's); or "target", of all its tokens, each
    after those before it. Losses are summed over tokens and facts.
    """

    title: ClassVar[str] = "Single step"

    learning_rate: float = 0.7
    matrices: Literal["down", "mlp"] = "down"
    loss: Literal["first", "target"] = "first"

    def domain_checks(self) -> list[tuple[str, bool]]:
        return [(f"learning_rate must be positive, found {self.learning_rate}", self.learning_rate <= 0)]


@dataclass(frozen=True, kw_only=True)
class AdamConfig(SgdConfig):
    """Hyperparameters of a single step of Adam, which moves nearly every weight by learning_rate."""

    learning_rate: float = 5e-3


def edit_sgd(task: EditTask) -> Edit:
    """One step of SGD on all facts. Raises NumericsError."""
    lr = task.config.learning_rate
    return _edit(task, lambda gradient: gradient.update(-lr))


def edit_adam(task: EditTask) -> Edit:
    """One step of Adam on all facts. Raises NumericsError."""
    lr = task.config.learning_rate
    return _edit(task, lambda gradient: adam_first_step(gradient.dense(), lr))


def _edit(task: EditTask, rule: Callable[[GradientSum], WeightUpdate]) -> Edit:
    lm, config = task.lm, task.config
    names = ("down",) if config.matrices == "down" else mlp_matrices(lm.family)
    places = [Place(layer, name) for layer in config.layers for name in names]
    rows = scored_rows(lm, task.facts, config.loss)
    with task.stage("gradient"), task.progress.stage("gradient", len(rows), "facts") as advance:
        gradients, losses = summed_gradients(lm, rows, places, advance)
    updates = {place: rule(gradient).cpu() for place, gradient in gradients.items()}
    norms = [
        {
            "layer": place.layer,
            "matrix": place.matrix,
            "relative_norm": relative_norm(update, weight_of(lm, place)),
        }
        for place, update in updates.items()
    ]
    said = ", ".join(f"{one['matrix']} of {one['layer']} {one['relative_norm']:.3g}" for one in norms)
    return Edit(
        updates=updates,
        metrics={"mean_loss_before": float(losses.mean()), "matrices": norms},
        summary=(f"Loss before the step {float(losses.mean()):.2f} nat a fact. ‖ΔW‖/‖W‖: {said}.",),
    )


def summed_gradients(
    lm: LanguageModel, rows: Sequence[PromptRow], places: Sequence[Place], advance: Callable[[int], None]
) -> tuple[Mapping[Place, GradientSum], Float[Tensor, " fact"]]:
    """The gradient of the sum of the rows' losses at `places`, and each loss (nats): one backward for each pack."""
    gradients = {place: GradientSum() for place in places}
    losses = torch.zeros(len(rows))
    for members in packs([len(row.ids) for row in rows], most_tokens=_AT_ONCE):
        chosen = [rows[i] for i in members]
        ids, mask = pad_right([row.ids for row in chosen], device=lm.embed_device)
        run = run_backward(lm, ids, mask, places, lambda hidden, chosen=chosen: summed_nll(lm, hidden, chosen))
        for place, total in gradients.items():
            rows_of = OuterSum(widened(run.inputs[place]).flatten(0, 1), run.vjps[place].flatten(0, 1))
            total.add_(rows_of.nonzero())
        losses[torch.tensor(members)] = run.losses.float().cpu()
        advance(len(members))
    return gradients, losses


def _guess_layer(lm: LanguageModel) -> int:
    """The paper's relative depth."""
    return min(lm.num_layers - 1, round(_DEPTH * lm.num_layers))


def _guess_adam(lm: LanguageModel) -> AdamConfig:
    layer = _guess_layer(lm)
    size = float(lm.down_weight(layer).float().square().mean().sqrt())
    return AdamConfig(layers=(layer,), learning_rate=float(f"{_ADAM_RATE * size:.2g}"))


def _plan(config: SgdConfig) -> str:
    layers = ", ".join(map(str, config.layers))
    return (
        f"layers {layers} ({config.matrices}), rate {config.learning_rate:g}. To do: one forward and backward a fact."
    )


SGD_PRESETS = (preset("SmolLM2-135M", SINGLE, SMOLLM2, SgdConfig(layers=(20,), learning_rate=1.0)),)
ADAM_PRESETS = (
    preset("SmolLM2-135M", "measured with 25 single edits", SMOLLM2, AdamConfig(layers=(14,), learning_rate=0.01)),
)


SGD = Method(
    name="sgd",
    title="one step of SGD (Katz et al. 2024's baseline)",
    writes="One step of gradient descent on the chosen layers, all facts together.",
    paper="Katz et al. 2024, Backward Lens, arXiv:2402.12865",
    presets=SGD_PRESETS,
    config_type=SgdConfig,
    guess=lambda lm: SgdConfig(layers=(_guess_layer(lm),)),
    certain=frozenset({"layers", "learning_rate"}),
    plan=_plan,
    edit=edit_sgd,
)
ADAM = Method(
    name="adam",
    title="one step of Adam (Katz et al. 2024's baseline)",
    writes="One step of Adam on the chosen layers, which moves nearly every weight by the learning rate.",
    paper="Kingma and Ba 2015, Adam: A Method for Stochastic Optimization, arXiv:1412.6980",
    presets=ADAM_PRESETS,
    config_type=AdamConfig,
    guess=_guess_adam,
    certain=frozenset({"layers", "learning_rate"}),
    guessed=frozenset({"learning_rate"}),
    plan=_plan,
    edit=edit_adam,
)
