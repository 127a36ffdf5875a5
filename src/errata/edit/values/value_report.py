"""What is told of an edit by target values: metrics, lines of a summary, and warnings of what went wrong."""

from collections.abc import Sequence
from typing import Any

from errata.core.words import counted
from errata.edit.values.layer_loop import Solution
from errata.edit.values.robustness import REACH
from errata.edit.values.second_try import POOR_NLL
from errata.edit.values.targets import TargetValues
from errata.facts import Fact
from errata.models import LanguageModel

# Of the wanted change at the last edited layer, this much must be left for a warning. Measured on SmolLM2: 3 % is left
# with 100 facts, 37 % with 1,000, where the layers are full, and nearly all of it with a λ meant for a larger model.
_RESIDUAL_LEFT = 0.5
# ‖ΔW‖/‖W‖ beyond which neighbours suffer. Measured on SmolLM2: no loss of NS at 0.55 (100 facts), 8 points at 1.6 and
# 15 at 3.1 (1,000 facts, λ 3,000 and 100).
_UPDATE_TOO_LARGE = 1.0


def warn_of_last_layer(lm: LanguageModel, layers: Sequence[int]) -> tuple[str, ...]:
    """A warning where what is written at subjects can reach no later token."""
    if layers[-1] < lm.num_layers - 1:
        return ()
    return (
        f"layers ends at {lm.name}'s last layer, {lm.num_layers - 1}: no attention above it carries what is "
        "written at a subject to where the answer is read. Prompts that go on after the subject will not change; "
        "end lower.",
    )


def value_metrics(values: TargetValues) -> dict[str, Any]:
    """How the optimisation of the target values ended, as plain JSON."""
    return {
        "mean_nll_before": float(values.first_nll.mean()),
        "mean_nll": float(values.nll.mean()),
        "mean_short_nll": float(values.short_nll.mean()),
        "mean_kl": float(values.kl.mean()),
        "mean_updates": float(values.updates.float().mean()),
        "converged": int(values.converged.sum()),
        "second_tries": len(values.second_tries),
        "second_tries_found": sum(float(values.nll[i]) <= POOR_NLL for i in values.second_tries),
    }


def value_summary(values: dict[str, Any], facts: int) -> str:
    """The same in a line or two."""
    return (
        f"Target values: NLL {values['mean_nll_before']:.2f} → {values['mean_nll']:.2f} nat in "
        f"{values['mean_updates']:.1f} updates ({values['mean_short_nll']:.2f} where only {REACH:.0%} of the way is "
        f"reached); {values['converged']:,} of {facts:,} below stop_loss."
        f"{_second_tries(values)}"
    )


def _second_tries(values: dict[str, Any]) -> str:
    tries, good = values["second_tries"], values["second_tries_found"]
    if not tries:
        return ""
    return f" {counted(tries, 'fact')} needed a second try, {good:,} of them found a value."


def value_facts(values: TargetValues) -> list[dict[str, Any]]:
    """Of each fact: the NLL (nats) of its target value, and whether it had a second try."""
    return [{"nll": nll, "second_try": i in set(values.second_tries)} for i, nll in enumerate(values.nll.tolist())]


def warn_of_stuck(values: TargetValues) -> list[str]:
    """A warning where facts found no target value."""
    stuck = int((values.nll > POOR_NLL).sum())
    if not stuck:
        return []
    return [
        f"{stuck} of {counted(len(values.nll), 'fact')} found no target value (less than half of the probability for "
        "the answer's tokens); a larger clamp or more value_steps may help."
    ]


def diagnose(values: TargetValues, solution: Solution, strength: str) -> list[str]:
    """Warnings about an edit that did not land, that moved the weights too far, or whose facts could not be learned."""
    warnings = []
    start, end = float(solution.start_residual.mean()), float(solution.end_residual.mean())
    if start and end / start > _RESIDUAL_LEFT:
        warnings.append(
            f"The residual did not land: {end:.3g} of {start:.3g} is left. {strength} may be too large for this "
            "model's second moments (try a tenth), or the layers are full (edit fewer facts)."
        )
    large = [edit for edit in solution.layers if edit.relative_norm > _UPDATE_TOO_LARGE]
    if large:
        norms = ", ".join(f"{edit.relative_norm:.2f} at layer {edit.layer}" for edit in large)
        warnings.append(
            f"The update is out of proportion: ‖ΔW‖/‖W‖ = {norms}. Other facts will suffer; raise {strength} (the "
            "target values are reused), edit fewer facts at once, or add layers."
        )
    return [*warnings, *_warn_of_jitter(solution, strength), *warn_of_stuck(values)]


def _warn_of_jitter(solution: Solution, strength: str) -> list[str]:
    """What was singular where a solve needed jitter: the second moment, or the keys' system with so weak a prior."""
    warnings = []
    for edit in solution.layers:
        if edit.moment_jitter:
            warnings.append(
                f"Layer {edit.layer}'s second moment is singular (it needed jitter {edit.moment_jitter:.0e}); use more "
                "moment_tokens."
            )
        if edit.jitter > edit.moment_jitter:
            warnings.append(
                f"Layer {edit.layer}'s system needed jitter {edit.jitter:.0e}: {strength} is too small beside its "
                "keys; raise it."
            )
    return warnings


def landing_metrics(solution: Solution) -> dict[str, Any]:
    """How much of the wanted change landed, and what each layer took of it, as plain JSON."""
    start, end = float(solution.start_residual.mean()), float(solution.end_residual.mean())
    return {
        "residual": {"start": start, "end": end, "landed": 1 - end / start if start else 1.0},
        "layers": [
            {"layer": e.layer, "residual_before": e.residual, "relative_norm": e.relative_norm, "lost": e.lost,
            "form": e.form, "jitter": e.jitter} for e in solution.layers
        ],
    }  # fmt: skip


def landing_summary(metrics: dict[str, Any]) -> str:
    """The same in a line."""
    residual, layers = metrics["residual"], metrics["layers"]
    norms = ", ".join(f"{e['layer']}: {e['relative_norm']:.3f}" for e in layers)
    return (
        f"Residual at layer {layers[-1]['layer']}: {residual['start']:.3g} before, {residual['end']:.3g} "
        f"after ({100 * residual['landed']:.0f} % landed). ‖ΔW‖/‖W‖ by layer: {norms}."
    )


def landing_facts(values: TargetValues, solution: Solution) -> list[dict[str, Any]]:
    """What `value_facts` says, and the share of the wanted change that is left."""
    shares = (solution.end_residual / solution.start_residual.clamp_min(1e-30)).tolist()
    return [{**one, "left": share} for one, share in zip(value_facts(values), shares, strict=True)]


def missed_facts(facts: Sequence[Fact], values: TargetValues, solution: Solution) -> list[dict[str, Any]]:
    """The facts whose optimisation did not come below stop_loss, with what is left of each, as plain JSON."""
    rows = zip(facts, values.loss, values.nll, solution.end_residual, values.converged.tolist(), strict=True)
    return [
        {"id": fact.id, "loss": float(loss), "nll": float(nll), "residual": float(end)}
        for fact, loss, nll, end, done in rows
        if not done
    ]
