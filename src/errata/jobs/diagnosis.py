"""What the numbers of an edit warn of, in words, with what to do about it."""

from errata.edit import MemitConfig, MemitSolution, TargetValues

# Of the wanted change at the last edited layer, this much must be left for a warning. Measured on SmolLM2: 3 % is left
# with 100 facts, 37 % with 1,000, where the layers are full, and nearly all of it with a λ meant for a larger model.
_RESIDUAL_LEFT = 0.5
# ‖ΔW‖/‖W‖ beyond which neighbours suffer. Measured on SmolLM2: no loss of NS at 0.55 (100 facts), 8 points at 1.6 and
# 15 at 3.1 (1,000 facts, λ 3,000 and 100).
_UPDATE_TOO_LARGE = 1.0
_STUCK_NLL = 1.0


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
