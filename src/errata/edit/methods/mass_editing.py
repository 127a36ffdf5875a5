"""What MEMIT and its kin do alike: target values for all facts, the layer loop with the method's rule, diagnoses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from errata.core.words import counted
from errata.edit.guard import Guarded, failure, guarded
from errata.edit.method import Edit, EditTask
from errata.edit.settings.search_space import SearchSpace
from errata.edit.settings.value_config import ValueConfig
from errata.edit.values.collect import collect_values
from errata.edit.values.layer_loop import Rule, Solution, solve
from errata.edit.values.robustness import REACH
from errata.edit.values.second_try import POOR_NLL, with_second_try
from errata.edit.values.targets import TargetValues
from errata.edit.values.value_problem import Site
from errata.facts import Fact
from errata.models import LanguageModel, Place, encode_targets

# A layer's rule for a strength of what holds it back.
RuleOf = Callable[[float], Rule]
# What a guess takes where nothing was measured: rates free of scale, as SmolLM2's are beside its stream; steps enough
# for slow facts (one in eight of small models of every family was not there after 20), and as many passes as it takes
# to land.
GUESSED_STEPS: Mapping[str, Any] = {
    "value_unit": "start", "learning_rate": 0.12, "weight_decay": 0.005, "value_steps": 30, "retries": 2,
}  # fmt: skip
GUESSED_VALUES: Mapping[str, Any] = {**GUESSED_STEPS, "passes": 5, "enough": 0.05}
# Of a stream's usual size behind norms, which is well above what it holds where the lower norms' gains are smaller: on
# Gemma-3-270M half of it finds every value that 0.75 of it does, and spares neighbours (docs/results.md).
_GUESSED_CLAMP = 0.5
# Fields that mean something only in the unit that another one names.
VALUE_UNITS = {"value_unit": frozenset({"learning_rate", "weight_decay"})}
# Of the wanted change at the last edited layer, this much must be left for a warning. Measured on SmolLM2: 3 % is left
# with 100 facts, 37 % with 1,000, where the layers are full, and nearly all of it with a λ meant for a larger model.
_RESIDUAL_LEFT = 0.5
# ‖ΔW‖/‖W‖ beyond which neighbours suffer. Measured on SmolLM2: no loss of NS at 0.55 (100 facts), 8 points at 1.6 and
# 15 at 3.1 (1,000 facts, λ 3,000 and 100).
_UPDATE_TOO_LARGE = 1.0


# How the target values of the kin's presets for the embedded model were found.
MEASURED: Mapping[str, Any] = {"clamp": 1.0, "passes": 2, "moment_tokens": 10_000, "prefix_source": "fixed"}
# Where target values take half an hour, the schedule that needs half the updates (as good: benchmarks/README.md).
THOUSAND: Mapping[str, Any] = {**MEASURED, "schedule": "fast"}

_TRIED_VALUES: tuple[tuple[str, Any], ...] = (
    ("clamp", 1.0), ("learning_rate", 0.25), ("clamp", 0.75), ("value_steps", 25), ("clamp", 2.0),
    ("learning_rate", 0.1), ("clamp", 0.5), ("clamp", 4.0), ("value_steps", 20),
)  # fmt: skip


def mass_search_space(strength: str, **late: tuple[float, ...]) -> SearchSpace:
    """What is tried of a method with a layer loop: ranges that end around a third of the way up, and target values."""
    return SearchSpace(
        depths=(0.15, 0.23, 0.3, 0.38, 0.47, 0.6),
        widths=(3, 5, 1, 7),
        costly=_TRIED_VALUES,
        strength=strength,
        late={"passes": (2.0, 0.5), **late},
    )


def guessed_values(lm: LanguageModel) -> Mapping[str, Any]:
    """What a guess takes for target values of the stream, and for passes."""
    return {**GUESSED_VALUES, "clamp": _GUESSED_CLAMP} if lm.family.post_norm else GUESSED_VALUES


@dataclass(frozen=True, kw_only=True)
class MassConfig(ValueConfig):
    """What methods with a layer loop add to the hyperparameters of target values.

    passes: how often the layer loop runs; 1 is published, each further pass corrects what the ones before left. The
    prior then weighs the increment of each pass, not their sum.
    enough: the passes end early where less than this share of the residual is left; 0 runs them all.
    moment_tokens: corpus tokens behind the second moments.
    """

    passes: int = 1
    enough: float = 0.0
    moment_tokens: int = 100_000

    def domain_checks(self) -> list[tuple[str, bool]]:
        return [
            *super().domain_checks(),
            (f"passes must be 1–100, found {self.passes}", not 1 <= self.passes <= 100),
            (f"enough must be at least 0 and below 1, found {self.enough}", not 0 <= self.enough < 1),
        ]


def edit_by_values(
    task: EditTask,
    rule_of: RuleOf,
    *,
    strength: tuple[str, float],
    site: Site = "block",
    spread: Literal["even", "root"] = "even",
) -> Edit:
    """All facts of the task written at once by the rule of `strength`, the name and value of what holds it back.

    It is raised where the update is out of proportion otherwise (guard.py). Raises NumericsError, SingularSystemError,
    StorageError.
    """
    config: MassConfig = task.config
    values = values_of(task, site)

    def attempt(weight: float) -> Solution:
        return solve(
            task.lm, task.facts, values.value, rule_of(weight), config.layers, task.prefixes, passes=config.passes,
            enough=config.enough, spread=spread, reads="block" if site == "block" else "mlp", progress=task.progress,
        )  # fmt: skip

    name, weight = strength
    with task.stage("solve"):
        kept = guarded(task.lm, task.facts, attempt, weight, size=float(values.start_norm.mean()), name=name)
    solution, said = kept.solution, f"{name}={kept.strength:g}"
    metrics = {**_landing(solution), "target_values": value_metrics(values), "guard": kept.metrics(name)}
    return Edit(
        updates={Place(layer.layer, "down"): layer.update for layer in solution.layers},
        metrics=metrics,
        summary=(_landed(metrics), value_summary(metrics["target_values"], len(task.facts))),
        warnings=(
            *warn_of_last_layer(task.lm, config.layers),
            *_warn_of_raised(kept, name),
            *diagnose(values, solution, said),
        ),
        failed=None if kept.excess is None else failure(kept.excess),
        not_converged=tuple(_missed(task.facts, values, solution)),
        per_fact=tuple(_per_fact(values, solution)),
        values=values.value.cpu(),
        kept_seconds=values.kept_seconds,
        keys={layer.layer: layer.keys for layer in solution.layers},
    )


def _warn_of_raised(kept: Guarded, name: str) -> list[str]:
    """What was given up for a stronger prior, and why."""
    if not kept.given_up:
        return []
    first = kept.given_up[0]
    return [
        f"{name} was raised from {first[name]:g} to {kept.strength:g}: with less, {first['because']}. Set it to what "
        "suits this model, and compare."
    ]


def values_of(task: EditTask, site: Site) -> TargetValues:
    """The task's target values, from the cache where they are known, with a second try where the first found none."""
    cache = None if task.cache is None else task.cache / "values"

    def collect(facts: Sequence[Fact], config: ValueConfig) -> TargetValues:
        return collect_values(
            task.lm, facts, config, task.prefixes, site=site, batch_size=task.batch_size, cache=cache,
            progress=task.progress, notify=task.progress.note,
            stage="target values" if config is task.config else "second try",
        )  # fmt: skip

    rows = encode_targets(task.lm.tokenizer, [fact.wanted for fact in task.facts])
    tokens = [len(row.target_ids) for row, _ in rows]
    with task.stage("target_values"):
        return with_second_try(task.facts, tokens, task.config, collect)


def moment_plan(config: MassConfig, strength: str) -> str:
    """What a run will do, in a line."""
    passes = "one pass" if config.passes == 1 else f"{config.passes} passes"
    layers = ", ".join(map(str, config.layers))
    return (
        f"layers {layers}, {strength}, {config.value_steps} steps, {passes}. To do: second moments, target values, one "
        "solve a layer and pass."
    )


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
    tries, found = values["second_tries"], values["second_tries_found"]
    if not tries:
        return ""
    return f" {counted(tries, 'fact')} needed a second try, {found:,} of them found a value."


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


def _landing(solution: Solution) -> dict[str, Any]:
    start, end = float(solution.start_residual.mean()), float(solution.end_residual.mean())
    return {
        "residual": {"start": start, "end": end, "landed": 1 - end / start if start else 1.0},
        "layers": [
            {"layer": e.layer, "residual_before": e.residual, "relative_norm": e.relative_norm, "lost": e.lost,
            "form": e.form, "jitter": e.jitter} for e in solution.layers
        ],
    }  # fmt: skip


def _landed(metrics: dict[str, Any]) -> str:
    residual, layers = metrics["residual"], metrics["layers"]
    norms = ", ".join(f"{e['layer']}: {e['relative_norm']:.3f}" for e in layers)
    return (
        f"Residual at layer {layers[-1]['layer']}: {residual['start']:.3g} before, {residual['end']:.3g} "
        f"after ({100 * residual['landed']:.0f} % landed). ‖ΔW‖/‖W‖ by layer: {norms}."
    )


def _per_fact(values: TargetValues, solution: Solution) -> list[dict[str, Any]]:
    """What `value_facts` says, and the share of the wanted change that is left."""
    shares = (solution.end_residual / solution.start_residual.clamp_min(1e-30)).tolist()
    return [{**one, "left": share} for one, share in zip(value_facts(values), shares, strict=True)]


def _missed(facts: Sequence[Fact], values: TargetValues, solution: Solution) -> list[dict[str, Any]]:
    rows = zip(facts, values.loss, values.nll, solution.end_residual, values.converged.tolist(), strict=True)
    return [
        {"id": fact.id, "loss": float(loss), "nll": float(nll), "residual": float(end)}
        for fact, loss, nll, end, done in rows
        if not done
    ]
