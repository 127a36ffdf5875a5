"""MEMIT (Meng et al. 2023): thousands of facts at once into a range of MLP layers.

Target values (targets.py, collect.py), then the layer loop (layer_loop.py); configuration in config.py.
"""

from collections.abc import Sequence
from typing import Any

from errata.edit.collect import collect_values
from errata.edit.config import MemitConfig
from errata.edit.layer_loop import MemitSolution, solve
from errata.edit.memit_presets import PRESETS, guess
from errata.edit.method import Edit, EditTask, Method
from errata.edit.targets import TargetValues
from errata.facts import Fact
from errata.models import LanguageModel, Place

# Of the wanted change at the last edited layer, this much must be left for a warning. Measured on SmolLM2: 3 % is left
# with 100 facts, 37 % with 1,000, where the layers are full, and nearly all of it with a λ meant for a larger model.
_RESIDUAL_LEFT = 0.5
# ‖ΔW‖/‖W‖ beyond which neighbours suffer. Measured on SmolLM2: no loss of NS at 0.55 (100 facts), 8 points at 1.6 and
# 15 at 3.1 (1,000 facts, λ 3,000 and 100).
_UPDATE_TOO_LARGE = 1.0
_STUCK_NLL = 1.0


def edit_memit(task: EditTask) -> Edit:
    """All facts of the task written at once. Raises NumericsError, SingularSystemError, StorageError."""
    config: MemitConfig = task.config
    cache = None if task.cache is None else task.cache / "values"
    with task.stage("target_values"):
        values = collect_values(
            task.lm, task.facts, config, task.prefixes,
            batch_size=task.batch_size, cache=cache, progress=task.progress, notify=task.progress.note,
        )  # fmt: skip
    with task.stage("solve"):
        moments = task.second_moments().layers
        solution = solve(task.lm, task.facts, values.value, moments, config, task.prefixes, task.progress)
    metrics = _metrics(values, solution)
    return Edit(
        updates={Place(layer.layer, "down"): layer.update for layer in solution.layers},
        metrics=metrics,
        summary=_summary(metrics, len(task.facts)),
        warnings=(*_warn_of_last_layer(task.lm, config), *diagnose(values, solution, config)),
        not_converged=tuple(_missed(task.facts, values, solution)),
        values=values.value.cpu(),
        keys={layer.layer: layer.keys for layer in solution.layers},
    )


def _warn_of_last_layer(lm: LanguageModel, config: MemitConfig) -> tuple[str, ...]:
    if config.layers[-1] < lm.num_layers - 1:
        return ()
    return (
        f"layers ends at {lm.name}'s last layer, {lm.num_layers - 1}: no attention above it carries what is "
        "written at a subject to where the answer is read. Prompts that go on after the subject will not change; "
        "end lower.",
    )


def _plan(config: MemitConfig) -> str:
    passes = "one pass" if config.passes == 1 else f"{config.passes} passes"
    layers = ", ".join(map(str, config.layers))
    return (
        f"layers {layers}, λ = {config.prior_weight:g}, {config.value_steps} steps, {passes}. To do: second moments, "
        "target values, one solve a layer and pass."
    )


def _metrics(values: TargetValues, solution: MemitSolution) -> dict[str, Any]:
    start, end = float(solution.start_residual.mean()), float(solution.end_residual.mean())
    return {
        "residual": {"start": start, "end": end, "landed": 1 - end / start if start else 1.0},
        "layers": [
            {"layer": e.layer, "residual_before": e.residual, "relative_norm": e.relative_norm, "form": e.form,
            "jitter": e.jitter} for e in solution.layers
        ],
        "target_values": {
            "mean_nll_before": float(values.first_nll.mean()),
            "mean_nll": float(values.nll.mean()),
            "mean_kl": float(values.kl.mean()),
            "mean_updates": float(values.updates.float().mean()),
            "converged": int(values.converged.sum()),
        },
    }  # fmt: skip


def _summary(metrics: dict[str, Any], facts: int) -> tuple[str, ...]:
    residual, values, layers = metrics["residual"], metrics["target_values"], metrics["layers"]
    norms = ", ".join(f"{e['layer']}: {e['relative_norm']:.3f}" for e in layers)
    return (
        f"Residual at layer {layers[-1]['layer']}: {residual['start']:.3g} before, {residual['end']:.3g} "
        f"after ({100 * residual['landed']:.0f} % landed). ‖ΔW‖/‖W‖ by layer: {norms}.",
        f"Target values: NLL {values['mean_nll_before']:.2f} → {values['mean_nll']:.2f} nat in "
        f"{values['mean_updates']:.1f} updates; {values['converged']:,} of {facts:,} below stop_loss.",
    )


def _missed(facts: Sequence[Fact], values: TargetValues, solution: MemitSolution) -> list[dict[str, Any]]:
    rows = zip(facts, values.loss, values.nll, solution.end_residual, values.converged.tolist(), strict=True)
    return [
        {"id": fact.id, "loss": float(loss), "nll": float(nll), "residual": float(end)}
        for fact, loss, nll, end, done in rows
        if not done
    ]


def diagnose(values: TargetValues, solution: MemitSolution, config: MemitConfig) -> list[str]:
    """Warnings about an edit that did not land, that moved the weights too far, or whose facts could not be learned."""
    warnings = []
    start, end = float(solution.start_residual.mean()), float(solution.end_residual.mean())
    if start and end / start > _RESIDUAL_LEFT:
        weight = config.prior_weight
        warnings.append(
            f"The residual did not land: {end:.3g} of {start:.3g} is left. prior_weight={weight:g} may be too large "
            f"for this model's second moments (try {weight / 10:g}), or the layers are full (edit fewer facts)."
        )
    large = [edit for edit in solution.layers if edit.relative_norm > _UPDATE_TOO_LARGE]
    if large:
        norms = ", ".join(f"{edit.relative_norm:.2f} at layer {edit.layer}" for edit in large)
        warnings.append(
            f"The update is out of proportion: ‖ΔW‖/‖W‖ = {norms}. Other facts will suffer; raise prior_weight (now "
            f"{config.prior_weight:g}; the target values are reused), edit fewer facts at once, or add layers."
        )
    warnings += [
        f"Layer {edit.layer}'s system needed jitter {edit.jitter:.0e}: its second moment is singular; use more "
        "moment_tokens."
        for edit in solution.layers
        if edit.jitter
    ]
    stuck = int((values.nll > _STUCK_NLL).sum())
    if stuck:
        warnings.append(
            f"{stuck} of {len(values.nll)} facts found no target value (NLL above {_STUCK_NLL:g} nat); a larger clamp "
            "or more value_steps may help."
        )
    return warnings


MEMIT = Method(
    name="memit",
    title="MEMIT (Meng et al. 2023)",
    config_type=MemitConfig,
    presets=PRESETS,
    guess=guess,
    certain=frozenset({"layers", "prior_weight"}),
    plan=_plan,
    edit=edit_memit,
    uses_moments=lambda _: True,
    uses_prefixes=True,
)
