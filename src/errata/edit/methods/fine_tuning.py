"""Fine-tuning of one block, the baseline of ROME's and MEMIT's papers: plain (FT), constrained (FT-L), decayed (FT-W).

Adam on the NLL of the targets after their bare prompts. What the published code does, and this does too: the loss of a
step is the mean over facts of the mean over target tokens; a step whose loss is below stop_loss makes no update; and
weight_decay is Adam's L2 term, λW added to the gradient (torch.optim.Adam), not AdamW's. What is different: the targets
are scored after one another (`loss`), facts are shuffled in every epoch, and norms and biases are left alone, since a
patch holds matrices (the published code trains the biases of what it names, and the block's norms under FT-W).
"""

import math
from typing import Any

from errata.core.words import counted
from errata.edit.method import Edit, EditTask, Method
from errata.edit.settings.presets import (
    FEW,
    GPT2_LARGE,
    GPT2_MEDIUM,
    GPT2_XL,
    GPT_J,
    LLAMA_2,
    LLAMA_3,
    LLAMA_32,
    MISTRAL,
    QWEN2,
    SMOLLM2,
    preset,
)
from errata.edit.settings.search_space import SearchSpace
from errata.edit.settings.training_config import ConstrainedConfig, DecayedConfig, FineTuningConfig
from errata.edit.training.checkpoint import Checkpoint
from errata.edit.training.descent import Training, train
from errata.edit.training.target_losses import scored_rows
from errata.facts import Fact
from errata.models import LanguageModel, Place, matrices, mlp_matrices

# FT's and FT-W's published layer, 21 of GPT-J's 28.
_DEPTH = 21 / 28
# ε of FT-L falls with the width: 2e-3 at GPT-2 medium's 1,024, 5e-5 at GPT-J's 4,096.
_WIDEST_LINF, _LINF_WIDTH, _LINF_FALL = 2e-3, 1024, 2.7


def edit_fine_tuning(task: EditTask) -> Edit:
    """Train the chosen matrices on all facts of the task. Raises NumericsError, StorageError."""
    config: FineTuningConfig = task.config
    (layer,) = config.layers
    places = [Place(layer, matrix) for matrix in trained_matrices(task.lm, config)]
    rows = scored_rows(task.lm, task.facts, "target" if config.loss == "teacher_forced" else "prompt_last")
    checkpoint = Checkpoint.of(task.lm, rows, config, task.cache)
    with task.stage("training"):
        training = train(task.lm, rows, places, config, checkpoint, task.progress)
    metrics = _metrics(training, config)
    return Edit(
        updates=training.updates,
        metrics=metrics,
        summary=(_summary(metrics, config),),
        warnings=_warnings(metrics, config),
        not_converged=tuple(_missed(task.facts, training, config)),
    )


def trained_matrices(lm: LanguageModel, config: FineTuningConfig) -> tuple[str, ...]:
    """The names of the matrices that `config.matrices` means in this family."""
    return {"down": ("down",), "mlp": mlp_matrices(lm.family), "block": matrices(lm.family)}[config.matrices]


def _metrics(training: Training, config: FineTuningConfig) -> dict[str, Any]:
    final = float(training.losses.mean())
    return {
        "epoch_losses": training.epoch_losses,
        "epochs": len(training.epoch_losses),
        "steps": training.steps,
        "final_loss": final,
        "stop_loss_reached": min(final, training.epoch_losses[-1]) < config.stop_loss,
        "matrices": [
            {"layer": place.layer, "matrix": place.matrix, "relative_norm": norm}
            for place, norm in training.relative_norms.items()
        ],
    }


def _summary(metrics: dict[str, Any], config: FineTuningConfig) -> str:
    norms = ", ".join(f"{one['matrix']} {one['relative_norm']:.3f}" for one in metrics["matrices"])
    return (
        f"Loss {metrics['epoch_losses'][0]:.2f} → {metrics['final_loss']:.3g} nat a target token in "
        f"{counted(metrics['epochs'], 'epoch')}, {counted(metrics['steps'], 'update')}. ‖ΔW‖/‖W‖ at layer "
        f"{config.layers[0]}: {norms}."
    )


def _warnings(metrics: dict[str, Any], config: FineTuningConfig) -> tuple[str, ...]:
    if metrics["stop_loss_reached"]:
        return ()
    bound = f" linf={config.linf:g} may be too tight;" if config.linf else ""
    return (
        f"Fine-tuning ended at a loss of {metrics['final_loss']:.3g} nat, not below stop_loss={config.stop_loss:g}:"
        f"{bound} more epochs (now {config.epochs}) or another learning_rate ({config.learning_rate:g}) may help.",
    )


def _missed(facts: tuple[Fact, ...], training: Training, config: FineTuningConfig) -> list[dict[str, Any]]:
    rows = zip(facts, training.losses.tolist(), strict=True)
    return [{"id": fact.id, "loss": loss} for fact, loss in rows if not loss < config.stop_loss]


def guess_layer(lm: LanguageModel) -> int:
    """The published layer's relative depth."""
    return min(round(_DEPTH * lm.num_layers), lm.num_layers - 1)


def guess_linf(lm: LanguageModel) -> float:
    """ε by the model's width, along the published ones; never more than the largest of them."""
    return float(f"{min(1.0, (_LINF_WIDTH / lm.d_model) ** _LINF_FALL) * _WIDEST_LINF:.2g}")


def _plan(config: FineTuningConfig) -> str:
    bounds = (f", |ΔW| ≤ {config.linf:g}" if config.linf else "") + (
        f", weight decay {config.weight_decay:g}" if config.weight_decay else ""
    )
    trained = {"down": "the down projection", "mlp": "the MLP", "block": "the block"}[config.matrices]
    return (
        f"layer {config.layers[0]}, {trained}, rate {config.learning_rate:g}{bounds}. To do: at most {config.epochs} "
        "epochs of forwards and backwards from that layer on."
    )


# The published code trains the down projection alone. EasyEdit's settings score every target token at the prompt's
# last position, a fact at a time.
_FT_EASYEDIT = {"matrices": "down", "loss": "prompt_last", "facts_a_step": 1}


def _ft_easyedit(layer: int) -> FineTuningConfig:
    return FineTuningConfig(layers=(layer,), **_FT_EASYEDIT)


FT_PRESETS = (
    preset("SmolLM2-135M", FEW, SMOLLM2, FineTuningConfig(layers=(14,))),
    preset("GPT-2 XL", "ROME", GPT2_XL, FineTuningConfig(layers=(1,), matrices="down")),
    preset("GPT-J 6B", "ROME", GPT_J, FineTuningConfig(layers=(21,), matrices="down")),
    preset("Llama-2-7B", "EasyEdit", LLAMA_2, _ft_easyedit(21)),
    preset("Llama-3-8B", "EasyEdit", LLAMA_3, _ft_easyedit(21)),
    preset("Llama-3.2-3B", "EasyEdit", LLAMA_32, _ft_easyedit(21)),
    preset("Mistral-7B", "EasyEdit", MISTRAL, _ft_easyedit(21)),
    preset("Qwen2-7B, Qwen2.5-7B", "EasyEdit", QWEN2, _ft_easyedit(27)),
)


def _ft_l(linf: float) -> ConstrainedConfig:
    return ConstrainedConfig(layers=(0,), matrices="down", linf=linf)


FT_L_PRESETS = (
    preset("SmolLM2-135M", FEW, SMOLLM2, ConstrainedConfig(layers=(5,), linf=2e-3)),
    preset("GPT-2 medium", "ROME", GPT2_MEDIUM, _ft_l(2e-3)),
    preset("GPT-2 large", "ROME", GPT2_LARGE, _ft_l(1e-3)),
    preset("GPT-2 XL", "ROME", GPT2_XL, _ft_l(5e-4)),
    preset("GPT-J 6B", "ROME", GPT_J, _ft_l(5e-5)),
)


def _published_decay(facts: int) -> float:
    """λ by the number of facts, e^0.15589562 · n^−0.87028798: the power law in MEMIT's file of GPT-J's FT-W."""
    return float(f"{math.exp(0.15589562) * facts**-0.87028798:.3g}")


FT_W_PRESETS = (
    preset("SmolLM2-135M", FEW, SMOLLM2, DecayedConfig(layers=(14,))),
    *(
        preset(
            "GPT-J 6B" if facts == 1 else f"GPT-J 6B, from {facts:,} facts on",
            "MEMIT",
            GPT_J,
            DecayedConfig(layers=(21,), weight_decay=_published_decay(facts)),
            least_facts=0 if facts == 1 else facts,
        )
        for facts in (1, 10, 100, 1000, 10_000)
    ),
)


_TRIED_RATES: tuple[tuple[str, Any], ...] = (("learning_rate", 1e-4), ("learning_rate", 2e-3), ("learning_rate", 5e-4))
_TRIED_DEPTHS = (0.0, 0.17, 0.3, 0.47, 0.75)
_TRIED_BOUNDS: tuple[tuple[str, Any], ...] = (("linf", 5e-4), ("linf", 2e-3), ("linf", 5e-3))

FT = Method(
    name="ft",
    title="fine-tuning of one layer (FT)",
    writes="One layer, fine-tuned on the facts until they are said; a baseline.",
    paper="the baseline of Meng et al. 2022, arXiv:2202.05262",
    presets=FT_PRESETS,
    search_space=SearchSpace(depths=_TRIED_DEPTHS, costly=_TRIED_RATES),
    config_type=FineTuningConfig,
    guess=lambda lm: FineTuningConfig(layers=(guess_layer(lm),)),
    certain=frozenset({"layers", "learning_rate"}),
    plan=_plan,
    edit=edit_fine_tuning,
)
FT_L = Method(
    name="ft-l",
    title="fine-tuning within a bound (FT-L, Zhu et al. 2020)",
    writes="As ft, and no weight moves further than a bound.",
    paper="Zhu et al. 2020, Modifying Memories in Transformer Models, arXiv:2012.00363",
    presets=FT_L_PRESETS,
    search_space=SearchSpace(depths=_TRIED_DEPTHS, costly=(*_TRIED_RATES, *_TRIED_BOUNDS)),
    config_type=ConstrainedConfig,
    # All published rows constrain layer 0.
    guess=lambda lm: ConstrainedConfig(layers=(0,), linf=guess_linf(lm)),
    certain=frozenset({"layers", "learning_rate", "linf"}),
    guessed=frozenset({"linf"}),
    plan=_plan,
    edit=edit_fine_tuning,
)
FT_W = Method(
    name="ft-w",
    title="fine-tuning of one block with weight decay (FT-W)",
    writes="A whole block, fine-tuned with weight decay; a baseline.",
    paper="the baseline of Meng et al. 2023, arXiv:2210.07229",
    presets=FT_W_PRESETS,
    config_type=DecayedConfig,
    guess=lambda lm: DecayedConfig(layers=(guess_layer(lm),)),
    certain=frozenset({"layers", "learning_rate", "weight_decay"}),
    plan=_plan,
    edit=edit_fine_tuning,
)
