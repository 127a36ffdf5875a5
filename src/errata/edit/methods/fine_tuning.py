"""Fine-tuning of one block, the baseline of ROME's and MEMIT's papers: plain (FT), constrained (FT-L), decayed (FT-W).

Adam on the NLL of the targets after their bare prompts. What the published code does, and this does too: the loss of a
step is the mean over facts of the mean over target tokens; a step whose loss is below stop_loss makes no update; and
weight_decay is Adam's L2 term, λW added to the gradient (torch.optim.Adam), not AdamW's. What is different: the targets
are scored after one another (`loss`), facts are shuffled in every epoch, and norms and biases are left alone, since a
patch holds matrices (the published code trains the biases of what it names, and the block's norms under FT-W).
"""

from typing import Any

from errata.core.words import counted
from errata.edit.method import Edit, EditTask, Method
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


FT = Method(
    name="ft",
    title="fine-tuning of one layer (FT)",
    config_type=FineTuningConfig,
    guess=lambda lm: FineTuningConfig(layers=(guess_layer(lm),)),
    certain=frozenset({"layers", "learning_rate"}),
    plan=_plan,
    edit=edit_fine_tuning,
)
FT_L = Method(
    name="ft-l",
    title="fine-tuning within a bound (FT-L, Zhu et al. 2020)",
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
    config_type=DecayedConfig,
    guess=lambda lm: DecayedConfig(layers=(guess_layer(lm),)),
    certain=frozenset({"layers", "learning_rate", "weight_decay"}),
    plan=_plan,
    edit=edit_fine_tuning,
)
