"""What MEMIT and its kin do alike: target values for all facts, the layer loop with the method's rule, diagnoses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from errata.edit.guard import Guarded, failure, guarded
from errata.edit.method import Edit, EditTask
from errata.edit.settings.search_space import SearchSpace
from errata.edit.settings.value_config import ValueConfig
from errata.edit.values.collect import collect_values
from errata.edit.values.layer_loop import Rule, Solution, solve
from errata.edit.values.second_try import with_second_try
from errata.edit.values.targets import TargetValues
from errata.edit.values.value_problem import Site
from errata.edit.values.value_report import (
    diagnose,
    landing_facts,
    landing_metrics,
    landing_summary,
    missed_facts,
    value_metrics,
    value_summary,
    warn_of_last_layer,
)
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
        return _solved(task, values, rule_of(weight), spread, "block" if site == "block" else "mlp")

    name, weight = strength
    with task.stage("solve"):
        kept = guarded(task.lm, task.facts, attempt, weight, size=float(values.start_norm.mean()), name=name)
    solution, said = kept.solution, f"{name}={kept.strength:g}"
    metrics = {**landing_metrics(solution), "target_values": value_metrics(values), "guard": kept.metrics(name)}
    return Edit(
        updates={Place(layer.layer, "down"): layer.update for layer in solution.layers},
        metrics=metrics,
        summary=(landing_summary(metrics), value_summary(metrics["target_values"], len(task.facts))),
        warnings=(
            *warn_of_last_layer(task.lm, config.layers),
            *_warn_of_raised(kept, name),
            *diagnose(values, solution, said),
        ),
        failed=None if kept.excess is None else failure(kept.excess),
        not_converged=tuple(missed_facts(task.facts, values, solution)),
        per_fact=tuple(landing_facts(values, solution)),
        values=values.value.cpu(),
        kept_seconds=values.kept_seconds,
        keys={layer.layer: layer.keys for layer in solution.layers},
    )


def _solved(
    task: EditTask,
    values: TargetValues,
    rule: Rule,
    spread: Literal["even", "root"],
    reads: Literal["block", "mlp"],
) -> Solution:
    config: MassConfig = task.config
    return solve(
        task.lm, task.facts, values.value, rule, config.layers, task.prefixes, passes=config.passes,
        enough=config.enough, spread=spread, reads=reads, progress=task.progress,
    )  # fmt: skip


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

    def collect(facts: Sequence[Fact], config: ValueConfig) -> TargetValues:
        return collect_values(
            task.lm, facts, config, task.prefixes, site=site, batch_size=task.batch_size, cache=task.cache,
            progress=task.progress, notify=task.progress.note,
            stage="target values" if config is task.config else "second try", backend=task.backend,
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
