"""ROME (Meng et al., NeurIPS 2022) and r-ROME (Gupta et al. 2024): one fact, one layer, one rank-one update.

Written at once, each fact's update is computed on the model as it is and all are added; one after another, as ROME's
own code does it, is the job's business.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from errata.core.updates import WeightUpdate
from errata.edit.method import Edit, EditTask, Method
from errata.edit.methods.mass_editing import GUESSED_STEPS, VALUE_UNITS, values_of
from errata.edit.settings.presets import (
    GPT2_LARGE,
    GPT2_MEDIUM,
    GPT2_XL,
    GPT_J,
    GPT_NEOX,
    LLAMA_2,
    QWEN2,
    SMOLLM2,
    preset,
)
from errata.edit.settings.value_config import ValueConfig
from errata.edit.values.keys import KeyFrontier, bare_keys
from errata.edit.values.prompt_rows import key_rows
from errata.edit.values.targets import TargetValues
from errata.edit.values.value_report import (
    value_facts,
    value_metrics,
    value_summary,
    warn_of_last_layer,
    warn_of_stuck,
)
from errata.facts import Fact
from errata.models import LanguageModel, Place, relative_norm, weight_of

# Of what the averaged key gives at itself, so little at the bare prompt's key makes the update several times too large.
_SMALL_DENOMINATOR = 0.2


@dataclass(frozen=True, kw_only=True)
class RomeConfig(ValueConfig):
    """Hyperparameters of ROME; the defaults are the published ones.

    layers: one.  clamp: the shift of the MLP's output stays within clamp · that output's norm.
    short_prefixes: so many of `prefixes` have half their length.
    one_key: one and the same key everywhere (r-ROME). The published code whitens the key averaged over contexts, but
    divides by its product with the bare prompt's key, which now and then is tiny and wrecks the model.
    moment_tokens: corpus tokens behind the second moment.
    """

    title: ClassVar[str] = "ROME"
    one_layer: ClassVar[bool] = True

    clamp: float = 4.0
    prefixes: int = 20
    short_prefixes: int = 10
    one_key: bool = False
    moment_tokens: int = 100_000

    def domain_checks(self) -> list[tuple[str, bool]]:
        few = f"short_prefixes must be 0–prefixes ({self.prefixes}), found {self.short_prefixes}"
        return [*super().domain_checks(), (few, not 0 <= self.short_prefixes <= self.prefixes)]

    @property
    def prefix_lengths(self) -> list[int]:
        long = self.prefixes - self.short_prefixes
        return [max(2, self.prefix_tokens // 2)] * self.short_prefixes + [self.prefix_tokens] * long


@dataclass(frozen=True, kw_only=True)
class RRomeConfig(RomeConfig):
    """Hyperparameters of r-ROME: ROME's, with one key everywhere."""

    title: ClassVar[str] = "r-ROME"

    one_key: bool = True


def edit_rome(task: EditTask) -> Edit:
    """ΔW = Σ_facts u (v* − Wk)ᵀ/(kᵀu), u = C⁻¹k̄/‖C⁻¹k̄‖; k̄ is the mean key over contexts, k the bare prompt's or k̄.

    Raises NumericsError, SingularSystemError, StorageError.
    """
    config: RomeConfig = task.config
    (layer,) = config.layers
    values = values_of(task, "mlp")
    with task.stage("solve"):
        solved = _solve(task, layer, values)
    place = Place(layer, "down")
    norm = relative_norm(solved.update, weight_of(task.lm, place))
    metrics = {
        "layers": [{"layer": layer, "relative_norm": norm, "jitter": solved.jitter}],
        "smallest_denominator": float(solved.ratios.abs().min()),
        "target_values": value_metrics(values),
    }
    return Edit(
        updates={place: solved.update},
        metrics=metrics,
        summary=(
            f"‖ΔW‖/‖W‖ at layer {layer}: {norm:.3f}.",
            value_summary(metrics["target_values"], len(task.facts)),
        ),
        warnings=(
            *warn_of_last_layer(task.lm, config.layers),
            *_warn_of_denominators(task.facts, solved.ratios),
            *warn_of_stuck(values),
        ),
        not_converged=tuple(_missed(task.facts, values)),
        per_fact=tuple(value_facts(values)),
        values=values.value.cpu(),
        kept_seconds=values.kept_seconds,
        keys={layer: solved.keys.float().cpu()},
    )


@dataclass(frozen=True)
class _Solved:
    """The summed update; of each fact its averaged key, and its denominator in units of what k̄ itself would give."""

    update: WeightUpdate
    keys: Float64[Tensor, "fact d_mlp"]
    ratios: Float64[Tensor, " fact"]
    jitter: float


def _solve(task: EditTask, layer: int, values: TargetValues) -> _Solved:
    mean, bare = _keys(task, layer)
    factored = task.second_moments().cholesky(layer)
    keys = mean if task.config.one_key else bare
    directions, denominators = directions_of(mean, keys, factored.factor.to(mean.device))
    written = task.lm.down(layer)(keys.to(task.lm.dtype)).double()
    missing = values.value.to(written) - written
    ratios = denominators / (mean * directions).sum(1)
    update = WeightUpdate.from_factors(directions.cpu(), (missing / denominators[:, None]).cpu())
    return _Solved(update, mean, ratios, factored.jitter)


def directions_of(
    means: Float64[Tensor, "fact d_mlp"], keys: Float64[Tensor, "fact d_mlp"], factor: Float64[Tensor, "d_mlp d_mlp"]
) -> tuple[Float64[Tensor, "fact d_mlp"], Float64[Tensor, " fact"]]:
    """u = C⁻¹k̄/‖C⁻¹k̄‖ of each averaged key, and the denominator kᵀu at the key where the value is wanted.

    `factor` is C's Cholesky factor. Where k is k̄ itself, kᵀu ≥ ‖k̄‖·λ_min/λ_max of C > 0; another key's may vanish.
    """
    whitened = torch.cholesky_solve(means.T, factor).T
    directions = whitened / whitened.norm(dim=1, keepdim=True)
    return directions, (keys * directions).sum(1)


@torch.no_grad()
def _keys(task: EditTask, layer: int) -> tuple[Float64[Tensor, "fact d_mlp"], Float64[Tensor, "fact d_mlp"]]:
    """Each fact's key as the plain mean over contexts, and its bare prompt's."""
    lm, facts = task.lm, task.facts
    contexts = len(task.prefixes)
    every = KeyFrontier(lm, key_rows(lm, facts, task.prefixes), len(facts), bare_weight=1 / contexts)
    mean = every.advance(layer, layer)[0].double()
    if contexts == 1:
        return mean, mean
    return mean, bare_keys(lm, facts, layer).double()


def _warn_of_denominators(facts: tuple[Fact, ...], ratios: Float[Tensor, " fact"]) -> list[str]:
    small = [i for i, ratio in enumerate(ratios.abs().tolist()) if ratio < _SMALL_DENOMINATOR]
    if not small:
        return []
    worst = min(small, key=lambda i: abs(float(ratios[i])))
    return [
        f"{len(small)} of {len(facts)} facts have a bare key that is nearly orthogonal to their averaged one (worst: "
        f"{facts[worst].text!r}, {abs(float(ratios[worst])):.2g} of it): their updates are blown up as much. r-rome "
        "divides by neither."
    ]


def _missed(facts: tuple[Fact, ...], values: TargetValues) -> list[dict[str, object]]:
    rows = zip(facts, values.loss.tolist(), values.nll.tolist(), values.converged.tolist(), strict=True)
    return [{"id": fact.id, "loss": loss, "nll": nll} for fact, loss, nll, done in rows if not done]


def guess_layer(lm: LanguageModel) -> int:
    """A quarter of the way up, about where ROME's measured layers are (17 of 48, 8 of 24, 5 of 28 and 32)."""
    return min(max(round(0.25 * lm.num_layers), 0), max(lm.num_layers - 2, 0))


def _plan(config: RomeConfig) -> str:
    return (
        f"layer {config.layers[0]}, {config.value_steps} steps. To do: second moment, target values, one solve for all."
    )


def _rome(layer: int, **fields: Any) -> RomeConfig:
    return RomeConfig(layers=(layer,), **fields)


# Of fewer contexts than published (20, half of them short), for a quarter of the time.
_ROME_SMOLLM2 = {"prefixes": 5, "short_prefixes": 0, "moment_tokens": 10_000, "prefix_source": "fixed"}
# Their runs leave the second moment out (u = k̄); here it is used, as the paper says.
_ROME_EASYEDIT = {"value_steps": 25, "weight_decay": 1e-3}
ROME_PRESETS = (
    preset("SmolLM2-135M", "measured with 25 single edits", SMOLLM2, _rome(5, **_ROME_SMOLLM2)),
    preset("GPT-2 medium", "ROME", GPT2_MEDIUM, _rome(8, clamp=3.0)),
    preset("GPT-2 large", "ROME", GPT2_LARGE, _rome(12)),
    preset("GPT-2 XL", "ROME", GPT2_XL, _rome(17)),
    preset("GPT-J 6B", "ROME", GPT_J, _rome(5)),
    preset("GPT-NeoX 20B", "ROME", GPT_NEOX, _rome(15)),
    preset("Llama-2-7B", "EasyEdit", LLAMA_2, _rome(5, **_ROME_EASYEDIT)),
    preset("Qwen2-7B, Qwen2.5-7B", "EasyEdit", QWEN2, _rome(5, **_ROME_EASYEDIT)),
)
# The same settings, with one key everywhere.
R_ROME_PRESETS = tuple(
    replace(row, config=RRomeConfig(**{**vars(row.config), "one_key": True})) for row in ROME_PRESETS
)


ROME = Method(
    name="rome",
    title="ROME (Meng et al. 2022)",
    writes="One MLP output matrix: a rank-one update a fact that gives its key the new value.",
    paper="Meng et al. 2022, Locating and Editing Factual Associations in GPT, arXiv:2202.05262",
    presets=ROME_PRESETS,
    config_type=RomeConfig,
    guess=lambda lm: RomeConfig(layers=(guess_layer(lm),), **GUESSED_STEPS),
    certain=frozenset({"layers"}),
    guessed=frozenset(GUESSED_STEPS),
    units=VALUE_UNITS,
    plan=_plan,
    edit=edit_rome,
    uses_moments=lambda _: True,
    prepare=lambda task: values_of(task, "mlp"),
    uses_prefixes=True,
)
R_ROME = Method(
    name="r-rome",
    title="r-ROME (Gupta et al. 2024)",
    writes=(
        "As ROME, with the same averaged key in both places where the published code mixes two; it does not blow up."
    ),
    paper="Gupta et al. 2024, Rebuilding ROME, arXiv:2403.07175",
    presets=R_ROME_PRESETS,
    config_type=RRomeConfig,
    guess=lambda lm: RRomeConfig(layers=(guess_layer(lm),), **GUESSED_STEPS),
    certain=frozenset({"layers"}),
    guessed=frozenset(GUESSED_STEPS),
    units=VALUE_UNITS,
    plan=_plan,
    edit=edit_rome,
    uses_moments=lambda _: True,
    prepare=lambda task: values_of(task, "mlp"),
    uses_prefixes=True,
)
